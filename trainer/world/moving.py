"""The world in three dimensions and time: solids on their ways, with exact pictures, masks and motion.

A solid moves as a rigid thing: along a line, in hops, turning about its own axis; or it grows taller and
flatter, which no rigid motion is. At time 0 it stands where
its scene says; the ground stays. Edits are those of a scene that stands still, carried along the same ways.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evlm.scene import Camera

from .raytrace import GROUND, NOTHING, Array, rays, stand, stretched, trace
from .solid import PLACES, PosedSolid, Solid, SolidScene, random_solids

HIDDEN = 2e-3  # units by which something has to lie nearer to hide a point
FAR = 1.4  # of a middle from the scene's: nothing leaves the ground


@dataclass(frozen=True)
class Way:
    """How a solid moves from time 0 to 1. dx, dy: units. height: of a hop, units; hops: how many. angle:
    radians about its own axis. squash: by how much of its height it grows and shrinks, once each."""

    dx: float = 0.0
    dy: float = 0.0
    height: float = 0.0
    hops: int = 1
    angle: float = 0.0
    squash: float = 0.0

    @property
    def still(self) -> bool:
        return not (self.dx or self.dy or self.height or self.angle or self.squash)

    def place(self, solid: Solid, time: float) -> Solid:
        """The solid at a time; itself where nothing of it has moved."""
        lift = self.height * abs(math.sin(math.pi * self.hops * time))
        x, y, yaw = solid.x + self.dx * time, solid.y + self.dy * time, self.angle * time
        tall = 1 + self.squash * math.sin(2 * math.pi * time)
        if (x, y, lift, yaw, tall) == (solid.x, solid.y, 0.0, 0.0, 1.0):
            return solid
        looks = (solid.shape, solid.colour, solid.texture, solid.size)
        return PosedSolid(*looks, x, y, lift, yaw, tall)


@dataclass(frozen=True)
class MovingScene:
    """A scene and a way for each of its solids. Raises ValueError where their counts differ."""

    scene: SolidScene
    ways: tuple[Way, ...]

    def __post_init__(self) -> None:
        if len(self.ways) != len(self.scene.solids):
            raise ValueError(f"{len(self.ways)} ways for {len(self.scene.solids)} solids")

    def at(self, time: float) -> SolidScene:
        """The scene at a time in 0..1."""
        placed = (way.place(solid, time) for solid, way in zip(self.scene.solids, self.ways, strict=True))
        return replace(self.scene, solids=tuple(placed))

    def edited(self, result: SolidScene) -> MovingScene:
        """An edited scene on the same ways: solids that are gone take theirs with them, one that was changed
        keeps it, one that came stands still."""
        old = list(self.scene.solids)
        kept = [solid for solid in old if solid in result.solids]
        gone = [index for index, solid in enumerate(old) if solid not in kept]
        ways = []
        for solid in result.solids:
            if solid in kept:
                ways.append(self.ways[old.index(solid)])
            else:
                here = [i for i in gone if (old[i].x, old[i].y) == (solid.x, solid.y)]
                ways.append(self.ways[here[0]] if here else Way())
        return MovingScene(result, tuple(ways))


@dataclass(frozen=True)
class Flow:
    """Where what a camera sees at one time is at another. pixels: [H, W, 2], by how much each pixel's middle
    moves (x, y); of the sky it is 0. seen: bool [H, W], whether it can be seen there, the sky left out."""

    pixels: Array
    seen: NDArray[np.bool_]


def flow(moving: MovingScene, camera: Camera, time: float, later: float, other: Camera | None = None) -> Flow:
    """other: the camera at the later time, where it is not the same. Raises ValueError for a lens with
    distortion."""
    other = other or camera
    one, two = moving.at(time), moving.at(later)
    eye, ways = rays(camera)
    hits = trace(one, eye, ways)
    points = eye + np.where(np.isfinite(hits.distance), hits.distance, 0.0)[:, None] * ways
    goes = points.copy()
    for number, (here, there) in enumerate(zip(one.solids, two.solids, strict=True)):
        mine = hits.owners == number
        goes[mine] = _carry(points[mine], here, there)
    pixels, depth = _project(goes, other)
    inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < [other.width, other.height]).all(1)
    seen = inside & (hits.owners != NOTHING)
    rows = np.flatnonzero(seen)
    there = other.centre.numpy()
    towards = goes[rows] - there
    away = np.sqrt((towards * towards).sum(1))
    nearest = trace(two, there, towards / away[:, None])
    seen[rows] = nearest.distance >= away - HIDDEN
    middles = (
        np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), -1).reshape(-1, 2) + 0.5
    )
    moved = np.where((hits.owners >= GROUND)[:, None], pixels - middles, 0.0)
    shape = camera.height, camera.width
    return Flow(moved.reshape(*shape, 2), seen.reshape(shape))


def random_moving(rng: random.Random, count: int | None = None) -> MovingScene:
    """Solids of which at least one moves and, of three or more, at least one stands; none run into each
    other or leave the ground."""
    while True:
        moving = on_its_ways(rng, random_solids(rng, count))
        if moving is not None:
            return moving


def on_its_ways(
    rng: random.Random, scene: SolidScene, result: SolidScene | None = None
) -> MovingScene | None:
    """A scene with ways as `random_moving` has them, drawn once; None where they run into each other. result:
    the same scene edited, in which they must not either."""
    ways = [random_way(rng, solid) for solid in scene.solids]
    if len(ways) > 2:
        ways[rng.randrange(len(ways))] = Way()
    moving = MovingScene(scene, tuple(ways))
    if all(way.still for way in ways) or not _clear(moving):
        return None
    return moving if result is None or _clear(moving.edited(result)) else None


def random_way(rng: random.Random, solid: Solid) -> Way:
    """A line, an arc in the air, or a turn in place; sometimes two at once."""
    kind = rng.choice(("line", "line", "hop", "turn", "roll", "still"))
    reach = rng.choice([place for place in PLACES if abs(place - solid.x) > 0.5]) - solid.x
    aside = rng.uniform(-0.3, 0.3)
    angle = rng.choice((-1, 1)) * rng.uniform(0.8, 1.6)
    if kind == "still":
        return Way()
    if kind == "turn":
        return Way(angle=angle)
    if kind == "hop":
        return Way(height=rng.uniform(0.3, 0.6), hops=rng.choice((1, 2)))
    return Way(dx=reach * rng.uniform(0.5, 0.9), dy=aside, angle=angle if kind == "roll" else 0.0)


def _clear(moving: MovingScene) -> bool:
    """Whether no two come nearer than they may, at any of 33 times."""
    for number in range(33):
        solids = moving.at(number / 32).solids
        if any(max(abs(solid.x), abs(solid.y)) > FAR for solid in solids):
            return False
        for index, one in enumerate(solids):
            for other in solids[:index]:
                if math.hypot(one.x - other.x, one.y - other.y) < 1.25 * (one.radius + other.radius) * 0.8:
                    return False
    return True


def _carry(points: Array, here: Solid, there: Solid) -> Array:
    """Points [P, 3] on a solid, where they are when it stands elsewhere."""
    (centre, about), (goal, turned) = stand(here), stand(there)
    local = points - centre
    if about is not None:
        local = local @ about
    before, after = stretched(here), stretched(there)
    if before is not None:
        local = local / before
    if after is not None:
        local = local * after
    if turned is not None:
        local = local @ turned.T
    return local + goal


def _project(points: Array, camera: Camera) -> tuple[Array, Array]:
    """(pixels [P, 2], depth [P])."""
    seen = points @ camera.rotation.numpy().T + camera.view[:3, 3].numpy()
    depth = seen[:, 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    flat = seen[:, :2] / safe[:, None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    return flat, depth
