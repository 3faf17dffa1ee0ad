"""Motions of Gaussians: rigid truths, exact stillness, files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from a_few_gaussians import some
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.motion import Keys, RigidBases, Table, load_motion, save_motion
from evlm.scene.motion.turns import averaged, matrices, mixed, product


def half(n: int = 50) -> Tensor:
    return torch.arange(n) % 2 == 0


def turn(axis: int, angle: float) -> Tensor:
    found = torch.zeros(4, dtype=torch.float64)
    found[0], found[1 + axis] = math.cos(angle / 2), math.sin(angle / 2)
    return found


def axes(gaussians: Gaussians) -> Tensor:
    """[N, 3, 3]: covariances, what a turn of a Gaussian comes down to."""
    whole = matrices(gaussians.quats) * gaussians.scales[:, None]
    return whole @ whole.mT


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8).filter(lambda v: max(map(abs, v)) > 0.1))
def test_turns_follow_their_matrices(numbers: list[float]) -> None:
    one, other = torch.tensor(numbers, dtype=torch.float64).reshape(2, 4) + 1e-3
    ab = product(torch.nn.functional.normalize(one, dim=0), torch.nn.functional.normalize(other, dim=0))
    assert torch.allclose(matrices(ab), matrices(one) @ matrices(other), atol=1e-9)
    assert torch.allclose(mixed(one, other, 0.0), torch.nn.functional.normalize(one, dim=0), atol=1e-9)
    assert torch.allclose(matrices(mixed(one, -one, 0.3)), matrices(one), atol=1e-9), "-q is the same turn"


def test_keys_say_between_which_a_time_lies() -> None:
    keys = Keys(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    assert keys.between(0.0) == (0, 0, 0.0) and keys.between(1.0) == (2, 2, 0.0)
    assert keys.between(0.5) == (1, 2, 0.0)
    assert keys.between(0.2) == (0, 1, pytest.approx(0.25))
    assert len(Keys.even(1)) == 1 and Keys.even(3).times.tolist() == [0, 0.5, 1]
    with pytest.raises(SceneError, match=r"time 2 is 0\.2, not later"):
        Keys(torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64))
    with pytest.raises(SceneError, match=r"within 0\.\.1"):
        Keys(torch.tensor([0.1, 1.5], dtype=torch.float64))
    with pytest.raises(SceneError, match=r"time 1\.5"):
        keys.between(1.5)


def test_at_rest_nothing_changes_and_what_is_still_keeps_its_bits() -> None:
    gaussians = some()
    motion = RigidBases.begin(gaussians, half(), Keys.even(4), count=3)
    at = motion.at(gaussians, 0.4)
    assert torch.allclose(at.means, gaussians.means, atol=1e-6)
    assert torch.allclose(axes(at), axes(gaussians), atol=1e-6)
    draw = torch.Generator().manual_seed(1)
    for tensor in motion.learned().values():
        tensor += torch.randn(tensor.shape, generator=draw)
    at = motion.at(gaussians, 0.4)
    assert (at.means[half()] != gaussians.means[half()]).any(1).all()
    for name, tensor in at.tensors().items():
        assert torch.equal(tensor[~half()], gaussians.tensors()[name][~half()])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_base_is_a_rigid_motion(axis: int) -> None:
    """At a key the rows are turned about the base's centre and shifted, their covariances with them."""
    gaussians = some().to(torch.float64)
    everything = torch.ones(len(gaussians), dtype=torch.bool)
    motion = RigidBases.begin(gaussians, everything, Keys.even(3), count=1)
    motion.turns[0, 1], motion.shifts[0, 1] = turn(axis, 0.7), torch.tensor([0.3, -0.2, 0.5])
    rotation = matrices(turn(axis, 0.7))
    at = motion.at(gaussians, 0.5)
    centre = motion.centres[0]
    wanted = (gaussians.means - centre) @ rotation.T + centre + torch.tensor([0.3, -0.2, 0.5])
    assert torch.allclose(at.means, wanted, atol=1e-12)
    assert torch.allclose(axes(at), rotation @ axes(gaussians) @ rotation.T, atol=1e-12)


def test_rows_of_two_bases_go_their_own_ways_and_gradients_reach_all() -> None:
    gaussians = some().to(torch.float64)
    apart = torch.cat([gaussians.means[:25] - 20, gaussians.means[25:] + 20])
    gaussians = Gaussians(**{**gaussians.tensors(), "means": apart})
    motion = RigidBases.begin(gaussians, torch.ones(50, dtype=torch.bool), Keys.even(2), count=2)
    left = int((motion.centres[:, 0] < 0).nonzero())
    motion.weights.mul_(40)  # each row by its base alone
    motion.shifts[left, 1, 0] = 3.0
    at = motion.at(gaussians, 1.0)
    assert torch.allclose(at.means[:25, 0], apart[:25, 0] + 3, atol=1e-6)
    assert torch.allclose(at.means[25:], apart[25:], atol=1e-6)
    motion.weights.div_(40)
    leaves = {name: tensor.requires_grad_() for name, tensor in motion.learned().items()}
    moved = motion.at(gaussians, 0.3)
    (moved.means.square().sum() + axes(moved)[:, 0, 1].sum()).backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves.values())


class OnCard(Tensor):
    """A tensor as on CUDA, where sums of many come in no fixed order."""

    def index_add(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().index_add(*args, **kwargs) + 1e-6 * torch.rand(self.shape)

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


def test_a_motion_begins_with_the_same_bits_on_a_card() -> None:
    """Else a fit that was stopped takes its own state for another fit's."""
    plain = some(50)
    there = replace(plain, means=plain.means.as_subclass(OnCard))
    begun = [RigidBases.begin(each, half(), Keys.even(3), 4).tensors() for each in (plain, there, there)]
    for name, tensor in begun[0].items():
        assert all(torch.equal(tensor, other[name]) for other in begun[1:]), name


def test_averages_lie_on_one_side() -> None:
    turns = torch.stack([turn(2, 0.2), -turn(2, 0.4)])
    found = averaged(turns, torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64))
    assert torch.allclose(matrices(found[0]), matrices(turn(2, 0.3)), atol=1e-4)
    assert torch.allclose(found[1], turns[0])


def test_a_table_has_the_bits_of_its_frames() -> None:
    first = some()
    frames = [
        Gaussians(**{**first.tensors(), "means": first.means + 0.1 * number * half()[:, None]})
        for number in range(3)
    ]
    motion = Table.of(frames, Keys.even(3))
    assert torch.equal(motion.moving, half())
    for number, frame in enumerate(frames):
        at = motion.at(first, number / 2)
        assert all(torch.equal(at.tensors()[name], tensor) for name, tensor in frame.tensors().items())
    assert torch.allclose(motion.at(first, 0.25).means, (frames[0].means + frames[1].means) / 2, atol=1e-6)
    with pytest.raises(SceneError, match="2 frames for 3 times"):
        Table.of(frames[:2], Keys.even(3))
    with pytest.raises(SceneError, match="frame 1 has 49 Gaussians"):
        Table.of([first, first.rows(torch.arange(49)), first], Keys.even(3))
    with pytest.raises(SceneError, match="frame 2 has other logits"):
        other = Gaussians(**{**first.tensors(), "logits": first.logits + 1})
        Table.of([first, first, other], Keys.even(3))


def motions() -> list[RigidBases | Table]:
    gaussians = some()
    bases = RigidBases.begin(gaussians, half(), Keys.even(4), count=3)
    for number, tensor in enumerate(bases.learned().values()):
        tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
    frames = [Gaussians(**{**gaussians.tensors(), "means": gaussians.means + n}) for n in range(2)]
    return [bases, Table.of(frames, Keys.even(2))]


@pytest.mark.parametrize("motion", motions(), ids=["bases", "table"])
def test_a_file_gives_the_same_motion(motion: RigidBases | Table, tmp_path: Path) -> None:
    path, gaussians = tmp_path / "motion.safetensors", some()
    save_motion(path, motion)
    first = path.read_bytes()
    for _ in range(3):
        save_motion(path, motion)
        assert path.read_bytes() == first
    again = load_motion(path, len(gaussians))
    assert again.kind == motion.kind and torch.equal(again.keys.times, motion.keys.times)
    for time in (0.0, 0.37, 1.0):
        one, other = motion.at(gaussians, time), again.at(gaussians, time)
        assert all(
            torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
        )
    with pytest.raises(SceneError, match="the scene has 49"):
        load_motion(path, 49)
    with pytest.raises(SceneError, match=r"of 50 Gaussians, the scene has 10"):
        motion.at(gaussians.rows(torch.arange(10)), 0.5)


def test_files_that_are_no_motion_are_named(tmp_path: Path) -> None:
    good = tmp_path / "motion.safetensors"
    save_motion(good, motions()[0])
    tensors = load_file(good)
    cases = [
        ({name: t for name, t in tensors.items() if name != "turns"}, "the motion has no turns"),
        ({**tensors, "shifts": tensors["shifts"][:, :2]}, "shifts are"),
        ({**tensors, "weights": tensors["weights"] * math.nan}, "weights holds numbers that are not finite"),
        ({**tensors, "turns": tensors["turns"].int()}, r"turns is torch\.int32"),
        ({**tensors, "times": tensors["times"].flip(0)}, "not later than the one before"),
        ({**tensors, "moving": tensors["moving"].float()}, "the scene has 50"),
        ({**tensors, "centres": tensors["centres"][0, 0]}, r"centres are \[\]"),
    ]
    bad = tmp_path / "bad.safetensors"
    for changed, said in cases:
        save_file(
            {name: t.contiguous() for name, t in changed.items()},
            bad,
            {"format": "evlm-motion-1", "kind": "bases"},
        )
        with pytest.raises(SceneError, match=said):
            load_motion(bad, 50)
    for kind, said in (("spline", "no motion of ours"), ("hexplane", "the motion has no low")):
        save_file(tensors, bad, {"format": "evlm-motion-1", "kind": kind})
        with pytest.raises(SceneError, match=said):
            load_motion(bad, 50)
    bad.write_bytes(good.read_bytes()[:100])
    with pytest.raises(SceneError, match="cannot be read"):
        load_motion(bad, 50)
    with pytest.raises(SceneError, match="a pickle may run code"):
        load_motion(tmp_path / "deformation.pth", 50)
