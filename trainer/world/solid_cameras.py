"""Cameras around a scene of solids: a ring at two heights that is seen, and one between that is held out."""

from __future__ import annotations

import math

import torch

from evlm.scene import Camera
from evlm.scene.camera import looking_at, pinhole

HEIGHTS = (0.35, 0.75)  # elevation of the two rings that are seen, in radians
HELD_OUT = 0.55  # and of the ring that is not
DISTANCE, FOCAL = 5.2, 2.0  # of a camera from what it looks at; in halves of the picture's side
LOOK_AT = (0.0, 0.0, 0.3)


def around(azimuth: float, elevation: float, size: int = 64, name: str = "") -> Camera:
    """A square pinhole that looks at the scene's middle. azimuth, elevation: radians."""
    way = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    target = torch.tensor(LOOK_AT, dtype=torch.float64)
    centre = target + DISTANCE * torch.tensor(way, dtype=torch.float64)
    return Camera(
        looking_at(centre, target, torch.tensor([0.0, 0.0, 1.0])),
        pinhole(FOCAL * size / 2, size, size),
        size,
        size,
        name=name,
    )


def ring(views: int, size: int = 64, held_out: bool = False) -> tuple[Camera, ...]:
    """Cameras all around: at two heights in turn, or, between them in angle and height, those held out.
    Raises ValueError for fewer than two."""
    if views < 2:
        raise ValueError(f"{views} views: expected 2 or more")
    step = 2 * math.pi / views
    if held_out:
        return tuple(around((n + 0.5) * step, HELD_OUT, size, f"held_{n:02d}.png") for n in range(views))
    return tuple(around(n * step, HEIGHTS[n % 2], size, f"{n:02d}.png") for n in range(views))
