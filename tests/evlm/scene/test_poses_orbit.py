"""Orbits and cones see the scene, and the views that are chosen differ from each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from a_few_gaussians import some

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.poses import common_up, cone, farthest, load_cameras, orbit, views_that_see
from evlm.scene.poses.orbits import UPS, middle_of, one_sided
from evlm.scene.poses.views import share_seen


def scene(centre: tuple[float, float, float], spread: float = 0.5, count: int = 300) -> Gaussians:
    plain = some(count)
    generator = torch.Generator().manual_seed(1)
    means = torch.tensor(centre) + spread * (torch.rand(count, 3, generator=generator) - 0.5) * 2
    logits = torch.where(torch.arange(count) % 10 == 0, -5.0, 3.0)
    means[::10] += 50  # haze far away, that is hardly there
    return Gaussians(means, plain.log_scales, plain.quats, logits, plain.sh)


@pytest.mark.parametrize("up", UPS)
def test_an_orbit_stands_around_what_is_opaque_with_up_upward(up: str) -> None:
    gaussians = scene((3.0, -2.0, 7.0))
    centre, radius = middle_of(gaussians)
    assert (centre - torch.tensor([3.0, -2.0, 7.0])).abs().max() < 0.15 and radius < 1
    cameras = orbit(gaussians, 8, (0, 30), up, 64)
    solid = gaussians.means[gaussians.opacities > 0.5]
    above = torch.tensor(UPS[up]).double()
    for number, camera in enumerate(cameras):
        assert share_seen(camera, solid) > 0.95 and camera.width == 64
        pixels, _ = camera.project(torch.stack([centre, centre + 0.1 * above]))
        assert torch.allclose(pixels[0], torch.tensor([32.0, 32.0]).double()) and pixels[1, 1] < 32
        high = torch.dot(-camera.direction, above).asin().rad2deg()
        assert abs(high - (0, 30)[number % 2]) < 1e-6
    centres = torch.stack([camera.centre for camera in cameras])
    assert torch.pdist(centres).min() > radius


def test_a_turn_takes_the_up_of_the_cameras_that_saw_the_scene() -> None:
    gaussians = scene((0.0, 0.0, 0.0))
    slanted = torch.tensor([0.3, 1.0, -0.5]).double()
    seen_by = orbit(gaussians, 6, (20,), slanted.tolist(), 16)
    up = common_up(seen_by)
    assert up is not None and torch.allclose(torch.tensor(up).double(), slanted / slanted.norm(), atol=1e-6)
    again = orbit(gaussians, 5, (0,), up, 16)
    assert all(abs(float(camera.direction @ slanted)) < 1e-6 for camera in again)
    turned = replace(seen_by[0], view=torch.diag(torch.tensor([-1.0, -1, 1, 1])).double() @ seen_by[0].view)
    assert common_up([seen_by[0], turned]) is None and common_up([]) is None
    for wrong in ((0.0, 0.0, 0.0), (1.0, float("nan"), 0.0), (1.0, 2.0)):
        with pytest.raises(SceneError, match="expected three numbers that are not all 0"):
            orbit(gaussians, 4, up=wrong)


def test_a_camera_goes_to_the_points() -> None:
    """Points and depths of a scene on a GPU met a camera on the CPU, and raised."""
    camera = orbit(scene((0.0, 0.0, 0.0)), 2, (0,), "-y", 8)[0]
    points = torch.zeros(5, 3, device="meta")
    pixels, depth = camera.project(points)
    assert pixels.device.type == depth.device.type == camera.unproject(pixels, depth).device.type == "meta"


def test_cameras_by_words() -> None:
    gaussians = scene((0.0, 0.0, 0.0))
    assert len(load_cameras("orbit:6", gaussians).cameras) == 6
    tilted = load_cameras("orbit:4:-10,20:z", gaussians, size=40).cameras
    assert tilted[0].width == 40 and tilted[0].centre[2] < middle_of(gaussians)[0][2] < tilted[1].centre[2]
    for words in ("orbit", "orbit:", "orbit:x", "orbit:4:a", "orbit:4:10:z:1", "cone:3:1:z", "orbit:-4"):
        with pytest.raises(SceneError, match="expected orbit:VIEWS"):
            load_cameras(words, gaussians)
    with pytest.raises(SceneError, match="up is 'w', expected one of x, -x"):
        load_cameras("orbit:4:10:w", gaussians)
    with pytest.raises(SceneError, match="elevation nan"):
        load_cameras("orbit:4:nan", gaussians)
    with pytest.raises(SceneError, match="1 views: expected 2 to 1000"):
        load_cameras("orbit:1", gaussians)
    with pytest.raises(SceneError, match="and none is given"):
        load_cameras("orbit:4")
    with pytest.raises(SceneError, match="no Gaussians to put cameras around"):
        load_cameras("orbit:4", gaussians.rows(torch.zeros(300, dtype=torch.bool)))


def test_one_gaussian_alone_is_seen_whole() -> None:
    alone = scene((1.0, 2.0, 3.0), 0.0, 9).rows(torch.arange(1, 2))
    centre, radius = middle_of(alone)
    assert torch.allclose(centre, torch.tensor([1.0, 2.0, 3.0]).double())
    assert radius == pytest.approx(3 * float(alone.scales.max()))
    for camera in orbit(alone, 4, (0,), "-y", 64):
        assert torch.allclose(camera.project(centre[None])[0][0], torch.tensor([32.0, 32.0]).double())
        assert (camera.centre - centre).norm() > radius


def test_a_scene_of_one_photograph_is_seen_from_before_it() -> None:
    flat = scene((0.2, 0.1, 3.0)).rows(torch.arange(300) % 10 != 0)
    assert one_sided(flat) and not one_sided(scene((0.0, 0.0, 0.0)))
    assert "cone:12 stays before it" in load_cameras("orbit:4", flat).notes[0]
    cameras = cone(flat, 9, 20, 64)
    assert cameras[0].centre.norm() < 1e-9  # where the photograph was taken
    axis = cameras[0].direction
    angles = torch.stack(
        [torch.dot(axis, camera.direction).clamp(max=1).acos().rad2deg() for camera in cameras]
    )
    assert angles[1:].min() > 1 and abs(angles.max() - 20) < 1e-6
    assert all(share_seen(camera, flat.means) > 0.9 for camera in cameras)
    assert len(load_cameras("cone:5:10", flat).cameras) == 5
    with pytest.raises(SceneError, match="take orbit:24"):
        cone(scene((0.0, 0.0, 0.0)), 5)
    with pytest.raises(SceneError, match="at most 60"):
        cone(flat, 5, 90)


def test_the_views_that_are_taken_differ_most() -> None:
    gaussians = scene((0.0, 0.0, 0.0))
    cameras = orbit(gaussians, 24, (0,))
    near = [cameras[0]] * 10 + list(cameras)
    chosen = farthest(near, 6)
    assert chosen == sorted(set(chosen)) and len(chosen) == 6
    places = torch.stack([near[number].centre for number in chosen])
    assert torch.pdist(places).min() > 0.5 * (cameras[0].centre - middle_of(gaussians)[0]).norm()
    assert farthest(cameras, 99) == list(range(24)) and len(farthest([cameras[0]] * 5, 3)) == 3
    with pytest.raises(SceneError, match="0 of 24 cameras"):
        farthest(cameras, 0)


def test_views_that_see_a_selection_are_found() -> None:
    gaussians = scene((0.0, 0.0, 0.0))
    cameras = orbit(gaussians, 4, (0,), size=64)
    middle, _ = middle_of(gaussians)
    behind = cameras[0].centre + (cameras[0].centre - middle)  # behind the first, before the one across
    points = torch.stack([behind] * 3)
    assert views_that_see(cameras, points) == [2] or views_that_see(cameras, points) == [1, 2, 3]
    assert 0 not in views_that_see(cameras, points) and views_that_see(cameras, points[:0]) == []
