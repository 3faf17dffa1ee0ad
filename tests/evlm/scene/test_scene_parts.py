"""Gaussians, cameras and scenes refuse what does not fit, and keep their geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evlm.errors import SceneError
from evlm.scene import Camera, Gaussians, SplatScene
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.gaussians import joined


def some(n: int = 5, degree: int = 0) -> Gaussians:
    draw = torch.Generator().manual_seed(n)
    return Gaussians(
        means=torch.randn(n, 3, generator=draw),
        log_scales=torch.randn(n, 3, generator=draw) - 2,
        quats=torch.randn(n, 4, generator=draw),
        logits=torch.randn(n, generator=draw),
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=draw),
    )


def camera(**changes: object) -> Camera:
    given = {
        "view": looking_at(torch.tensor([3.0, -1.0, 2.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])),
        "intrinsics": pinhole(80, 64, 48),
        "width": 64,
        "height": 48,
    }
    return Camera(**(given | changes))  # type: ignore[arg-type]


def test_a_tensor_that_does_not_fit_is_named() -> None:
    g = some()
    with pytest.raises(SceneError, match=r"quats is \[4, 4\], expected \[5, 4\]"):
        Gaussians(g.means, g.log_scales, g.quats[1:], g.logits, g.sh)
    with pytest.raises(SceneError, match=r"logits is torch.float64"):
        Gaussians(g.means, g.log_scales, g.quats, g.logits.double(), g.sh)
    with pytest.raises(SceneError, match="K one of 1, 4, 9, 16"):
        Gaussians(g.means, g.log_scales, g.quats, g.logits, g.sh.expand(5, 2, 3))


def test_joined_keeps_rows_and_the_highest_degree() -> None:
    low, high = some(3), some(4, 2)
    both = joined([low, high])
    assert len(both) == 7 and both.degree == 2
    assert torch.equal(both.rows(torch.arange(3, 7)).sh, high.sh)
    assert torch.equal(both.sh[:3, :1], low.sh) and not both.sh[:3, 1:].any()
    assert torch.equal(both.with_degree(0).sh[:3], low.sh)
    with pytest.raises(SceneError, match="no Gaussians"):
        joined([])


def test_rows_that_cannot_be_drawn_are_found() -> None:
    g = some()
    g.means[1, 2] = float("nan")
    g.logits[2] = float("inf")
    g.quats[3] = 0
    assert g.finite().tolist() == [True, False, False, False, True]
    assert some(0).finite().tolist() == []


def test_a_camera_sees_its_target_in_the_middle_and_up_is_up() -> None:
    eye = camera()
    pixels, depth = eye.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]))
    assert torch.allclose(pixels[0], torch.tensor([32.0, 24.0], dtype=torch.float64))
    assert abs(depth[0].item() - 14**0.5) < 1e-6 and pixels[1, 1] < 24
    assert torch.allclose(eye.centre, torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    assert torch.allclose(eye.direction, -eye.centre / eye.centre.norm())


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_resized_camera_sees_the_same(width: int, height: int) -> None:
    eye = camera()
    point = torch.tensor([[0.2, 0.3, 0.1]])
    scale = torch.tensor([width / 64, height / 48], dtype=torch.float64)
    assert torch.allclose(eye.resized(width, height).project(point)[0], eye.project(point)[0] * scale)
    corner = torch.tensor([10.0, 5.0], dtype=torch.float64)
    assert torch.allclose(eye.cropped(10, 5, 8, 8).project(point)[0], eye.project(point)[0] - corner)


def test_cameras_that_are_none_are_refused() -> None:
    mirrored = camera().view.clone()
    mirrored[0] *= -1
    for changes, words in (
        ({"view": mirrored}, "no rotation and translation"),
        ({"view": camera().view * 2}, "no rotation and translation"),
        ({"view": camera().view.float()}, "expected .4, 4. float64"),
        ({"intrinsics": pinhole(0, 64, 48)}, "focal length 0, 0"),
        ({"width": 0}, "0 x 48 pixels"),
        ({"intrinsics": pinhole(float("nan"), 64, 48)}, "not finite"),
    ):
        with pytest.raises(SceneError, match=words):
            camera(name="a.png", **changes)
    with pytest.raises(SceneError, match="not lie along up"):
        looking_at(torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 2.0]))


def test_a_scene_keeps_selection_and_photographs_in_step() -> None:
    scene = SplatScene(some(), (camera(),))
    with pytest.raises(SceneError, match="select again in this scene"):
        scene.with_selection(torch.ones(4, dtype=torch.bool))
    with pytest.raises(SceneError, match="2 photographs for 1 cameras"):
        scene.with_cameras([camera()], [lambda: torch.zeros(48, 64, 3)] * 2)
    assert scene.noted("a", "b").noted("b", "c").notes == ("a", "b", "c")
