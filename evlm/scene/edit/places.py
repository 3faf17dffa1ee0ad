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

HEIGHT = (
    0.75  # of its radius, that a place's middle is above what it stands on: boxes leave room, 1 leaves none
)
FEWEST = 12  # pixels that say how a floor lies
ROOM = 1.1  # of a place's radius, that a view leaves around it: how far it is was a guess
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
        wide, high = (ROOM * self.radius * focal / depth for focal in (camera.fx, camera.fy))
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
    """The place that a mask [H, W] means in a view: as large as its box, and standing on what is seen in the
    lower half of it; where no plane is seen there, as far as what is. Raises SceneError: an empty mask, or
    nothing is there."""
    box = bounding_box(mask >= 0.5)
    if box is None:
        raise SceneError("the plan's place is empty: nothing can be put there")
    left, top, right, bottom = box
    with torch.no_grad():
        drawn = rasterize(gaussians, camera)
    there = (drawn.alpha > 0.5) & (drawn.depth > 0)
    inside = torch.zeros_like(there)
    inside[top:bottom, left:right] = True
    near = there & inside if bool((there & inside).any()) else there
    if not bool(near.any()):
        raise SceneError("the first view shows nothing that says how far the plan's place is")
    half = 0.5 * max((right - left) / camera.fx, (bottom - top) / camera.fy)
    x, y = ((left + right) / 2 - camera.cx) / camera.fx, ((top + bottom) / 2 - camera.cy) / camera.fy
    seen = torch.tensor([x, y, 1.0], dtype=torch.float64)
    depth = float(drawn.depth[near].median())
    inside[: (top + bottom) // 2] = False
    floor = _plane(camera, drawn.depth, there & inside)
    if floor is not None:
        # A plane n X = d has the inverse depth n (x, y, 1) / d, and X is to be HEIGHT radii before it.
        standing = 1 / max(1e-9, float(floor @ seen) + HEIGHT * half * float(floor.norm()))
        depth = standing if 0.4 * depth < standing < 1.6 * depth else depth
    return Place((seen * depth - camera.view[:3, 3]) @ camera.rotation, half * depth)


def _plane(camera: Camera, depth: Tensor, where: Tensor) -> Tensor | None:
    """[3] float64: the inverse depth of what is seen there (bool [H, W]), as a function of (x, y, 1) at depth
    1; without what does not lie in one plane. None where too little is seen."""
    rows, columns = where.nonzero().unbind(1)
    inverse = 1 / depth[where].cpu().double()
    places = torch.stack(
        [
            (columns.cpu().double() + 0.5 - camera.cx) / camera.fx,
            (rows.cpu().double() + 0.5 - camera.cy) / camera.fy,
            torch.ones(len(rows), dtype=torch.float64),
        ],
        1,
    )
    kept = torch.ones(len(rows), dtype=torch.bool)
    found: Tensor | None = None
    for _ in range(3):
        if int(kept.sum()) < FEWEST:
            return None
        found = torch.linalg.lstsq(places[kept], inverse[kept]).solution
        off = (places @ found - inverse).abs()
        kept = off <= 3 * off.median().clamp(min=1e-9)
    return found


def around(gaussians: Gaussians, rows: Tensor) -> Place:
    """The place of rows (bool [N]) that are there. Raises SceneError for none."""
    means = gaussians.means[rows].detach().cpu().double()
    means = means[:: max(1, len(means) // 100_000)]
    if not len(means):
        raise SceneError("nothing is selected: there is no place of it")
    low, high = means.quantile(0.02, 0), means.quantile(0.98, 0)
    spread = math.exp(float(gaussians.log_scales[rows].detach().cpu().double().median()))
    return Place((low + high) / 2, 0.6 * float((high - low).max()) + spread)
