"""Solids: the same bytes every time, and a truth (coverage, depth, normals, surface) that fits itself."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from evlm.scene import Camera
from evlm.scene.camera import looking_at
from trainer.world.raytrace import GROUND, SKY_RGB, TUBE, meet, rays, surface, trace, view
from trainer.world.scene import COLOURS, GROUNDS, SHAPES, TEXTURES, WEATHERS
from trainer.world.solid import (
    SKIES,
    SOLIDS,
    Solid,
    SolidScene,
    random_setting,
    random_solids,
    solid_hash,
    solid_scene_split,
    solid_split,
)
from trainer.world.solid_cameras import LOOK_AT, around, ring

EVERY = SolidScene(
    tuple(
        Solid(shape, colour, texture, "large", x, y)
        for shape, colour, texture, (x, y) in zip(
            SOLIDS,
            COLOURS,
            (*TEXTURES, "striped"),
            ((-1.25, -1.25), (1.25, -1.25), (0.0, 0.0), (-1.25, 1.25), (1.25, 1.25)),
            strict=False,
        )
    )
)


def off_surface(solid: Solid, points: np.ndarray) -> np.ndarray:
    """How far points lie from a solid's surface, in its radius; by formulas of their own."""
    high = TUBE if solid.shape == "torus" else 1.0
    x, y, z = ((points - (solid.x, solid.y, high * solid.radius)) / solid.radius).T
    across = np.hypot(x, y)
    if solid.shape == "ball":
        return np.abs(np.sqrt(x * x + y * y + z * z) - 1)
    if solid.shape == "torus":
        return np.abs(np.hypot(across - (1 - TUBE), z) - TUBE)
    if solid.shape == "box":
        return np.abs(np.maximum(np.maximum(np.abs(x), np.abs(y)) / 0.8, np.abs(z)) - 1)
    if solid.shape == "cylinder":
        return np.abs(np.maximum(across / 0.8, np.abs(z)) - 1)
    return np.minimum(np.abs(across - 0.95 * (1 - z) / 2), np.abs(z + 1))  # a cone


def where(camera: Camera, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pixels [N, 2], depth [N]) of points [N, 3]."""
    pixels, depth = camera.project(torch.from_numpy(points))
    return pixels.numpy(), depth.numpy()


def test_the_same_scene_is_the_same_picture() -> None:
    pictures = [view(EVERY, camera).picture for camera in (*ring(3), around(0.4, 1.2))]
    assert hashlib.sha256(b"".join(p.tobytes() for p in pictures)).hexdigest()[:16] == "9df6c7885977c70e"
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    with pytest.raises(ValueError, match="pinholes alone"):
        view(EVERY, replace(around(0, 0.5), distortion=(0.1,)))


def test_every_solid_is_seen_where_its_camera_projects_it() -> None:
    for camera in ring(6, 96):
        seen = view(EVERY, camera)
        assert (seen.coverage.sum(0) <= 1 + 1e-9).all()
        for solid, covered in zip(EVERY.solids, seen.coverage, strict=True):
            if covered.sum() < 20:
                continue  # another one stands before it
            at = where(camera, np.array([[solid.x, solid.y, solid.radius]]))[0][0]
            middle = np.array([(covered * axis).sum() / covered.sum() for axis in np.mgrid[:96, :96][::-1]])
            assert np.abs(middle - at).max() < 14, solid.label
    assert np.allclose(where(around(1.0, 0.5), np.array([LOOK_AT]))[0], 32)


def test_a_ball_has_the_silhouette_the_depth_and_the_normals_of_geometry() -> None:
    """Its outline is a cone around the line to its middle whose sine is radius over distance, also for a
    camera that is neither square nor centred."""
    ball = Solid("ball", "red", "plain", "large", 0.4, -0.3)
    middle = np.array([0.4, -0.3, 0.55])
    eye, up = torch.tensor([2.0, 1.5, 1.4]).double(), torch.tensor([0.0, 0.0, 1.0])
    lens = torch.tensor([[50.0, 0, 30.5], [0, 44.0, 17.5], [0, 0, 1]]).double()
    camera = Camera(looking_at(eye, torch.from_numpy(middle), up), lens, 56, 40)
    seen = view(SolidScene((ball,)), camera)
    fine = 16
    x, y = np.meshgrid((np.arange(56 * fine) + 0.5) / fine, (np.arange(40 * fine) + 0.5) / fine)
    ways = np.stack(
        [(x - 30.5) / 50, (y - 17.5) / 44, np.ones_like(x)], -1
    )  # the middle lies along (0, 0, 1)
    away = np.linalg.norm(eye.numpy() - middle)
    inside = ways[..., 2] / np.linalg.norm(ways, axis=-1) >= np.sqrt(1 - (0.55 / away) ** 2)
    exact = inside.reshape(40, fine, 56, fine).mean((1, 3))
    assert exact.max() == 1 and np.abs(seen.coverage[0] - exact).max() < 0.2
    assert abs(seen.coverage.sum() - exact.sum()) < 0.01 * exact.sum()
    assert math.isclose(seen.depth[17, 30], away - 0.55, abs_tol=1e-9)  # its pixel's centre is (30.5, 17.5)
    assert np.allclose(seen.normals[17, 30], (eye.numpy() - middle) / away, atol=1e-9)


def test_the_ground_has_the_depth_and_the_checks_of_geometry() -> None:
    camera = ring(2)[1]
    seen = view(SolidScene(()), camera)
    ground = np.isfinite(seen.depth)
    assert 0.1 < ground.mean() < 0.9 and seen.coverage.shape == (0, 64, 64)
    rows, columns = np.nonzero(ground)
    lens = camera.intrinsics.numpy()
    ways = np.linalg.solve(lens, np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]))
    points = (ways * seen.depth[ground]).T @ camera.rotation.numpy() + camera.centre.numpy()
    assert np.abs(points[:, 2]).max() < 1e-9 and np.abs(points[:, :2]).max() <= 2
    clear = (np.abs(points[:, :2] - np.round(points[:, :2])) > 0.2).all(1)  # pixels of one check alone
    light = np.floor(points[clear, :2] + 2).sum(1) % 2
    assert set(seen.picture[ground][clear][light == 0].ravel()) == {107}
    assert set(seen.picture[ground][clear][light == 1].ravel()) == {148}


def test_points_of_the_surface_lie_on_it_and_belong_to_the_nearest_solid() -> None:
    found = surface(EVERY, ring(8, 48))
    assert set(found.owners) == {GROUND, *range(len(SOLIDS))} and len(found.points) > 2500
    for number, solid in enumerate(EVERY.solids):
        assert off_surface(solid, found.points[found.owners == number]).max() < 2e-3, solid.label
    assert (found.points[:, 2] > -1e-3).all()  # nothing lies under the ground
    assert np.abs(found.points[found.owners == GROUND, 2]).max() < 1e-9
    assert found.colours.min() >= 0 and found.colours.max() <= 1


def test_points_are_drawn_by_a_seed_and_moved_by_noise() -> None:
    some, again = (surface(EVERY, ring(4, 32), 500, 0.01, seed=3) for _ in range(2))
    exact = surface(EVERY, ring(4, 32), 500, seed=3)
    assert np.array_equal(some.points, again.points) and some.points.shape == (500, 3)
    assert np.array_equal(some.owners, exact.owners) and np.array_equal(some.colours, exact.colours)
    assert 0.008 < (some.points - exact.points).std() < 0.012
    assert not np.array_equal(surface(EVERY, ring(4, 32), 500, 0.01, seed=4).points, some.points)
    assert len(surface(EVERY, ring(2, 8), 10**6).points) < 128


def test_depth_and_normals_are_those_of_what_is_seen() -> None:
    for camera in ring(4):
        seen = view(EVERY, camera)
        sky = np.isinf(seen.depth)
        assert sky.any() and (seen.normals[sky] == 0).all()
        length = np.sqrt((seen.normals[~sky] ** 2).sum(-1))
        assert np.allclose(length, 1, atol=1e-3)
        solid = seen.coverage.sum(0) == 1
        assert solid.sum() > 60 and seen.depth[solid].min() > 2.5
        assert (seen.normals[solid] @ camera.direction.numpy() < 0.35).all()  # they face it, but for the rim
        assert np.allclose(where(camera, surface(EVERY, (camera,)).points)[1], seen.depth[~sky], atol=1e-9)


def test_taking_one_away_changes_its_own_pixels_alone() -> None:
    """No shadows: so the region of an edit is the coverage, exactly."""
    for number, solid in enumerate(EVERY.solids):
        camera = max(ring(6, 16), key=lambda each: view(EVERY, each).coverage[number].sum()).resized(64, 64)
        before = view(EVERY, camera)
        after = view(EVERY.swap(solid, None), camera)
        changed = (before.picture != after.picture).any(-1)
        assert changed.any() and not (changed & (before.coverage[number] == 0)).any()
        painted = Solid(solid.shape, "pink", solid.texture, solid.size, solid.x, solid.y)
        again = view(EVERY.swap(solid, painted), camera)
        assert np.array_equal(again.coverage, before.coverage)
        assert not ((again.picture != before.picture).any(-1) & (before.coverage[number] == 0)).any()


def test_weather_ground_and_sky_change_what_they_name_and_views_agree_about_them() -> None:
    eye, ways = rays(around(0.3, 0.5, 24))
    bare = trace(EVERY, eye, ways)
    sky = ~np.isfinite(bare.distance)
    for name in SKIES[1:]:
        other = trace(replace(EVERY, sky=name), eye, ways)
        assert np.array_equal((other.colours != bare.colours).any(1), sky)
        assert np.allclose(other.colours[sky], SKY_RGB[name])
    for name in GROUNDS[1:]:
        other = trace(replace(EVERY, ground=name), eye, ways)
        assert np.array_equal((other.colours != bare.colours).any(1), bare.owners == GROUND)
    for name in WEATHERS[1:]:
        colours = trace(replace(EVERY, weather=name), eye, ways).colours
        assert (colours != bare.colours).any(1).all() and colours.min() >= 0 and colours.max() <= 1
        one, other_side = (colour_of_a_tip(replace(EVERY, weather=name), side) for side in (0.2, 2.9))
        assert np.allclose(one, other_side)
    with pytest.raises(ValueError, match="unknown weather 'hail'"):
        trace(replace(EVERY, weather="hail"), eye, ways)


def colour_of_a_tip(scene: SolidScene, azimuth: float) -> np.ndarray:
    """The middle cylinder's lid at its middle, seen from one side."""
    eye = around(azimuth, 0.9).centre.numpy()
    way = np.array([0.0, 0.0, 1.1]) - eye
    return trace(scene, eye, (way / np.linalg.norm(way))[None]).colours[0]


@pytest.mark.parametrize("shape", SOLIDS)
def test_a_ray_that_passes_by_meets_nothing_and_one_at_the_middle_does(shape: str) -> None:
    solid = Solid(shape, "red", "plain", "large", 0.0, 0.0)
    eye = np.array([3.0, 0.0, 2.0])
    at = np.array([[0.0, 0.0, 0.3], [0.0, 2.5, 0.3], [6.0, 0.0, 2.0]])
    if shape == "torus":
        at[0] = (0.55 * (1 - TUBE), 0.0, 0.2)  # its tube: the middle is a hole
    ways = (at - eye) / np.linalg.norm(at - eye, axis=1, keepdims=True)
    hits = meet(solid, eye, ways)
    assert hits.rows.tolist() == [0]
    assert math.isclose(float(np.linalg.norm(hits.normals[0])), 1, abs_tol=1e-3)
    assert float(hits.normals[0] @ ways[0]) < 0 and np.abs(hits.local[0]).max() < 1.01


def test_rings_and_the_one_held_out_share_no_view() -> None:
    seen, held = ring(12), ring(12, held_out=True)
    assert len(set(seen)) == 12 and not set(seen) & set(held)
    heights = [{round(camera.centre[2].item(), 6) for camera in cameras} for cameras in (seen, held)]
    assert (
        len(heights[0]) == 2 and len(heights[1]) == 1 and min(heights[0]) < min(heights[1]) < max(heights[0])
    )
    with pytest.raises(ValueError, match="2 or more"):
        ring(1)


def test_scenes_are_drawn_apart_and_compositions_are_held_out_evenly() -> None:
    rng = random.Random(0)
    for _ in range(50):
        scene = random_solids(rng)
        assert len(scene.solids) in (2, 3, 4)
        assert len({solid.label for solid in scene.solids}) == len(scene.solids)
        for a, b in product(scene.solids, scene.solids):
            assert a is b or math.dist((a.x, a.y), (b.x, b.y)) > a.radius + b.radius - 1e-9
            assert max(abs(a.x), abs(a.y)) + a.radius < 2
    splits = Counter(solid_split(look) for look in product(SOLIDS, COLOURS, TEXTURES))
    assert splits == {"train": 120, "validation": 20, "test": 20}
    assert not set(SOLIDS) & set(SHAPES)


def test_scenes_are_dealt_to_splits_by_what_differs_from_the_default() -> None:
    rng = random.Random(1)
    scenes = [random_solids(rng) for _ in range(300)]
    counts = Counter(solid_scene_split(scene) for scene in scenes)
    assert counts["train"] > 200 and min(counts["test"], counts["validation"]) > 15
    settings = [random_setting(rng, scene) for scene in scenes]
    for name, values in (("weather", WEATHERS), ("sky", SKIES), ("ground", GROUNDS)):
        assert {getattr(each, name) for each in settings} == set(values)
    assert solid_hash(scenes[0]) == "9e6c197fe4d7587a"
    assert solid_hash(replace(scenes[0], sky="pink")) != solid_hash(scenes[0])
