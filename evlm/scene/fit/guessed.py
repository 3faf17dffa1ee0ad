"""Points to begin with where nobody brings any: places whose colour the pictures agree about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..points import Points

LOOKED = 24  # pictures
DRAWN = 30  # places for each point that is wanted
MOST = 400_000
IN_SIGHT, EMPTY = 0.6, 0.12  # shares of the pictures: that have to see a place; in which it may be background
SPARE = 4  # times the points that are wanted, of which those behind others go
CELLS, NEARER = 32, 1.06  # across a picture, in which the nearest place hides those so much farther away
ALIKE = 0.06  # of a colour from the background's


def guessed_points(
    cameras: Sequence[Camera],
    photographs: Sequence[Callable[[], Tensor]],
    count: int,
    background: tuple[float, float, float],
    seed: int = 0,
) -> Points:
    """Of places drawn where the cameras look, those that are not background in nearly all pictures, and of
    them the ones with the steadiest colours. Raises SceneError: the cameras look at nothing in common."""
    middle, radius = _looked_at(cameras)
    draw = torch.Generator().manual_seed(seed)
    total = min(MOST, DRAWN * count)
    places = middle + radius * (2 * torch.rand(total, 3, generator=draw, dtype=torch.float64) - 1)
    behind = torch.tensor(background)
    seen, empty = torch.zeros(total), torch.zeros(total)
    sums, squares = torch.zeros(total, 3), torch.zeros(total, 3)
    some = (
        [at * len(cameras) // LOOKED for at in range(LOOKED)]
        if len(cameras) > LOOKED
        else range(len(cameras))
    )
    for at in some:
        camera, picture = cameras[at], photographs[at]().float().cpu()
        pixels, depth = camera.project(places)
        x, y = pixels.nan_to_num(-1.0).floor().long().unbind(1)
        inside = (depth > 1e-6) & (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
        colours = picture[y.clamp(0, camera.height - 1), x.clamp(0, camera.width - 1)]
        share = inside.float()[:, None]
        seen += share[:, 0]
        empty += share[:, 0] * ((colours - behind).abs().amax(1) < ALIKE).float()
        sums += share * colours
        squares += share * colours.square()
    known = (seen >= IN_SIGHT * len(list(some))) & (empty <= EMPTY * seen)
    mean = sums / seen.clamp(min=1)[:, None]
    apart = (squares / seen.clamp(min=1)[:, None] - mean.square()).clamp(min=0).sum(1)
    best = torch.where(known, apart, torch.inf).argsort(stable=True)[: min(SPARE * count, int(known.sum()))]
    best = best[_in_front([cameras[at] for at in some], places[best])][:count]
    if len(best) < 4:
        raise SceneError("the pictures do not say where something is: name a .ply of points by --points")
    note = f"no points were given: {len(best):,} places are guessed from {len(list(some))} of the pictures"
    return Points(places[best].float(), mean[best].clamp(0, 1), (note,))


def _in_front(cameras: Sequence[Camera], places: Tensor) -> Tensor:
    """bool [N]: in half of the pictures that have a place in them nothing else of it lies clearly nearer."""
    seen, front = torch.zeros(len(places)), torch.zeros(len(places))
    for camera in cameras:
        pixels, depth = camera.project(places)
        cells = (pixels.nan_to_num(-1.0) / max(1.0, camera.width / CELLS)).floor().long()
        inside = (depth > 1e-6) & (cells >= 0).all(1) & (cells < 2 * CELLS).all(1)
        cell = torch.where(inside, cells[:, 1] * 2 * CELLS + cells[:, 0], 4 * CELLS * CELLS)
        nearest = torch.full((4 * CELLS * CELLS + 1,), torch.inf, dtype=torch.float64)
        nearest.scatter_reduce_(0, cell, depth, "amin")
        seen += inside.float()
        front += (inside & (depth < NEARER * nearest[cell])).float()
    return front >= 0.5 * seen


def _looked_at(cameras: Sequence[Camera]) -> tuple[Tensor, float]:
    """([3] the place that is nearest to all lines of sight; how far around it most cameras see)."""
    centres = torch.stack([camera.centre for camera in cameras])
    ways = torch.stack([camera.direction for camera in cameras])
    across = torch.eye(3, dtype=torch.float64) - ways[:, :, None] * ways[:, None]
    # A little towards what lies before the cameras, so that parallel ones have an answer, too.
    ahead = (centres + ways).mean(0)
    held = 1e-3 * len(cameras) * torch.eye(3, dtype=torch.float64)
    right = (across @ centres[..., None]).sum(0)[:, 0] + held @ ahead
    middle = torch.linalg.solve(across.sum(0) + held, right)
    far = ((middle - centres) * ways).sum(1)
    if bool((far <= 0).float().mean() > 0.5):
        raise SceneError("the cameras look away from each other: name a .ply of points by --points")
    wide = torch.tensor([max(each.width / each.fx, each.height / each.fy) / 2 for each in cameras])
    return middle, float((far.clamp(min=0) * wide).median())
