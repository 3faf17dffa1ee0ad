"""Solids to pictures with their truth: ray tracing in numpy, 4 x 4 samples, the same bytes on every machine.

What a ray meets is found in each solid's own coordinates, in which it fills [-1, 1]^3; textures are solid,
too, so a view from behind continues the one from the front. Every colour passes through uint8 once, at the
end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .render import paint_of, to_bytes
from .solid import Camera, Solid, SolidScene

Array = NDArray[np.float64]
SUPER = 4
SKY = (0.62, 0.74, 0.88)
GROUND = ((0.42, 0.42, 0.42), (0.58, 0.58, 0.58))  # of the checks
REACH = 2.0  # the ground's half side
LIGHT = np.array([0.36, -0.48, 0.8])  # towards the light; of length 1
AMBIENT = 0.45
TUBE = 0.38  # of a torus whose whole radius is 1
MARCHES, NEAR = 48, 1e-4  # steps along a ray to a torus, and how near is met


@dataclass(frozen=True)
class View:
    """What a camera sees. picture: uint8 [S, S, 3]. coverage: [N, S, S], the share of each pixel's samples on
    each solid. depth: [S, S] along the view, of the pixel's middle samples; infinite in the sky. normals:
    [S, S, 3], 0 there."""

    picture: NDArray[np.uint8]
    coverage: Array
    depth: Array
    normals: Array


@dataclass(frozen=True)
class _Hits:
    """Where rays [R] meet one thing. distance: infinite where they do not. normals [R, 3]. local [R, 3]: its
    own coordinates of the point."""

    distance: Array
    normals: Array
    local: Array


def view(scene: SolidScene, camera: Camera, size: int = 64) -> View:
    """Traces one picture. Raises ValueError for a size that is not positive."""
    if size < 1:
        raise ValueError(f"size {size}: expected at least 1 pixel")
    eye, rays, along = _rays(camera, size)
    nearest, normals = np.full(len(rays), np.inf), np.zeros((len(rays), 3))
    colour, owner = np.tile(np.array(SKY), (len(rays), 1)), np.full(len(rays), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = -eye[2] / rays[:, 2]
        points = eye + ground[:, None] * rays
        met = (ground > 0) & (np.abs(points[:, :2]) <= REACH).all(1)
    nearest[met], normals[met] = ground[met], (0.0, 0.0, 1.0)
    checks = np.floor(points[met, :2] + REACH).sum(1).astype(int) % 2
    colour[met] = np.array(GROUND)[checks]
    for number, solid in enumerate(scene.solids):
        hits = meet(solid, eye, rays)
        met = hits.distance < nearest
        nearest[met], normals[met], owner[met] = hits.distance[met], hits.normals[met], number
        colour[met] = paint(solid, hits.local[met])
    lit = owner >= 0
    shade = AMBIENT + (1 - AMBIENT) * np.clip(normals[lit] @ LIGHT, 0, 1)
    colour[lit] *= shade[:, None]
    coverage = np.stack([_pool((owner == n).astype(float), size) for n in range(len(scene.solids))])
    middle = np.s_[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]
    side = size * SUPER
    picture = to_bytes(np.stack([_pool(colour[:, c], size) for c in range(3)], -1))
    return View(
        picture,
        coverage,
        (nearest * along).reshape(side, side)[middle],
        normals.reshape(side, side, 3)[middle],
    )


def meet(solid: Solid, eye: Array, rays: Array) -> _Hits:
    """Where rays [R, 3] of length 1 from `eye` [3] first meet a solid from outside."""
    r = solid.radius
    start, ways = (eye - np.array([solid.x, solid.y, _height(solid) * r])) / r, rays
    found = np.full(len(rays), np.inf)
    normals, local = np.zeros((len(rays), 3)), np.zeros((len(rays), 3))
    b = ways @ start
    near = b * b - (start @ start - 3.0) >= 0  # the sphere around [-1, 1]^3
    if near.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            t, n = _SHAPES[solid.shape](start, ways[near])
        found[near], normals[near] = t * r, n
        met = np.isfinite(found)
        local[met] = start + (found[met] / r)[:, None] * ways[met]
    return _Hits(found, normals, local)


def paint(solid: Solid, local: Array) -> Array:
    """Colours [N, 3] of points in a solid's own coordinates, before the light."""
    dark = light = np.zeros(len(local))
    if solid.texture == "striped":
        dark = (np.floor((local[:, 2] + 1) * 3.0 + 1e-9) % 2 == 1).astype(float)
    elif solid.texture == "dotted":
        cells = (local * 2.0 + 0.5) % 1 - 0.5
        dark = ((cells * cells).sum(1) <= 0.1).astype(float)
    elif solid.texture == "checkered":
        light = (np.floor((local + 1) * 1.5 + 1e-9).sum(1) % 2 == 1).astype(float)
    elif solid.texture != "plain":
        raise ValueError(f"unknown texture {solid.texture!r}")
    return paint_of(solid.colour, dark, light)


def surface(
    scene: SolidScene, cameras: tuple[Camera, ...], size: int = 64
) -> tuple[Array, NDArray[np.int64]]:
    """Points [P, 3] of the solids' surfaces, one for each pixel whose middle sample meets one, and the number
    of the solid that each is of."""
    points, owners = [], []
    for camera in cameras:
        eye, rays, _ = _rays(camera, size, 1)
        distances = np.stack([meet(solid, eye, rays).distance for solid in scene.solids])
        first = distances.argmin(0)
        best = distances.min(0)
        met = np.isfinite(best)
        points.append(eye + best[met, None] * rays[met])
        owners.append(first[met])
    return np.concatenate(points), np.concatenate(owners)


def _rays(camera: Camera, size: int, samples: int = SUPER) -> tuple[Array, Array, Array]:
    """(eye [3], ways [R, 3] of length 1, how much of each is along the view [R]), row by row."""
    eye, axes = camera.pose()
    at = ((np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1) / camera.focal
    across, down = np.meshgrid(at, at)
    ways = np.stack([across.ravel(), down.ravel(), np.ones(across.size)], 1) @ axes
    length = np.sqrt((ways * ways).sum(1))
    return eye, ways / length[:, None], 1 / length


def _pool(samples: Array, size: int) -> Array:
    return samples.reshape(size, SUPER, size, SUPER).mean((1, 3))


def _height(solid: Solid) -> float:
    """Of its middle over the ground, in its radius: a torus lies flat."""
    return TUBE if solid.shape == "torus" else 1.0


# --- what is met, in a solid's own coordinates: start [3], ways [R, 3] -> distance [R], normals [R, 3] ---


def _ball(start: Array, ways: Array) -> tuple[Array, Array]:
    b, c = ways @ start, start @ start - 1
    root = b * b - c
    t = np.where(root >= 0, -b - np.sqrt(np.maximum(root, 0)), np.inf)
    t = np.where(t > 0, t, np.inf)
    return t, np.where(np.isfinite(t)[:, None], start + np.where(np.isfinite(t), t, 0)[:, None] * ways, 0.0)


def _box(start: Array, ways: Array) -> tuple[Array, Array]:
    half = np.array([0.8, 0.8, 1.0])
    one, other = (-half - start) / ways, (half - start) / ways
    enter, leave = np.minimum(one, other), np.maximum(one, other)
    t, axis = enter.max(1), enter.argmax(1)
    t = np.where((t <= leave.min(1)) & (t > 0), t, np.inf)
    normals = np.zeros(ways.shape)
    rows = np.arange(len(ways))
    normals[rows, axis] = -np.sign(ways[rows, axis])
    return t, normals


def _cylinder(start: Array, ways: Array) -> tuple[Array, Array]:
    a = ways[:, 0] ** 2 + ways[:, 1] ** 2
    b = ways[:, 0] * start[0] + ways[:, 1] * start[1]
    root = b * b - a * (start[0] ** 2 + start[1] ** 2 - 0.8**2)
    t = (-b - np.sqrt(root)) / a
    z = start[2] + t * ways[:, 2]
    t = np.where((root >= 0) & (t > 0) & (np.abs(z) <= 1), t, np.inf)
    point = start + np.where(np.isfinite(t), t, 0)[:, None] * ways
    side = np.stack([point[:, 0], point[:, 1], np.zeros(len(t))], 1) / 0.8
    return _with_cap(start, ways, t, side, 1.0, 0.8)


def _cone(start: Array, ways: Array) -> tuple[Array, Array]:
    """Its tip is up at 1, its base of radius .95 down at -1."""
    k = (0.95 / 2) ** 2
    tip = start - np.array([0.0, 0.0, 1.0])
    a = ways[:, 0] ** 2 + ways[:, 1] ** 2 - k * ways[:, 2] ** 2
    b = ways[:, 0] * tip[0] + ways[:, 1] * tip[1] - k * ways[:, 2] * tip[2]
    root = b * b - a * (tip[0] ** 2 + tip[1] ** 2 - k * tip[2] ** 2)
    best = np.full(len(ways), np.inf)
    for sign in (-1, 1):
        t = (-b + sign * np.sqrt(root)) / a
        z = start[2] + t * ways[:, 2]
        best = np.where((root >= 0) & (t > 0) & (z >= -1) & (z <= 1) & (t < best), t, best)
    point = start + np.where(np.isfinite(best), best, 0)[:, None] * ways
    side = np.stack([point[:, 0], point[:, 1], k * (1 - point[:, 2])], 1)
    side /= np.maximum(np.sqrt((side * side).sum(1)), 1e-12)[:, None]
    return _with_cap(start, ways, best, side, -1.0, 0.95)


def _torus(start: Array, ways: Array) -> tuple[Array, Array]:
    """By marching: the distance to a torus is exact, so no step passes it."""
    t = np.maximum(-(ways @ start) - np.sqrt(np.maximum((ways @ start) ** 2 - (start @ start - 3.0), 0)), 0)
    far = t + 2 * np.sqrt(3.0)
    for _ in range(MARCHES):
        t = t + _to_torus(start + t[:, None] * ways)
    point = start + t[:, None] * ways
    met = (_to_torus(point) < NEAR * 10) & (t < far)
    radius = np.sqrt(point[:, 0] ** 2 + point[:, 1] ** 2)
    core = (1 - TUBE) / np.maximum(radius, 1e-12)
    normals = np.stack([point[:, 0] * (1 - core), point[:, 1] * (1 - core), point[:, 2]], 1) / TUBE
    return np.where(met, t, np.inf), normals


def _to_torus(points: Array) -> Array:
    across = np.sqrt(points[:, 0] ** 2 + points[:, 1] ** 2) - (1 - TUBE)
    return np.sqrt(across * across + points[:, 2] ** 2) - TUBE


def _with_cap(
    start: Array, ways: Array, t: Array, normals: Array, at: float, radius: float
) -> tuple[Array, Array]:
    """What is met first of a side (t, normals) and of a round lid at height `at`."""
    lid = (at - start[2]) / ways[:, 2]
    point = start + lid[:, None] * ways
    inside = (lid > 0) & (point[:, 0] ** 2 + point[:, 1] ** 2 <= radius**2) & (lid < t)
    normals = np.where(inside[:, None], np.array([0.0, 0.0, np.sign(at)]), normals)
    return np.where(inside, lid, t), normals


_SHAPES = {"ball": _ball, "box": _box, "cylinder": _cylinder, "cone": _cone, "torus": _torus}
