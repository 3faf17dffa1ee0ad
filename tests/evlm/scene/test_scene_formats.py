"""Each format of Gaussians gives back what it was given, within the quanta that it promises."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_examples import apart, same_bits, some_gaussians, turned_apart

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.files import LoadedGaussians, load_gaussians, save_gaussians
from evlm.scene.files.compressed_ply import _curve
from evlm.scene.gaussians import SH_C0


@st.composite
def drawn(draw: st.DrawFn) -> Gaussians:
    """Gaussians whose numbers range as far as the formats say that they hold them, ends included."""
    n, degree = draw(st.integers(1, 20)), draw(st.integers(0, 3))
    span = draw(st.sampled_from([0.0, 0.01, 1.0, 100.0, 2000.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    extremes = draw(st.booleans())

    def numbers(*shape: int, low: float, high: float) -> torch.Tensor:
        values = low + (high - low) * torch.rand(shape, generator=generator)
        if not extremes:
            return values
        where = torch.rand(shape, generator=generator)
        return torch.where(where < 0.2, low, torch.where(where > 0.8, high, values)).float()

    quats = numbers(n, 4, low=-1, high=1)
    quats[quats.norm(dim=1) < 0.1] = torch.tensor([1.0, 0, 0, 0])
    sh = numbers(n, (degree + 1) ** 2, 3, low=-127 / 128, high=127 / 128)
    means, log_scales = numbers(n, 3, low=-span, high=span), numbers(n, 3, low=-10, high=5)
    return Gaussians(means, log_scales, quats, numbers(n, low=-5, high=5), sh)


few = settings(max_examples=25)


def through(name: str, g: Gaussians) -> tuple[LoadedGaussians, tuple[str, ...]]:
    with TemporaryDirectory() as folder:
        notes = save_gaussians(Path(folder, name), g)
        return load_gaussians(Path(folder, name)), notes


@few
@given(drawn())
def test_a_ply_gives_every_bit_back(g: Gaussians) -> None:
    assert same_bits(through("a.ply", g)[0].gaussians, g)


@few
@given(drawn())
def test_a_splat_keeps_position_and_extent_and_rounds_the_rest_to_bytes(g: Gaussians) -> None:
    loaded, notes = through("a.splat", g)
    back = loaded.gaussians
    assert torch.equal(back.means, g.means) and apart(back.log_scales, g.log_scales) < 2e-6
    assert apart(back.opacities, g.opacities) < 0.5 / 255 + 1e-6
    assert apart(back.colours, g.colours.clamp(0, 1)) < 0.5 / 255 + 1e-6
    assert turned_apart(back.quats, g.quats) < 2.5 / 128  # 255 stands for 127 / 128, too
    assert len(notes) == (2 if g.degree else 1) and back.degree == 0


@few
@given(drawn())
def test_an_spz_rounds_within_its_quanta(g: Gaussians) -> None:
    loaded, notes = through("a.spz", g)
    back = loaded.gaussians
    assert apart(back.means, g.means) <= 0.5 / 4096 * 1.001 + 1e-7 * float(g.means.abs().max())
    assert apart(back.log_scales, g.log_scales) <= 0.5 / 16 + 1e-6
    assert apart(back.opacities, g.opacities) < 0.5 / 255 + 1e-6
    assert apart(back.sh[:, 0], g.sh[:, 0]) <= 0.5 / (0.15 * 255) + 1e-6
    if g.degree:
        assert apart(back.sh[:, 1:], g.sh[:, 1:]) <= 0.5 / 128 + 1e-6
    assert turned_apart(back.quats, g.quats) < 4 / 511
    assert notes == ("a .spz rounds every number; positions to 1/4096",)


@few
@given(drawn())
def test_a_compressed_ply_rounds_within_its_chunk(g: Gaussians) -> None:
    loaded, _ = through("a.compressed.ply", g)
    order = _curve(g.means.numpy())
    assert sorted(order.tolist()) == list(range(len(g)))
    back, g = loaded.gaussians, g.rows(torch.from_numpy(order))
    steps = torch.tensor([2047.0, 1023.0, 2047.0])
    for ours, theirs in ((back.means, g.means), (back.log_scales, g.log_scales)):
        width = theirs.amax(0) - theirs.amin(0)
        assert ((ours - theirs).abs() <= width / steps * 0.5001 + 1e-6 * theirs.abs().amax(0)).all()
    width = (g.colours.amax(0) - g.colours.amin(0)).max()
    assert apart(back.colours, g.colours) <= float(width) * 0.5001 / 255 + 1e-6
    assert apart(back.opacities, g.opacities) < 0.5 / 255 + 1e-6
    assert turned_apart(back.quats, g.quats) < 4 / 1023
    if g.degree:
        assert apart(back.sh[:, 1:], g.sh[:, 1:]) <= 4 / 256 + 1e-6


def test_chunks_of_256_hold_their_own_ranges() -> None:
    """A scene of 600 rows is three chunks, near ones together: each is rounded far finer than the whole."""
    g = some_gaussians(600, degree=3)
    back = through("a.compressed.ply", g)[0].gaussians
    order = torch.cdist(back.means, g.means).argmin(1)
    assert sorted(order.tolist()) == list(range(600))
    assert apart(back.means, g.means[order]) < 0.01 * float(g.means.abs().max()) / 5
    assert apart(back.sh[:, 1:], g.sh[order, 1:]) <= 4 / 256 + 1e-6
    assert turned_apart(back.quats, g.quats[order]) < 4 / 1023


@pytest.mark.parametrize("name", ["a.splat", "a.spz", "a.compressed.ply"])
def test_what_was_rounded_once_is_not_rounded_again(name: str) -> None:
    once = through(name, some_gaussians(40, degree=2))[0].gaussians
    twice = through(name, once)[0].gaussians
    assert apart(once.opacities, twice.opacities) < 1e-6 and apart(once.log_scales, twice.log_scales) < 1e-5
    assert apart(once.colours, twice.colours) < 1e-6 and apart(once.sh, twice.sh) < 1e-6
    assert apart(once.means, twice.means) < 1e-5


def test_opacities_of_0_and_1_stay_finite_and_come_back() -> None:
    g = some_gaussians(2, degree=0)
    g.logits[:] = torch.tensor([-40.0, 40.0])
    for name in ("a.splat", "a.spz", "a.compressed.ply"):
        back = through(name, g)[0].gaussians
        assert torch.isfinite(back.logits).all()
        assert apart(back.opacities[back.logits.argsort()], torch.tensor([0.0, 1.0])) < 1e-5


def test_an_spz_gives_up_fineness_for_reach_and_says_so(tmp_path: Path) -> None:
    g = some_gaussians(3)
    g.means[0, 0] = 5000.0
    back, notes = through("a.spz", g)
    assert notes == ("a .spz rounds every number; positions to 1/1024",)
    assert apart(back.gaussians.means, g.means) <= 0.5 / 1024
    g.means[0, 0] = 1e7
    with pytest.raises(SceneError, match=r"lies 1e\+07 from the origin"):
        save_gaussians(tmp_path / "a.spz", g)


def test_a_splat_holds_any_extent_and_colour() -> None:
    g = some_gaussians(3, degree=0)
    g.log_scales[0] = torch.tensor([200.0, -200.0, 0.0])
    g.sh[0] = 9 / SH_C0
    back = through("a.splat", g)[0].gaussians
    assert back.finite().all() and math.isclose(float(back.log_scales[0, 0]), 88.7, abs_tol=0.2)
    assert float(back.log_scales[0, 1]) == -20 and torch.allclose(back.colours[0], torch.ones(3))
