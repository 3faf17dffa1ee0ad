"""How things move through a clip: where each is, how large and how turned, in every frame. Pure data, seeded.

A path begins where a still picture shows the thing, upright and in its own size, so that a clip's first frame
is a picture of the world like any other.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .scene import CENTRES, LATTICE, Scene, Thing

KINDS = ("still", "linear", "sine", "stop", "leave")
TURNS = ("star", "triangle", "cross")  # of the others a turn shows little
GROWTH = (0.8, 1.25)
OUT = 13  # units beyond the edge at which the largest thing is out of sight
PAN = 10  # units by which the camera moves at most over a clip, each way


@dataclass(frozen=True)
class Pose:
    """centre (x, y) in lattice units, factor of the thing's size, angle in radians, clockwise."""

    x: float
    y: float
    scale: float = 1.0
    angle: float = 0.0


@dataclass(frozen=True)
class Path:
    """A way through a clip, from where the thing stands to `to` (lattice units).

    kind: "still" stays; "linear" goes straight on; "sine" swings to its side by `wave` units; "stop" halts
    for the middle third; "leave" is at `to`, out of sight, in the middle, and comes back. turn: radians that
    it turns in all. grow: its size at the end, over that at the beginning.
    """

    kind: str = "still"
    to: tuple[float, float] = (0.0, 0.0)
    wave: float = 0.0
    turn: float = 0.0
    grow: float = 1.0

    def pose(self, thing: Thing, frame: int, frames: int) -> Pose:
        """Where the thing is in frame 0 ... frames - 1 of a clip. Rounded, so that every machine has the
        same."""
        time = frame / max(1, frames - 1)
        x, y = thing.centre()
        dx, dy = self.to[0] - x, self.to[1] - y
        along = _progress(self.kind, time)
        x, y = x + along * dx, y + along * dy
        if self.kind == "sine" and (dx or dy):
            aside = self.wave * math.sin(2 * math.pi * time) / math.hypot(dx, dy)
            x, y = x - aside * dy, y + aside * dx
        scale, angle = 1 + (self.grow - 1) * time, self.turn * time
        return Pose(*(round(value, 6) for value in (x, y, scale, angle)))


def _progress(kind: str, time: float) -> float:
    """How much of the way is done, 0 to 1."""
    if kind == "still":
        return 0.0
    if kind == "stop":
        return min(time, 1 / 3) * 1.5 + max(0.0, time - 2 / 3) * 1.5
    if kind == "leave":
        return min(1.0, 2.5 * time, 2.5 * (1 - time))
    if kind in ("linear", "sine"):
        return time
    raise ValueError(f"unknown path {kind!r}; one of {', '.join(KINDS)}")


def random_path(rng: random.Random, scene: Scene, thing: Thing, kind: str | None = None) -> Path:
    """A path of a kind, or of any: to another cell, half of the time to one where something stands, so that
    the two meet; or out over the nearest edge and back."""
    kind = kind or rng.choice(KINDS)
    turn = rng.choice((-1, 1)) * rng.uniform(0.4, 2.0) if thing.shape in TURNS and rng.random() < 0.6 else 0.0
    grow = rng.uniform(*GROWTH) if rng.random() < 0.4 else 1.0
    wave = rng.choice((-1, 1)) * rng.uniform(3, 8) if kind == "sine" else 0.0
    x, y = thing.centre()
    if kind == "still":
        to = (x, y)
    elif kind == "leave":
        far = LATTICE + OUT
        ways = ((x, (-OUT, y)), (LATTICE - x, (far, y)), (y, (x, -OUT)), (LATTICE - y, (x, far)))
        to = min(ways)[1]
    else:
        others = [t.cell for t in scene.things if t is not thing]
        free = [cell for cell in range(9) if cell != thing.cell and cell not in others]
        cell = rng.choice(others if others and rng.random() < 0.5 else free)
        to = (CENTRES[cell % 3], CENTRES[cell // 3])
    return Path(kind, (float(to[0]), float(to[1])), *(round(value, 6) for value in (wave, turn, grow)))
