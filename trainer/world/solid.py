"""Scenes of solids and the cameras around them. Pure data, seeded, no pixels.

The solids stand on a checkered ground of 4 x 4 units around the origin, z up. Their shapes are a list of
their own, never of SHAPES: splits and readers of the flat world index that.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .scene import COLOURS, SIZES, TEXTURES, Split, label_of

SOLIDS = ("ball", "box", "cylinder", "cone", "torus")
RADIUS = {"small": 0.38, "large": 0.55}
PLACES = (-1.25, 0.0, 1.25)  # of a 3 x 3 grid, along either axis
JITTER = 0.07
HEIGHTS = (0.35, 0.75)  # elevation of the two rings that are seen, in radians
HELD_OUT = 0.55  # and of the ring that is not
DISTANCE, FOCAL = 5.2, 1.25  # of a camera from what it looks at; in halves of the picture's side
LOOK_AT = (0.0, 0.0, 0.3)


@dataclass(frozen=True)
class Solid:
    """One object: attributes and where it stands, in units."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float

    @property
    def look(self) -> tuple[str, str, str]:
        return self.shape, self.colour, self.texture

    @property
    def label(self) -> str:
        """What a plan calls it: "red striped ball"; plain is not said."""
        return label_of(self.look)

    @property
    def radius(self) -> float:
        return RADIUS[self.size]


@dataclass(frozen=True)
class SolidScene:
    """What stands on the ground. No two solids touch, nor are two called alike."""

    solids: tuple[Solid, ...]

    def swap(self, old: Solid, new: Solid | None) -> SolidScene:
        """The scene with one solid changed, or taken away (new is None)."""
        if new is None:
            return replace(self, solids=tuple(s for s in self.solids if s is not old))
        return replace(self, solids=tuple(new if s is old else s for s in self.solids))


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks at the scene's middle. azimuth, elevation: radians; focal: in halves of a side."""

    azimuth: float
    elevation: float
    distance: float = DISTANCE
    focal: float = FOCAL

    def pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(eye [3], axes [3, 3]): its place, and its right, down and forward axes as rows, in the world's
        units."""
        a, e = self.azimuth, self.elevation
        forward = -np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
        right = np.array([-math.sin(a), math.cos(a), 0.0])
        return np.array(LOOK_AT) - self.distance * forward, np.stack(
            [right, np.cross(forward, right), forward]
        )

    def project(self, points: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Points [N, 3] as pixels (x, y) and depth along the view: [N, 3]."""
        eye, axes = self.pose()
        seen = (points - eye) @ axes.T
        half = size / 2
        return np.stack(
            [*(half + half * self.focal * seen[:, i] / seen[:, 2] for i in (0, 1)), seen[:, 2]], 1
        )


def ring(views: int, held_out: bool = False) -> tuple[Camera, ...]:
    """Cameras all around: at two heights in turn, or, between them in angle and height, those held out.
    Raises ValueError for fewer than two."""
    if views < 2:
        raise ValueError(f"{views} views: expected 2 or more")
    step = 2 * math.pi / views
    if held_out:
        return tuple(Camera((n + 0.5) * step, HELD_OUT) for n in range(views))
    return tuple(Camera(n * step, HEIGHTS[n % 2]) for n in range(views))


def random_solids(rng: random.Random, count: int | None = None) -> SolidScene:
    """2-4 solids of different labels in different places."""
    count = count or rng.choice((2, 3, 3, 4))
    places = rng.sample([(x, y) for x in PLACES for y in PLACES], count)
    looks: list[tuple[str, str, str]] = []
    while len(looks) < count:
        look = (rng.choice(SOLIDS), rng.choice(COLOURS), rng.choice(TEXTURES))
        if look not in looks:
            looks.append(look)
    return SolidScene(
        tuple(
            Solid(*look, rng.choice(SIZES), *(at + rng.uniform(-JITTER, JITTER) for at in place))
            for look, place in zip(looks, places, strict=True)
        )
    )


def solid_split(look: tuple[str, str, str]) -> Split:
    """Which split may use this as the target or the result of an edit: the flat world's Latin design, over
    the solids' own list."""
    s, c, t = SOLIDS.index(look[0]), COLOURS.index(look[1]), TEXTURES.index(look[2])
    return {0: "test", 1: "validation"}.get((s + c + 2 * t) % 8, "train")  # type: ignore[return-value]
