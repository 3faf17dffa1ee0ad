"""Where something new is to stand: a ball of space, lifted from the plan's place in one view by its depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...boxes import bounding_box
from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from ..raster import rasterize
from .holes import balls

FOOT = 0.15  # of a box's height, at its foot: what is seen there is what the new thing stands on
NEARER = 0.25  # radii that the middle of a ball on a floor is nearer than that: tan(e / 2), seen from e above
SEEDS = 600
OPACITY = 0.15  # of a seed: those that nothing is painted for become clear, and go


@dataclass(frozen=True, eq=False)
class Place:
    """centre: [3] float64. radius: world units."""

    centre: Tensor
    radius: float

    def room(self, gaussians: Gaussians, camera: Camera) -> Tensor:
        """bool [H, W]: the rectangle around the place in a view, without what stands before it."""
        seen = camera.rotation @ self.centre + camera.view[:3, 3]
        depth = float(seen[2])
        room = torch.zeros(camera.height, camera.width, dtype=torch.bool, device=gaussians.means.device)
        if depth <= self.radius:
            return room
        (pixel,), _ = camera.project(self.centre[None])
        x, y = pixel.tolist()
        wide, high = (self.radius * focal / depth for focal in (camera.fx, camera.fy))
        left, right = (min(camera.width, max(0, round(x + side * wide))) for side in (-1, 1))
        top, bottom = (min(camera.height, max(0, round(y + side * high))) for side in (-1, 1))
        room[top:bottom, left:right] = True
        if not len(gaussians):
            return room
        with torch.no_grad():
            drawn = rasterize(gaussians, camera)
        before = (drawn.alpha > 0.5) & (drawn.depth < depth - self.radius)
        return room & ~before

    def seeds(self, like: Gaussians, seed: int) -> Gaussians:
        """Faint grey Gaussians all over it."""
        draw = torch.Generator().manual_seed(seed)
        ways = torch.nn.functional.normalize(
            torch.randn(SEEDS, 3, generator=draw, dtype=torch.float64), dim=1
        )
        away = self.radius * torch.rand(SEEDS, 1, generator=draw, dtype=torch.float64) ** (1 / 3)
        size = 0.6 * self.radius * (4.19 / SEEDS) ** (1 / 3)
        return balls(like, self.centre + away * ways, torch.full((SEEDS, 3), 0.5), size, OPACITY)


def lifted(gaussians: Gaussians, camera: Camera, mask: Tensor) -> Place:
    """The place that a mask [H, W] means in a view: as large as its box, and as far as what is seen at the
    foot of it, on which the new thing is to stand. Raises SceneError: an empty mask, or nothing is there."""
    box = bounding_box(mask >= 0.5)
    if box is None:
        raise SceneError("the plan's place is empty: nothing can be put there")
    left, top, right, bottom = box
    foot = max(top, bottom - max(1, round(FOOT * (bottom - top))))
    with torch.no_grad():
        drawn = rasterize(gaussians, camera)
    depth = None
    for part in (slice(foot, bottom), slice(top, bottom), slice(None)):  # the whole picture where it floats
        columns = slice(left, right) if part != slice(None) else slice(None)
        there = drawn.alpha[part, columns] > 0.5
        if bool(there.any()):
            depth = float(drawn.depth[part, columns][there].median())
            break
    if depth is None:
        raise SceneError("the first view shows nothing that says how far the plan's place is")
    half = 0.5 * max((right - left) / camera.fx, (bottom - top) / camera.fy)
    depth = depth / (1 + NEARER * half)  # the radius is half * depth
    x, y = (left + right) / 2, (top + bottom) / 2
    seen = torch.tensor([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0], dtype=torch.float64)
    return Place((seen * depth - camera.view[:3, 3]) @ camera.rotation, half * depth)


def around(gaussians: Gaussians, rows: Tensor) -> Place:
    """The place of rows (bool [N]) that are there. Raises SceneError for none."""
    means = gaussians.means[rows].detach().double().cpu()
    means = means[:: max(1, len(means) // 100_000)]
    if not len(means):
        raise SceneError("nothing is selected: there is no place of it")
    low, high = means.quantile(0.02, 0), means.quantile(0.98, 0)
    spread = math.exp(float(gaussians.log_scales[rows].detach().double().median()))
    return Place((low + high) / 2, 0.6 * float((high - low).max()) + spread)
