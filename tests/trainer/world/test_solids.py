"""Solids: the same bytes every time, and a truth (coverage, depth, normals, surface) that fits itself."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from itertools import product

import numpy as np
import pytest

from trainer.world.raytrace import TUBE, meet, surface, view
from trainer.world.scene import COLOURS, SHAPES, TEXTURES
from trainer.world.solid import (
    LOOK_AT,
    SOLIDS,
    Camera,
    Solid,
    SolidScene,
    random_solids,
    ring,
    solid_split,
)

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


def test_the_same_scene_is_the_same_picture() -> None:
    pictures = [view(EVERY, camera).picture for camera in (*ring(3), Camera(0.4, 1.2))]
    assert hashlib.sha256(b"".join(p.tobytes() for p in pictures)).hexdigest()[:16] == "ed082cbada36457a"
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    with pytest.raises(ValueError, match="at least 1 pixel"):
        view(EVERY, Camera(0, 0.5), 0)


def test_every_solid_is_seen_where_its_camera_projects_it() -> None:
    for camera in ring(6):
        seen = view(EVERY, camera, 96)
        assert (seen.coverage.sum(0) <= 1 + 1e-9).all()
        for solid, covered in zip(EVERY.solids, seen.coverage, strict=True):
            if covered.sum() < 20:
                continue  # another one stands before it
            at = camera.project(np.array([[solid.x, solid.y, solid.radius]]), 96)[0, :2]
            middle = np.array([(covered * axis).sum() / covered.sum() for axis in np.mgrid[:96, :96][::-1]])
            assert np.abs(middle - at).max() < 14, solid.label
    assert np.allclose(Camera(1.0, 0.5).project(np.array([LOOK_AT]), 64)[0, :2], 32)


def test_points_of_the_surface_lie_on_it_and_belong_to_the_nearest_solid() -> None:
    points, owners = surface(EVERY, ring(8), 48)
    assert set(owners) == set(range(len(SOLIDS))) and len(points) > 1000
    for number, solid in enumerate(EVERY.solids):
        assert off_surface(solid, points[owners == number]).max() < 2e-3, solid.label
    assert (points[:, 2] > -1e-3).all()  # nothing lies under the ground


def test_depth_and_normals_are_those_of_what_is_seen() -> None:
    for camera in ring(4):
        seen = view(EVERY, camera, 64)
        _, axes = camera.pose()
        sky = np.isinf(seen.depth)
        assert sky.any() and (seen.normals[sky] == 0).all()
        length = np.sqrt((seen.normals[~sky] ** 2).sum(-1))
        assert np.allclose(length, 1, atol=1e-3)
        solid = seen.coverage.sum(0) == 1
        assert solid.sum() > 60 and seen.depth[solid].min() > 2.5
        assert (seen.normals[solid] @ axes[2] < 0.35).all()  # they face the camera, but for the rim
        points, _ = surface(EVERY, (camera,), 64)
        depths = camera.project(points, 64)[:, 2]
        assert seen.depth[solid].min() >= depths.min() - 0.1 and seen.depth[solid].max() <= depths.max() + 0.1


def test_taking_one_away_changes_its_own_pixels_alone() -> None:
    """No shadows: so the region of an edit is the coverage, exactly."""
    for number, solid in enumerate(EVERY.solids):
        camera = max(
            ring(6), key=lambda each: view(EVERY, each, 16).coverage[number].sum()
        )  # where it is seen
        before = view(EVERY, camera)
        after = view(EVERY.swap(solid, None), camera)
        changed = (before.picture != after.picture).any(-1)
        assert changed.any() and not (changed & (before.coverage[number] == 0)).any()
        painted = Solid(solid.shape, "pink", solid.texture, solid.size, solid.x, solid.y)
        again = view(EVERY.swap(solid, painted), camera)
        assert np.array_equal(again.coverage, before.coverage)
        assert not ((again.picture != before.picture).any(-1) & (before.coverage[number] == 0)).any()


@pytest.mark.parametrize("shape", SOLIDS)
def test_a_ray_that_passes_by_meets_nothing_and_one_at_the_middle_does(shape: str) -> None:
    solid = Solid(shape, "red", "plain", "large", 0.0, 0.0)
    eye = np.array([3.0, 0.0, 2.0])
    at = np.array([[0.0, 0.0, 0.3], [0.0, 2.5, 0.3], [6.0, 0.0, 2.0]])
    if shape == "torus":
        at[0] = (0.55 * (1 - TUBE), 0.0, 0.2)  # its tube: the middle is a hole
    ways = (at - eye) / np.linalg.norm(at - eye, axis=1, keepdims=True)
    hits = meet(solid, eye, ways)
    assert np.isfinite(hits.distance).tolist() == [True, False, False]
    assert math.isclose(float(np.linalg.norm(hits.normals[0])), 1, abs_tol=1e-3)
    assert float(hits.normals[0] @ ways[0]) < 0 and np.abs(hits.local[0]).max() < 1.01


def test_rings_and_the_one_held_out_share_no_view() -> None:
    seen, held = ring(12), ring(12, held_out=True)
    assert len(set(seen)) == 12 and not set(seen) & set(held)
    assert {camera.elevation for camera in seen} != {camera.elevation for camera in held}
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
