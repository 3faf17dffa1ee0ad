"""Keyframes carried over a clip along its motion, and what the motion does not reach painted anew.

For frame f between keyframes a and b, with the flows of the *source* from f to either:

    E_f = (w_a c_a warp(E_a, f -> a) + w_b c_b warp(E_b, f -> b)) / (w_a c_a + w_b c_b)

w by nearness in time, c 1 where the way there and back ends where it began (`motion.consistent`) and the
thing is there in the keyframe, too. Where neither keyframe reaches, mostly at the rim, a pixel or so wide,
the paint beside it spreads. A frame of whose thing more than `FEW` is left then is painted where no keyframe
reaches, from the warped crop noised to `STRENGTH`, looking at its keyframes where frames look at others; the
whole thing where more than `UNREACHED` is left.

Everything happens in the crops, which follow the thing: the flow has only to find what is left of its motion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..edit.masked import Work, inside_crops
from ..motion.flow import centres, consistent, lk, warp
from .windows import Route, WindowPainter

STRENGTH = 0.6
FEW, UNREACHED = 0.02, 0.2
RIM = 64
"""The share of a crop's shorter side that paint spreads, one in so many, and two pixels at least: one latent
cell of Stable Diffusion, and of the bundled editor. Finer than that nothing is painted anyway."""
APART = 16
"""Frames between two keyframes at most."""
GROWS = 0.25
"""A thing whose area changes by this share since the last keyframe is a keyframe again."""

Flow = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(first, second [B, H, W, 3], the thing's mask in each [B, H, W]) -> flow [B, H, W, 2] from first to
second."""


def thing_flow(first: Tensor, second: Tensor, mask: Tensor, later: Tensor) -> Tensor:
    """Lucas-Kanade that sees nothing but the thing, begun from the way between the middles of its masks."""
    begin = (_middle(later) - _middle(mask))[:, None, None].expand(*first.shape[:3], 2)
    return lk(first, second, start=begin, weight=mask)


def _middle(mask: Tensor) -> Tensor:
    """[B, H, W] -> [B, 2], (x, y) in pixels."""
    at = centres(mask.shape[1], mask.shape[2], mask)
    return (mask[..., None] * at).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1e-6)[:, None]


@dataclass(frozen=True)
class Key:
    """A painted keyframe in its crop. source, painted: [h, w, 3] in 0..1. inside: float [h, w], the mask.
    path: its latents at each step [S + 1, C, h', w'], or None where somebody else painted it."""

    source: Tensor
    painted: Tensor
    inside: Tensor
    path: Tensor | None = None


def keyframes(routes: Sequence[Route], chosen: str | int | Sequence[int] = "auto") -> list[int]:
    """The frames that are painted, in order.

    "auto": of each stretch in which a place is on the first and the last frame, where its area has changed by
    a quarter, and at least one in sixteen. A number: so many, evenly spread. Or which ones; those with
    nothing to paint are left out.
    """
    at_work = sorted({frame for route in routes for frame in route.boxes})
    if not isinstance(chosen, (str, int)):
        return sorted(set(chosen) & set(at_work))
    if isinstance(chosen, int):
        spread = torch.linspace(0, len(at_work) - 1, min(chosen, len(at_work))).round().long()
        return [at_work[at] for at in dict.fromkeys(spread.tolist())]
    found: set[int] = set()
    for route in routes:
        for run in runs(route):
            last, before = run[0], _area(route, run[0])
            found |= {run[0], run[-1]}
            for frame in run:
                now = _area(route, frame)
                if frame - last >= APART or abs(now - before) > GROWS * before:
                    found.add(frame)
                    last, before = frame, now
    return sorted(found)


def runs(route: Route) -> list[list[int]]:
    """The stretches of frames in which a place is on."""
    found: list[list[int]] = []
    for frame in sorted(route.boxes):
        if not found or found[-1][-1] != frame - 1:
            found.append([])
        found[-1].append(frame)
    return found


def _area(route: Route, frame: int) -> int:
    box = route.boxes[frame]
    if route.inside is None:
        return (box.y1 - box.y0) * (box.x1 - box.x0)
    known = getattr(route.inside, "area", None)  # of masks on the disk, which need not be read for it
    return int(route.inside[frame].sum()) if known is None else int(known(frame))


def key_of(work: Work, at: int, painted: Tensor, path: Tensor | None = None) -> Key:
    """Of the `at`-th crop of a work."""
    return Key(work.crop[at], painted, inside_crops(work)[at], path)


def carry(
    work: Work,
    nearness: Tensor,
    keys: Sequence[Key],
    painter: WindowPainter | None,
    flow: Flow = thing_flow,
) -> tuple[Tensor, int]:
    """(crops [A, h, w, 3] in 0..1, how many of them were painted in part or whole).

    work: the crops of frames between keyframes. nearness: [K, A], how near each of the K keys is, 0..1, the
    sum 1. painter: None leaves what no key reaches as it was warped, but for what lies beside paint.
    """
    inside = inside_crops(work)
    carried, reached = torch.zeros_like(work.crop), torch.zeros(work.crop.shape[:3])
    guess = torch.zeros_like(work.crop)
    for near, key in zip(nearness, keys, strict=True):
        source, mask = (each[None].expand(len(work.crop), *each.shape) for each in (key.source, key.inside))
        there = flow(work.crop, source, inside, mask)
        back = flow(source, work.crop, mask, inside)
        painted = warp(key.painted[None].expand_as(work.crop), there)
        # Only what was painted in the keyframe can be carried: its surroundings are the source's.
        seen = consistent(there, back) & (warp(mask[..., None].contiguous(), there)[..., 0] > 0.5)
        weight = near[:, None, None] * seen.float()
        carried += weight[..., None] * painted
        reached += weight
        guess += near[:, None, None, None] * painted
    known, on = reached > 0, inside > 0
    crops = torch.where(known[..., None], carried / reached.clamp(min=1e-6)[..., None], guess).clamp(0, 1)
    crops, beside = spread(crops, known, on, max(2, min(inside.shape[1:]) // RIM))
    left = _share(on & ~beside, on)
    few = left <= FEW
    crops[few], beside[few] = spread(crops[few], beside[few], on[few], max(inside.shape[1:]))
    if painter is None:
        return crops, 0
    again = (~few).nonzero().flatten()
    missing = torch.where((left > UNREACHED)[:, None, None], on, on & ~known)
    for piece in again.split(max(painter.video.window - len(keys), 1)) if len(again) else ():
        anew = painter.repaint(work.crop[piece], keys, crops[piece], missing[piece], STRENGTH)
        crops[piece] = torch.where(missing[piece][..., None], anew, crops[piece])
    return crops, len(again)


def spread(crops: Tensor, known: Tensor, on: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """(crops [A, h, w, 3], bool [A, h, w] what is known then): what is on and not known takes the mean of its
    known neighbours, at most `reach` pixels far. known, on: bool [A, h, w]."""
    known = known & on
    for _ in range(reach):
        missing = on & ~known
        if not bool(missing.any()):
            break
        weight = known[:, None].float()
        around = F.avg_pool2d(weight, 3, 1, 1)
        paint = F.avg_pool2d(crops.movedim(-1, 1) * weight, 3, 1, 1) / around.clamp(min=1e-6)
        new = missing & (around[:, 0] > 0)
        if not bool(new.any()):
            break
        crops = torch.where(new[..., None], paint.movedim(1, -1), crops)
        known = known | new
    return crops, known


def _share(some: Tensor, of: Tensor) -> Tensor:
    """How much of one mask [A, h, w] another is, [A]; 0 of an empty one."""
    return some.flatten(1).sum(1) / of.flatten(1).sum(1).clamp(min=1)
