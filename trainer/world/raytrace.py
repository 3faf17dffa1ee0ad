"""Solids to pictures with their truth: ray tracing in numpy, 4 x 4 samples, the same bytes on every machine.

What a ray meets is found in each solid's own coordinates, in which it fills [-1, 1]^3; textures are solid,
too, so a view from behind continues the one from the front. Weather belongs to the surfaces, not to the
picture, so that all views agree about it. Every colour passes through uint8 once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evlm.scene import Camera

from .render import GROUND_RGB, paint_of, to_bytes
from .solid import PosedSolid, Solid, SolidScene

Array = NDArray[np.float64]
SUPER = 4
SKY_RGB = {
    "blue": (0.62, 0.74, 0.88),
    "orange": (0.95, 0.74, 0.52),
    "pink": (0.94, 0.72, 0.80),
    "purple": (0.62, 0.52, 0.76),
}
CHECK = (-0.13, 0.03)  # what the checks of the ground are darker and lighter than the flat world's ground
REACH = 2.0  # the ground's half side
LIGHT = np.array([0.36, -0.48, 0.8])  # towards the light; of length 1
AMBIENT = 0.45
SNOWY = 0.6  # of a normal's upward part, from which on snow lies
TUBE = 0.38  # of a torus whose whole radius is 1
MARCHES, NEAR = 48, 1e-4  # steps along a ray to a torus, and how near is met
NOTHING, GROUND = -2, -1  # owners of rays that meet no solid


@dataclass(frozen=True)
class View:
    """What a camera sees. picture: uint8 [H, W, 3]. coverage: [N, H, W], the share of each pixel's samples on
    each solid. depth: [H, W], z in the camera's coordinates at the pixel's centre; infinite in the sky.
    normals: [H, W, 3] of the world, there too; 0 in the sky."""

    picture: NDArray[np.uint8]
    coverage: Array
    depth: Array
    normals: Array


@dataclass(frozen=True)
class Surface:
    """Points on what cameras see, as structure from motion would give them. points, normals: [P, 3], world
    units. colours: [P, 3] in 0..1. owners: int [P], the number of the solid, or GROUND."""

    points: Array
    normals: Array
    colours: Array
    owners: NDArray[np.int64]


@dataclass(frozen=True)
class Hits:
    """Where rays meet one thing, of those that do. rows: [M], which rays. distance: [M]. normals: [M, 3].
    local: [M, 3], its own coordinates of the point."""

    rows: NDArray[np.int64]
    distance: Array
    normals: Array
    local: Array


def view(scene: SolidScene, camera: Camera) -> View:
    """Traces one picture, of the camera's size. Raises ValueError for a lens with distortion."""
    shape = camera.height, camera.width
    picture, coverage = still(scene, camera)
    eye, ways = rays(camera)
    middle = trace(scene, eye, ways)
    along = ways @ camera.direction.numpy()
    return View(
        picture, coverage, (middle.distance * along).reshape(shape), middle.normals.reshape(*shape, 3)
    )


def still(scene: SolidScene, camera: Camera, samples: int = SUPER) -> tuple[NDArray[np.uint8], Array]:
    """`View.picture` and `View.coverage` alone. samples: a side of a pixel; a training takes fewer, which
    costs a quarter. Raises ValueError for a lens with distortion."""
    shape = camera.height, camera.width
    seen = trace(scene, *rays(camera, samples))
    coverage = [pool((seen.owners == n).astype(float), *shape, samples) for n in range(len(scene.solids))]
    colours = np.stack([pool(seen.colours[:, c], *shape, samples) for c in range(3)], -1)
    return to_bytes(colours), np.stack(coverage) if coverage else np.zeros((0, *shape))


def surface(
    scene: SolidScene,
    cameras: Sequence[Camera],
    count: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Surface:
    """The points at the middle of the cameras' pixels: all, or `count` drawn among them (or all there are).
    noise: standard deviation of their places, in units."""
    parts = []
    for camera in cameras:
        eye, ways = rays(camera)
        seen = trace(scene, eye, ways)
        met = seen.owners != NOTHING
        points = eye + seen.distance[met, None] * ways[met]
        parts.append((points, seen.normals[met], seen.colours[met], seen.owners[met]))
    points, normals, colours, owners = (np.concatenate(column) for column in zip(*parts, strict=True))
    draw = np.random.default_rng(seed)
    if count is not None and count < len(points):
        chosen = np.sort(draw.choice(len(points), count, replace=False))
        points, normals, colours, owners = (each[chosen] for each in (points, normals, colours, owners))
    if noise:
        points = points + draw.normal(size=points.shape) * noise
    return Surface(points, normals, colours, owners)


@dataclass(frozen=True)
class Traced:
    """What rays [R] from one eye meet first. distance: [R], infinite for nothing. normals: [R, 3], 0 there.
    colours: [R, 3], lit, under the weather. owners: int [R], the number of a solid, GROUND or NOTHING."""

    distance: Array
    normals: Array
    colours: Array
    owners: NDArray[np.int64]


def trace(scene: SolidScene, eye: Array, ways: Array) -> Traced:
    """eye: [3], above the ground and outside every solid. ways: [R, 3] of length 1."""
    nearest, normals = np.full(len(ways), np.inf), np.zeros((len(ways), 3))
    colours, owners = np.tile(np.array(SKY_RGB[scene.sky]), (len(ways), 1)), np.full(len(ways), NOTHING)
    down = np.flatnonzero(ways[:, 2] < 0)
    distance = -eye[2] / ways[down, 2]
    points = eye[:2] + distance[:, None] * ways[down, :2]
    met = (np.abs(points) <= REACH).all(1)
    rows = down[met]
    nearest[rows], normals[rows], owners[rows] = distance[met], (0.0, 0.0, 1.0), GROUND
    checks = np.floor(points[met] + REACH).sum(1).astype(int) % 2
    colours[rows] = (np.array(GROUND_RGB[scene.ground]) + np.array(CHECK)[:, None])[checks]
    for number, solid in enumerate(scene.solids):
        hits = meet(solid, eye, ways)
        met = hits.distance < nearest[hits.rows]
        rows = hits.rows[met]
        nearest[rows], normals[rows], owners[rows] = hits.distance[met], hits.normals[met], number
        colours[rows] = paint(solid, hits.local[met]) * shade(hits.normals[met])[:, None]
    return Traced(nearest, normals, under(scene.weather, colours, normals), owners)


def shade(normals: Array) -> Array:
    """How bright a solid's surface is, [R] in 0..1, by its normals [R, 3]."""
    lit: Array = AMBIENT + (1 - AMBIENT) * np.clip(normals @ LIGHT, 0, 1)
    return lit


def under(weather: str, colours: Array, normals: Array) -> Array:
    """Lit colours [R, 3] under a weather."""
    if weather == "clear":
        return colours
    if weather == "night":
        return colours * np.array([0.38, 0.40, 0.60])
    if weather == "fog":
        return colours * 0.55 + np.array([0.82, 0.84, 0.86]) * 0.45
    if weather == "rain":
        return colours * np.array([0.58, 0.66, 0.78]) + np.array([0.02, 0.05, 0.10])
    if weather == "snow":
        lies = normals[:, 2:] > SNOWY
        return np.where(lies, np.array([0.93, 0.95, 0.98]), colours * 0.85 + 0.12)
    raise ValueError(f"unknown weather {weather!r}")


def meet(solid: Solid, eye: Array, ways: Array) -> Hits:
    """Where rays [R, 3] of length 1 from `eye` [3] first meet a solid from outside."""
    r = solid.radius
    centre, about = stand(solid)
    start = (eye - centre) / r
    if about is not None:
        start, ways = start @ about, ways @ about
    stretch, lengths = stretched(solid), None
    if stretch is not None:
        start, ways = start / stretch, ways / stretch
        lengths = np.sqrt((ways * ways).sum(1))
        ways = ways / lengths[:, None]
    b = ways @ start
    near = np.flatnonzero(b * b - (start @ start - _AROUND[solid.shape]) >= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, normals = _SHAPES[solid.shape](start, ways[near])
    met = np.isfinite(t)
    rows = near[met]
    outward, far = normals[met], t[met]
    if stretch is not None and lengths is not None:
        outward = outward / stretch
        outward = outward / np.sqrt((outward * outward).sum(1))[:, None]
        far = far / lengths[rows]
    outward = outward if about is None else outward @ about.T
    return Hits(rows, far * r, outward, start + t[met, None] * ways[rows])


def stand(solid: Solid) -> tuple[Array, Array | None]:
    """(its middle [3], its turn [3, 3] from its own coordinates to the world's, None where it has none)."""
    lift, yaw = (solid.lift, solid.yaw) if isinstance(solid, PosedSolid) else (0.0, 0.0)
    stretch = stretched(solid)
    tall = 1.0 if stretch is None else float(stretch[2])
    centre = np.array([solid.x, solid.y, _height(solid) * solid.radius * tall + lift])
    if not yaw:
        return centre, None
    c, s = np.cos(yaw), np.sin(yaw)
    return centre, np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def stretched(solid: Solid) -> Array | None:
    """[3], how many times its own size it has along its own axes; None where it has its shape."""
    tall = solid.tall if isinstance(solid, PosedSolid) else 1.0
    return None if tall == 1.0 else np.array([1.0, 1.0, tall])


def paint(solid: Solid, local: Array) -> Array:
    """Colours [N, 3] of points in a solid's own coordinates, before the light."""
    return paint_of(solid.colour, *shares(solid.texture, local))


def shares(texture: str, local: Array) -> tuple[Array, Array]:
    """How much of the paint is dark and how much is white, [N] each, at points in a solid's own
    coordinates."""
    dark = light = np.zeros(len(local))
    if texture == "striped":
        dark = (np.floor((local[:, 2] + 1) * 3.0 + 1e-9) % 2 == 1).astype(float)
    elif texture == "dotted":
        cells = (local * 2.0 + 0.5) % 1 - 0.5
        dark = ((cells * cells).sum(1) <= 0.1).astype(float)
    elif texture == "checkered":
        light = (np.floor((local + 1) * 1.5 + 1e-9).sum(1) % 2 == 1).astype(float)
    elif texture != "plain":
        raise ValueError(f"unknown texture {texture!r}")
    return dark, light


def rays(camera: Camera, samples: int = 1) -> tuple[Array, Array]:
    """(eye [3], ways [R, 3] of length 1): samples x samples of each pixel, row by row. Raises ValueError for
    a lens with distortion."""
    if camera.distortion:
        raise ValueError("the tracer knows pinholes alone: no distortion")
    across = (np.arange(camera.width * samples) + 0.5) / samples
    down = (np.arange(camera.height * samples) + 0.5) / samples
    x, y = np.meshgrid((across - camera.cx) / camera.fx, (down - camera.cy) / camera.fy)
    ways = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1) @ camera.rotation.numpy()
    return camera.centre.numpy(), ways / np.sqrt((ways * ways).sum(1))[:, None]


def pool(samples: Array, height: int, width: int, side: int = SUPER) -> Array:
    """What pixels [height, width] see, by their side x side samples, row by row."""
    return samples.reshape(height, side, width, side).mean((1, 3))


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
    on = np.arange(len(t))  # those that have not passed it
    for step in range(MARCHES):
        t[on] += _to_torus(start + t[on, None] * ways[on])
        if step % 8 == 3:
            on = on[t[on] < far[on]]
    point = start + t[:, None] * ways
    met = (_to_torus(point) < NEAR * 10) & (t < far)
    radius = np.sqrt(point[:, 0] ** 2 + point[:, 1] ** 2)
    core = (1 - TUBE) / np.maximum(radius, 1e-12)
    normals = np.stack([point[:, 0] * (1 - core), point[:, 1] * (1 - core), point[:, 2]], 1)
    normals /= np.sqrt((normals * normals).sum(1))[:, None]
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


_AROUND = {"ball": 1.01, "box": 2.29, "cylinder": 1.65, "cone": 1.92, "torus": 1.16}
"""Squared radius, rounded up, of the sphere about the middle that holds a solid."""

_SHAPES = {"ball": _ball, "box": _box, "cylinder": _cylinder, "cone": _cone, "torus": _torus}
