"""Where a plan's edit may happen in a clip, of what was followed through it.

The plan has one mask. It is about the frames that the reasoner saw, all of them together: so a silhouette
agrees with it that fills it in a frame in which it was shown, or that sweeps it out in all of them. It never
stands in for a frame in which something was followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..boxes import bounding_box
from ..masks import box_mask
from ..plan.mask_codec import mask_iou
from ..plan.trace import Plan
from .region import SHARPENS, PlanRegion, Region, decide

COVERS = 0.9  # share of what was followed that a plan's rectangle holds, to be one for the whole clip


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
    followed = objects is not None and bool(objects.any())
    if objects is None or not followed or region.mask is None or not bool(region.mask.any()):
        return decide(plan, region, objects if followed else None, shape, grow)
    silhouette, notes, asked = objects.amax(0), list(region.notes), region.mask
    if region.rectangle and plan.trust != "base":
        return Region(
            moved(asked, silhouette, prompted),
            [
                *notes,
                "the plan asks for a rectangle: it goes along with what is followed",
                *_empty(silhouette),
            ],
        )
    if plan.trust == "base" and found:
        return Region(silhouette, [*notes, "what was found and followed decides"])
    here = [mask_iou(silhouette[frame], asked) for frame in prompted if bool(silhouette[frame].any())]
    agreement = max([*here, mask_iou(silhouette.amax(0), asked)])
    if agreement < SHARPENS:
        why = f"what is followed is not the plan's (IoU {agreement:.2f}): the plan's own mask is taken"
        return Region(asked.expand(*shape), [*notes, why])
    return Region(silhouette, [*notes, f"what the plan means is followed (IoU {agreement:.2f})"])


def _empty(silhouette: Tensor) -> list[str]:
    """A note of the frames in which nothing was followed."""
    lost = [number for number, frame in enumerate(silhouette, 1) if not bool(frame.any())]
    if not lost:
        return []
    which = f"frame {lost[0]}" if len(lost) == 1 else f"{len(lost)} frames, the first of them {lost[0]},"
    return [f"in {which} it was not found: nothing is edited there"]


def moved(rectangle: Tensor, silhouette: Tensor, prompted: Sequence[int]) -> Tensor:
    """A plan's rectangle, float [H, W], that goes along with what is followed, float [F, H, W].

    One that holds all of its way is the place of the whole clip: in each frame it is as much smaller as the
    thing moves, so that all of them together fill it. Any other is the place in the first frame of
    `prompted`. Where nothing is followed in a frame, nothing is edited there.
    """
    asked = bounding_box(rectangle)
    tracks = {
        frame: corners for frame, mask in enumerate(silhouette) if (corners := bounding_box(mask)) is not None
    }
    if asked is None or not tracks:
        return rectangle.expand_as(silhouette)
    middles = {frame: ((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for frame, c in tracks.items()}
    sweep = silhouette.amax(0)
    whole = float((sweep * rectangle).sum()) >= COVERS * float(sweep.sum())
    start = middles[next((frame for frame in prompted if frame in tracks), min(tracks))]
    result = torch.zeros_like(silhouette)
    for frame, corners in tracks.items():
        place: list[float] = []
        for axis in (0, 1):
            low, high = float(asked[axis]), float(asked[axis + 2])
            if whole:
                way = [middle[axis] for middle in middles.values()]
                size = max(high - low - (max(way) - min(way)), corners[axis + 2] - corners[axis])
                first = low + middles[frame][axis] - min(way)
                place += [first, first + size]
            else:
                shift = middles[frame][axis] - start[axis]
                place += [low + shift, high + shift]
        x0, x1, y0, y1 = place
        result[frame] = box_mask((x0, y0, x1, y1), *rectangle.shape)
    return result
