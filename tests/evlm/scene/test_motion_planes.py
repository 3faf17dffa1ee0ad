"""Motion in planes of place and time: at rest nothing moves, motions that are known come out of known planes,
and what does not keep its shape is what rigid bases cannot show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from a_few_gaussians import some
from torch import Tensor

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.motion import HexPlane, Keys, RigidBases, load_motion, save_motion


def half(n: int = 50) -> Tensor:
    return torch.arange(n) % 2 == 0


def known(gaussians: Gaussians, later: Tensor, way: tuple[float, ...]) -> HexPlane:
    """Of later [3, K, S], alike in all channels: rows go by `way`, in shares of the box, times the mean of
    the three pairs' features, which must not be negative."""
    motion = HexPlane.begin(gaussians, half(), Keys.even(later.shape[1]), nodes=later.shape[2])
    motion.places.fill_(1.0)
    motion.later.copy_(later[:, None].expand_as(motion.later))
    motion.inward.fill_(1 / len(motion.inward))
    motion.outward.copy_(torch.tensor(way).expand(motion.outward.shape) / len(motion.outward))
    return motion


def test_at_rest_nothing_moves_and_what_is_still_keeps_its_bits() -> None:
    gaussians = some()
    motion = HexPlane.begin(gaussians, half(), Keys.even(4))
    at = motion.at(gaussians, 0.4)
    assert torch.equal(at.means, gaussians.means)
    assert torch.allclose(at.quats, gaussians.quats, atol=1e-6)
    draw = torch.Generator().manual_seed(1)
    motion.outward.normal_(generator=draw)
    at = motion.at(gaussians, 0.4)
    assert (at.means[half()] != gaussians.means[half()]).any(1).all()
    for name, tensor in at.tensors().items():
        assert torch.equal(tensor[~half()], gaussians.tensors()[name][~half()])


@pytest.mark.parametrize("time", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_planes_that_rise_with_time_are_an_even_shift(time: float) -> None:
    """Between keys, too."""
    gaussians, steps = some(), torch.linspace(0, 1, 3)
    later = steps[None, :, None].expand(3, 3, 5)
    motion = known(gaussians, later, (0.5, 0.0, -0.25, 0, 0, 0))
    gone = (motion.at(gaussians, time).means - gaussians.means)[half()]
    wanted = torch.tensor([0.5, 0.0, -0.25]) * time * motion.size.max()
    assert torch.allclose(gone, wanted.expand_as(gone), atol=1e-5)


def test_a_turn_is_the_one_that_is_said() -> None:
    gaussians = some()
    later = torch.ones(3, 2, 4)
    motion = known(gaussians, later, (0, 0, 0, 0, 0, 1.0))  # w and z alike: a quarter about z
    at = motion.at(gaussians, 0.7)
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats[half()], dim=1).unbind(1)
    wanted = torch.stack([w - z, x - y, y + x, z + w], 1) / 2**0.5
    found = torch.nn.functional.normalize(at.quats[half()], dim=1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_squash_is_no_rigid_motion_but_one_of_the_planes() -> None:
    """z grows by .3 of its height over the floor: exact in the planes; one rigid motion leaves .07 or more of
    the rows' height, the best that a shift and a turn can do."""
    gaussians = some()
    height = torch.linspace(0, 1, 6)
    later = torch.zeros(3, 2, 6)
    later[0, 1] = 3 * height  # the pair of xy and zt alone, and a third of the mean
    motion = known(gaussians, later, (0, 0, 0.3, 0, 0, 0))
    rest = gaussians.means[half()]
    over = rest[:, 2] - motion.low[2]
    wanted = rest.clone()
    wanted[:, 2] += 0.3 * over * motion.size.max() / motion.size[2]
    assert torch.allclose(motion.at(gaussians, 1.0).means[half()], wanted, atol=1e-5)
    halfway = motion.at(gaussians, 0.5).means[half()]
    assert torch.allclose(halfway, (rest + wanted) / 2, atol=1e-5)
    one, other = rest - rest.mean(0), wanted - wanted.mean(0)  # the best rigid motion, by Kabsch
    u, _, v = torch.linalg.svd(one.T @ other)
    sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ v).sign())]))
    assert (one @ u @ sign @ v - other).norm(dim=1).mean() > 0.07 * over.mean()


def test_rows_that_stay_keep_their_ways_and_a_file_all_of_it(tmp_path: Path) -> None:
    gaussians = some()
    motion = HexPlane.begin(gaussians, half(), Keys.even(3), nodes=4)
    motion.outward.normal_(generator=torch.Generator().manual_seed(2))
    home = torch.tensor([4, 3, -1, 8])
    fewer = motion.taken(home)
    assert fewer.moving.tolist() == [True, False, False, True]
    at = fewer.at(gaussians.rows(home.clamp(min=0)), 0.6)
    assert torch.allclose(at.means[0], motion.at(gaussians, 0.6).means[4], atol=1e-6)
    save_motion(tmp_path / "motion.safetensors", motion)
    again = load_motion(tmp_path / "motion.safetensors", 50)
    assert isinstance(again, HexPlane) and again.kind == "hexplane"
    for name, tensor in motion.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    for name, wrong in (
        ("later", motion.later[:, :, :2]),
        ("size", torch.zeros(3)),
        ("places", torch.ones(2)),
    ):
        with pytest.raises(SceneError, match=name):
            replace(motion, **{name: wrong})
    with pytest.raises(SceneError, match="nothing of the scene moves"):
        HexPlane.begin(gaussians, torch.zeros(50, dtype=torch.bool), Keys.even(2))


def test_keys_behind_the_last_open_one_are_as_it_is() -> None:
    gaussians = some()
    for motion in (
        HexPlane.begin(gaussians, half(), Keys.even(5)),
        RigidBases.begin(gaussians, half(), Keys.even(5)),
    ):
        draw = torch.Generator().manual_seed(3)
        for tensor in motion.learned().values():
            tensor += torch.randn(tensor.shape, generator=draw)
        before = motion.at(gaussians, 0.5).means
        motion.follow(2)
        assert torch.equal(motion.at(gaussians, 0.5).means, before)
        assert torch.allclose(motion.at(gaussians, 1.0).means, before, atol=1e-6)
