"""The rasterizer is its equations: against a loop over pixels, against autograd, and where scenes are odd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_raster import GOLDEN, dense, front, golden_scenes, looped, some

from evlm.errors import SceneError
from evlm.scene import Camera, Gaussians
from evlm.scene.raster import Rendering, rasterize, tiles

SKY = torch.tensor([0.2, 0.4, 0.6])


def off(rendering: Rendering, expected: tuple[torch.Tensor, ...]) -> float:
    """The largest difference of colours, alpha, and depth by how much there is (in 4 units)."""
    image, alpha, depth = expected
    differences = [rendering.image - image, rendering.alpha - alpha, (rendering.depth - depth) * alpha / 4]
    return max(float(each.detach().abs().max()) for each in differences if each.numel())


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_picture_is_that_of_the_loop_over_pixels(degree: int, antialias: bool) -> None:
    g, camera = some(60, 1, degree), front(21, 19)
    expected = looped(g, camera, SKY, degree=degree, antialias=antialias)
    assert off(rasterize(g, camera, SKY, antialias=antialias), expected) <= 2e-6
    double = rasterize(g.to(torch.float64), camera, SKY, antialias=antialias)
    assert double.image.dtype == torch.float64 and off(double, expected) <= 1e-9


def test_a_lower_degree_leaves_the_higher_harmonics_out() -> None:
    g, camera = some(20, 2, 3), front(16, 16)
    low = rasterize(g, camera, sh_degree=1)
    assert torch.equal(low.image, rasterize(g.with_degree(1), camera).image)
    assert not torch.allclose(low.image, rasterize(g, camera).image)


def test_channels_take_the_place_of_colours() -> None:
    g, camera = some(30, 3), front(20, 11)
    channels = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    drawn = rasterize(g, camera, channels=channels)
    assert tuple(drawn.image.shape) == (11, 20, 7)
    assert off(drawn, looped(g, camera, channels=channels)) <= 2e-6


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_are_those_of_autograd_through_every_alpha(
    dtype: torch.dtype, bar: float, antialias: bool
) -> None:
    g, camera = some(150, 4, 3), front(24, 17)
    ours = g.to(dtype).map(lambda tensor: tensor.clone().requires_grad_())
    plain = g.to(torch.float64).map(lambda tensor: tensor.clone().requires_grad_())
    pull = torch.Generator().manual_seed(1)
    by_image = torch.randn(17, 24, 3, generator=pull)
    by_alpha, by_depth = torch.randn(2, 17, 24, generator=pull)
    drawn = rasterize(ours, camera, antialias=antialias)
    there = drawn.alpha.detach() > 0.01
    image, alpha, depth = dense(plain, camera, degree=3, antialias=antialias)
    for i, a, d in ((drawn.image, drawn.alpha, drawn.depth), (image, alpha, depth)):
        loss = (i * by_image).sum() + (a * by_alpha).sum() + (d * by_depth)[there].sum()
        loss.backward()
    for name, tensor in ours.tensors().items():
        expected = plain.tensors()[name].grad
        assert tensor.grad is not None and expected is not None and expected.abs().max() > 0.01
        assert (tensor.grad - expected).abs().max() <= bar * expected.abs().max(), name


def test_gradients_of_channels_alone_are_the_weights_and_leave_the_rest() -> None:
    """What votes and paint back ask: sums over pixels of T alpha, times the mask."""
    g, camera = some(80, 5).to(torch.float64), front()
    mask = (torch.rand(24, 32, generator=torch.Generator().manual_seed(2)) > 0.5).double()
    channels = torch.zeros(80, 2, dtype=torch.float64, requires_grad=True)
    pulled = torch.stack([mask, torch.ones_like(mask)], -1)
    (ours,) = torch.autograd.grad(rasterize(g, camera, channels=channels).image, channels, pulled)
    (plain,) = torch.autograd.grad(dense(g, camera, channels)[0], channels, pulled)
    assert (ours - plain).abs().max() <= 1e-9
    assert torch.allclose(ours[:, 1].sum(), rasterize(g, camera).alpha.sum())


def one(mean: tuple[float, float, float], scale: float = 0.1, logit: float = 2.0) -> Gaussians:
    return Gaussians(
        means=torch.tensor([mean]).float(),
        log_scales=torch.full((1, 3), scale).log(),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        logits=torch.tensor([logit]),
        sh=torch.ones(1, 1, 3),
    )


@pytest.mark.parametrize(
    ("why", "g"),
    [
        ("off the picture", one((50.0, 0.0, 0.0))),
        ("behind the camera", one((0.0, 0.0, -9.0))),
        ("in the camera's centre", one((0.0, 0.0, -4.0))),
        ("too thin to be seen", one((0.0, 0.0, 0.0), logit=-9.0)),
        ("not a number", one((float("nan"), 0.0, 0.0))),
        ("endless", one((0.0, 0.0, 0.0), scale=float("inf"))),
        ("none at all", some(0)),
    ],
)
def test_what_cannot_be_seen_is_background(why: str, g: Gaussians) -> None:
    straight = replace(front(), view=front().view.clone())
    straight.view[:3, :3] = torch.eye(3)
    leaves = g.map(lambda tensor: tensor.clone().requires_grad_())
    drawn = rasterize(leaves, straight, SKY)
    assert torch.equal(drawn.image, SKY.expand(24, 32, 3)), why
    assert not drawn.alpha.any() and not drawn.depth.any() and not drawn.meta.drawn.any()
    drawn.image.sum().backward()
    assert leaves.sh.grad is None or not leaves.sh.grad.any()


def test_one_without_size_is_a_dot_and_a_huge_one_covers_everything() -> None:
    dot, huge = one((0, 0, 0), scale=0.0), one((0, 0, 0), scale=1000.0, logit=0.0)
    for g in (dot, huge):
        leaves = g.map(lambda tensor: tensor.clone().requires_grad_())
        drawn = rasterize(leaves, front())
        drawn.image.sum().backward()
        assert all(torch.isfinite(t.grad).all() for t in leaves.tensors().values() if t.grad is not None)
    assert 1 <= (rasterize(dot, front()).alpha > 0).sum() <= 16
    assert (rasterize(huge, front()).alpha - 0.5).abs().max() < 1e-3


def test_a_long_thin_one_keeps_its_shape() -> None:
    """Its determinant is 1e-7 of its covariance's entries' products: plain float32 has no digit of it."""
    g = one((0.0, 0.0, 0.0), logit=3.0)
    g.log_scales[:] = torch.tensor([[30.0, 1e-4, 1e-4]]).log()
    g.quats[:] = torch.tensor([[0.9238795, 0.0, 0.0, 0.3826834]])
    assert off(rasterize(g, front()), looped(g, front())) <= 5e-4


@pytest.mark.parametrize("x", [8.0, 7.999, 8.001, 12.0, 15.999])
def test_nothing_is_lost_at_the_borders_of_tiles(x: float) -> None:
    camera = front(24, 24)
    camera.view[:3, :3] = torch.eye(3)
    g = one(((x - camera.cx) * 4 / camera.fx, (x - camera.cy) * 4 / camera.fy, 0.0), scale=0.4)
    assert off(rasterize(g, camera), looped(g, camera)) <= 2e-6


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8, 8), (9, 7), (17, 3)])
def test_pictures_of_any_size(width: int, height: int) -> None:
    g, camera = some(40, 6).to(torch.float64), front(width, height, focal=9.0)
    drawn = rasterize(g, camera)
    assert tuple(drawn.image.shape) == (height, width, 3) and tuple(drawn.depth.shape) == (height, width)
    assert off(drawn, looped(g, camera)) <= 1e-9


def test_of_equal_depth_the_first_row_is_in_front() -> None:
    near, far = one((0, 0, 0), 1.0, 9.0), one((0, 0, 0), 1.0, 9.0)
    near.sh[:], far.sh[:] = 1.0, -1.0
    both = [Gaussians(**{k: torch.cat([a.tensors()[k], b.tensors()[k]]) for k in a.tensors()})
            for a, b in ((near, far), (far, near))]  # fmt: skip
    bright, dark = (float(rasterize(g, front()).image.max()) for g in both)
    assert bright > 0.7 and dark < 0.4


def test_a_finished_pixel_takes_no_more_even_rounds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """More opaque Gaussians in a row than one round holds, none visible behind the second."""
    from evlm.scene.raster import blend

    n = 70
    g = Gaussians(
        means=torch.stack([torch.zeros(n), torch.zeros(n), torch.linspace(-1, 1, n)], 1),
        log_scales=torch.zeros(n, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4),
        logits=torch.full((n,), 1.5),
        sh=torch.randn(n, 1, 3, generator=torch.Generator().manual_seed(3)),
    )
    whole = rasterize(g, front(16, 16))
    assert off(whole, looped(g, front(16, 16))) <= 2e-6
    monkeypatch.setattr(blend, "ROUND", 3)
    assert (rasterize(g, front(16, 16)).image - whole.image).abs().max() <= 1e-6


def test_the_memory_is_bounded_by_pieces_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    g, camera = some(90, 7).to(torch.float64), front(40, 33)
    pull = torch.randn(33, 40, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        leaf = replace(g, means=g.means.clone().requires_grad_())
        image = rasterize(leaf, camera).image
        return image.detach(), torch.autograd.grad(image, leaf.means, pull)[0]

    whole = both()
    monkeypatch.setattr(tiles, "PAIRS", 100)
    listed: list[int] = []
    lists = tiles.Tiles._listed

    def watched(self: tiles.Tiles, box: tuple[int, int, int, int]) -> tiles.Piece:
        piece = lists(self, box)
        listed.append(len(piece.rows))
        return piece

    monkeypatch.setattr(tiles.Tiles, "_listed", watched)
    parts = both()
    assert len(listed) > 10 and max(listed) <= 100
    assert all((a - b).abs().max() <= 1e-12 for a, b in zip(whole, parts, strict=True))


def test_the_golden_pictures_are_drawn_on_this_device() -> None:
    """Written once by the loop; a backend on another device is held to the same file."""
    with np.load(GOLDEN) as golden:
        scenes = golden_scenes()
        assert set(golden) == set(scenes) and len(scenes) == 6
        for name, (g, camera, how) in scenes.items():
            drawn = rasterize(g, camera, antialias=how.get("antialias", False))
            expected = torch.from_numpy(golden[name].astype(np.float64))
            assert off(drawn, (expected[..., :3], expected[..., 3], expected[..., 4])) <= 1e-3, name


@settings(max_examples=25)
@given(
    st.integers(0, 10_000), st.integers(0, 25), st.integers(1, 20), st.integers(1, 20), st.booleans(),
    st.floats(0.3, 60), st.floats(-3, 3),
)  # fmt: skip
def test_any_scene_is_drawn_as_the_loop_draws_it(
    seed: int, n: int, width: int, height: int, antialias: bool, focal: float, size: float
) -> None:
    g = some(n, seed).to(torch.float64)
    g = replace(g, log_scales=g.log_scales + size)
    camera = front(width, height, focal, away=2.0)
    drawn = rasterize(g, camera, SKY, antialias=antialias)
    assert off(drawn, looped(g, camera, SKY, antialias=antialias)) <= 1e-9


def refused(message: str, **given: object) -> None:
    with pytest.raises(SceneError, match=message):
        rasterize(some(4), front(), **given)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_with_the_remedy() -> None:
    refused(r"channels are \[3, 2\], expected \[4, C\]", channels=torch.zeros(3, 2))
    refused(r"background is \[4\], expected \[3\] or \[24, 32, 3\]", background=torch.zeros(4))
    refused("sh_degree 2: these Gaussians have harmonics of degree 0 to 0", sh_degree=2)
    refused("backend 'cuda'; there are auto, torch, gsplat", backend="cuda")
    bent: Camera = replace(front(), distortion=(0.1, 0.0))
    with pytest.raises(SceneError, match="undistort its photograph first"):
        rasterize(some(4), bent)
