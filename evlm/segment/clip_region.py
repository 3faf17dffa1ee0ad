"""Where a plan's edit may happen in a clip, of what was followed through it.

The plan has one mask. It is about the frames that the reasoner saw, all of them together: so a silhouette
agrees with it that fills it in a frame in which it was shown, or that sweeps it out in all of them. It never
stands in for a frame in which something was followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import Corners, bounding_box, box_iou, share_within
from ..masks import box_mask
from ..plan.mask_codec import mask_iou
from ..plan.trace import Plan
from .region import AGREE, SHARPENS, PlanRegion, Region, decide
from .tracks import Tracks

COVERS = 0.9  # share of what was followed that a plan's rectangle holds, to be one for the whole clip


Silhouettes = Callable[[int], Tensor]
"""Frame number -> float [H, W] of 0 and 1, all that was followed there."""


@dataclass
class ClipRegion:
    """As `Region`, of a clip of any length. masks: (first, stop) -> float [stop - first, H, W] of 0 and 1;
    None for the whole frame."""

    masks: Callable[[int, int], Tensor] | None
    notes: list[str]


@dataclass(frozen=True)
class Way:
    """Where something was in a clip of `count` frames. corners: of the frames in which it was. sweep: float
    [H, W], everywhere that it was."""

    count: int
    corners: dict[int, tuple[int, int, int, int]]
    sweep: Tensor

    @classmethod
    def of(cls, silhouettes: Silhouettes, shape: tuple[int, int, int]) -> Way:
        corners, sweep = {}, torch.zeros(shape[1:])
        for frame in range(shape[0]):
            mask = silhouettes(frame)
            if (found := bounding_box(mask)) is not None:
                corners[frame] = found
                sweep = torch.maximum(sweep, mask)
        return cls(shape[0], corners, sweep)


def decide_clip(
    plan: Plan,
    region: PlanRegion,
    objects: Tensor | None,
    prompted: Sequence[int],
    found: bool,
    shape: tuple[int, int, int],
    grow: float,
) -> Region:
    """The final masks. objects: float [N, F, H, W], what was followed, or None. prompted: the frames in which
    it was shown. found: by a detector. The rest as in `region.decide`, which says what happens where nothing
    was followed or the plan has no place."""
    all_of_them = objects.amax(0) if objects is not None and len(objects) else None
    silhouettes = None if all_of_them is None else all_of_them.__getitem__
    decided = decide_followed(plan, region, silhouettes, prompted, found, shape, grow)
    return Region(None if decided.masks is None else decided.masks(0, shape[0]), decided.notes)


def decide_followed(
    plan: Plan,
    region: PlanRegion,
    silhouettes: Silhouettes | None,
    prompted: Sequence[int],
    found: bool,
    shape: tuple[int, int, int],
    grow: float,
) -> ClipRegion:
    """As `decide_clip`, of silhouettes that never lie there all at once."""
    way = None if silhouettes is None else Way.of(silhouettes, shape)
    asked, notes = region.mask, list(region.notes)
    if silhouettes is None or way is None or not way.corners or asked is None or not bool(asked.any()):
        return _decided_alone(plan, region, silhouettes if way and way.corners else None, shape, grow)

    def followed(first: int, stop: int) -> Tensor:
        return torch.stack([silhouettes(frame) for frame in range(first, stop)])

    if region.rectangle and plan.trust != "base":
        places = along(asked, way, prompted)
        return ClipRegion(
            lambda first, stop: _drawn(places, first, stop, *shape[1:]),
            [*notes, "the plan asks for a rectangle: it goes along with what is followed", *_empty(way)],
        )
    if (plan.trust == "base" and found) or region.moved:
        return ClipRegion(followed, [*notes, "what was found and followed decides"])
    here = [mask_iou(silhouettes(frame), asked) for frame in prompted if frame in way.corners]
    agreement = max([*here, mask_iou(way.sweep, asked)])
    if agreement < SHARPENS and (found or agreement >= AGREE) and _leaves(way, prompted):
        why = f"what is followed leaves its place, the plan's mask (IoU {agreement:.2f}) cannot: it decides"
        return ClipRegion(followed, [*notes, why])
    if agreement < SHARPENS:
        why = f"what is followed is not the plan's (IoU {agreement:.2f}): the plan's own mask is taken"
        return ClipRegion(lambda first, stop: asked.expand(stop - first, -1, -1), [*notes, why])
    return ClipRegion(followed, [*notes, f"what the plan means is followed (IoU {agreement:.2f})"])


def _leaves(way: Way, prompted: Sequence[int]) -> bool:
    """Whether a thing is outside of where it was shown, in more than one frame if there are: one that is
    partly hidden is smaller, and stays."""
    start = way.corners[next((frame for frame in prompted if frame in way.corners), min(way.corners))]
    out = sum(share_within(corners, start) < SHARPENS for corners in way.corners.values())
    return out >= min(2, len(way.corners) - 1) > 0


def decide_carried(region: PlanRegion, tracks: Tracks) -> ClipRegion:
    """The plan's own mask as it was carried along the motion; a rectangle stays one. region: the plan's."""
    notes = [*region.notes, "nobody followed it: the plan's own mask is carried along the motion"]

    def masks(first: int, stop: int) -> Tensor:
        found = tracks.union(first, stop).float()
        if not region.rectangle:
            return found
        boxes = {first + at: box for at, each in enumerate(found) if (box := bounding_box(each)) is not None}
        return _drawn(boxes, first, stop, *found.shape[1:])

    return ClipRegion(masks, notes)


def _decided_alone(
    plan: Plan, region: PlanRegion, silhouettes: Silhouettes | None, shape: tuple[int, int, int], grow: float
) -> ClipRegion:
    """By the rule of stills, which then is the same in every frame."""

    def decided(first: int, stop: int) -> Region:
        objects = None
        if silhouettes is not None:
            objects = torch.stack([silhouettes(frame) for frame in range(first, stop)])[None]
        return decide(plan, region, objects, (stop - first, *shape[1:]), grow)

    def masks(first: int, stop: int) -> Tensor:
        mask = decided(first, stop).mask
        assert mask is not None
        return mask

    head = decided(0, 1)
    return ClipRegion(None if head.mask is None else masks, head.notes)


def _empty(way: Way) -> list[str]:
    """A note of the frames in which nothing was followed."""
    lost = [frame + 1 for frame in range(way.count) if frame not in way.corners]
    if not lost:
        return []
    which = f"frame {lost[0]}" if len(lost) == 1 else f"{len(lost)} frames, the first of them {lost[0]},"
    return [f"in {which} it was not found: nothing is edited there"]


def along(rectangle: Tensor, way: Way, prompted: Sequence[int]) -> dict[int, Corners]:
    """The places, by frame, of a plan's rectangle, float [H, W], that goes along with what is followed.

    One that holds all of its way, and much more than the thing where it was shown, is the place of the whole
    clip: in each frame it is as much smaller as the thing moves, so that all of them together fill it. Any
    other is the place in the first frame of `prompted`, and goes as far as the thing's sides do: of one that
    is partly out of the picture only the inner side tells. One that holds the thing keeps its room around it
    where that grows. Where nothing is followed in a frame, nothing is edited there.
    """
    asked = bounding_box(rectangle)
    if asked is None or not way.corners:
        return {}
    middles = {frame: ((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for frame, c in way.corners.items()}
    whole = float((way.sweep * rectangle).sum()) >= COVERS * float(way.sweep.sum())
    start = way.corners[next((frame for frame in prompted if frame in middles), min(middles))]
    whole = whole and box_iou(start, asked) < AGREE
    holds = share_within(start, asked) >= COVERS
    sides = rectangle.shape[1], rectangle.shape[0]
    ranges = [
        (min(middle[axis] for middle in middles.values()), max(middle[axis] for middle in middles.values()))
        for axis in (0, 1)
    ]
    places: dict[int, Corners] = {}
    for frame, corners in way.corners.items():
        place: list[float] = []
        for axis, (least, most) in enumerate(ranges):
            low, high = float(asked[axis]), float(asked[axis + 2])
            if whole:
                size = max(high - low - (most - least), corners[axis + 2] - corners[axis])
                first = low + middles[frame][axis] - least
                place += [first, first + size]
            else:
                shift = _shift(start, corners, axis, sides[axis])
                ends = [low + shift, high + shift]
                if holds:
                    ends[0] = min(ends[0], corners[axis] - max(0.0, start[axis] - low))
                    ends[1] = max(ends[1], corners[axis + 2] + max(0.0, high - start[axis + 2]))
                place += ends
        x0, x1, y0, y1 = place
        places[frame] = (x0, y0, x1, y1)
    return places


def _shift(start: Sequence[float], now: Sequence[float], axis: int, side: int) -> float:
    """How far a thing went along an axis (0: x), by its corners then and now, in a picture of `side` pixels
    there."""
    moved = [now[end] - start[end] for end in (axis, axis + 2)]
    both = (start, now)
    cut = [any(each[axis] <= 0 for each in both), any(each[axis + 2] >= side for each in both)]
    inner = [by for by, out in zip(moved, cut, strict=True) if not out] or moved
    return sum(inner) / len(inner)


def _drawn(places: Mapping[int, Corners], first: int, stop: int, height: int, width: int) -> Tensor:
    """Places by frame as float [stop - first, H, W]; nothing where there is none."""
    nowhere = torch.zeros(height, width)
    return torch.stack(
        [
            box_mask(places[frame], height, width) if frame in places else nowhere
            for frame in range(first, stop)
        ]
    )
