"""Where an edit may happen: the plan's own region, sharpened by what the detector and SAM 2 found.

The plan's mask is what the reasoner asked for, and it decides. An exact rectangle asks for room (a new
object, or the old one's whole place), so it stays a rectangle. Any other plan mask is a coarse silhouette:
SAM 2 draws the fine one, from detected boxes that agree with the plan. Without a plan mask the detected
objects are the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..boxes import bounding_box, box_iou, share_within
from ..errors import MaskTextError, RequestError
from ..masks import box_mask
from ..masks import grow as grown
from ..plan.mask_codec import decode_mask, is_rectangle, mask_iou
from ..plan.trace import Plan

if TYPE_CHECKING:
    from ..boxes import Box

AGREE = 0.3  # IoU below which a detected box is about something else than the plan
SURE = 0.6  # score from which a detected box is believed against the plan's own place
SHARPENS = 0.5  # IoU that a silhouette needs with the plan's coarse mask, to take its place
INSIDE = 0.7  # of several targets, each box need only lie this far within the plan's region


@dataclass(frozen=True)
class PlanRegion:
    """What the plan itself says about the place.

    mask: float [H, W] of 0 and 1, or None. rectangle: it is an exact one, which asks for room. moved: it is
    the box of a sure detection with a little room, in place of the plan's own (`corrected`); but for an exact
    rectangle what is segmented there decides.
    """

    mask: Tensor | None
    rectangle: bool = False
    notes: tuple[str, ...] = ()
    moved: bool = False


@dataclass
class Region:
    """mask: float [F, H, W] in 0..1, or None for the whole frame. notes: what was decided, and why."""

    mask: Tensor | None
    notes: list[str] = field(default_factory=list)


NO_CHANGE = "the plan asks for no change: the original stays as it is"


def plan_region(plan: Plan, height: int, width: int) -> PlanRegion:
    """Read the plan's mask text; empty for a plan that changes nothing. A malformed one is a note, not an
    exception."""
    if plan.changes_nothing:
        return PlanRegion(torch.zeros(height, width), notes=(NO_CHANGE,))
    if plan.scope == "global" or plan.mask_text is None:
        return PlanRegion(None)
    try:
        mask = decode_mask(plan.mask_text, height, width)
    except MaskTextError as error:
        return PlanRegion(None, notes=(f"the plan's mask cannot be read ({error}); the targets decide",))
    return PlanRegion(mask, rectangle=is_rectangle(plan.mask_text))


def agreeing(boxes: Sequence[Box], region: PlanRegion, targets: int) -> tuple[list[Box], list[str]]:
    """The detected boxes that are about the plan's region, and a note for each that is not."""
    asked = None if region.mask is None else bounding_box(region.mask)
    if asked is None:
        return list(boxes), []
    kept, notes = [], []
    for box in boxes:
        overlap, within = box_iou(box.corners, asked), share_within(box.corners, asked)
        if overlap >= AGREE or (targets > 1 and within >= INSIDE):
            kept.append(box)
        else:
            what = f"the detected {box.label!r} ({box.score:.2f})"
            notes.append(f"{what} is not where the plan says (IoU {overlap:.2f}): dropped")
    return kept, notes


def agreeing_in_frames(
    boxes: Sequence[Box], region: PlanRegion, targets: int, start: PlanRegion | None = None
) -> tuple[list[Box], list[str]]:
    """As `agreeing`, of boxes in several frames. The plan's region is where a thing begins: one that was
    there in a frame is followed to the nearest box of its label in those that come behind it. start: the
    region of the first frame that has boxes, where that is another one."""
    kept: list[Box] = []
    notes: list[str] = []
    last: dict[str, Box] = {}
    for number, frame in enumerate(sorted({box.frame for box in boxes})):
        place = region if start is None or number else start
        here = [box for box in boxes if box.frame == frame]
        there = {box.label for box in agreeing(here, place, targets)[0]}
        followed = [_nearest(here, box) for label, box in last.items() if label not in there]
        gone_on = [box for box in followed if box is not None]
        agreed, said = agreeing([box for box in here if box not in gone_on], place, targets)
        notes += said
        notes += [f"the {box.label!r} is followed to where it goes" for box in gone_on]
        last |= {box.label: box for box in (*agreed, *gone_on)}
        kept += [box for box in here if box in agreed or box in gone_on]
    return kept, list(dict.fromkeys(notes))


def _nearest(boxes: Sequence[Box], last: Box) -> Box | None:
    """The box of the same label whose middle is nearest; None where there is none."""
    own = [box for box in boxes if box.label == last.label]
    return min(own, key=lambda box: _squared(box, last), default=None)


def _squared(a: Box, b: Box) -> float:
    return (a.x0 + a.x1 - b.x0 - b.x1) ** 2 + (a.y0 + a.y1 - b.y0 - b.y1) ** 2


def corrected(boxes: Sequence[Box], region: PlanRegion, targets: int) -> PlanRegion:
    """The plan's region, moved to a detected box when the detector is sure and the plan points elsewhere.

    The plan's words and its place then contradict each other, and a reasoner names things better than it
    places them. Only one target in one frame is moved, and never a box that lies within the region, as
    where a thing is moved to.
    """
    asked = None if region.mask is None else bounding_box(region.mask)
    if region.mask is None or asked is None or targets != 1 or len(boxes) != 1:
        return region
    box = boxes[0]
    sure = box.score >= SURE
    if not sure or box_iou(box.corners, asked) >= AGREE or share_within(box.corners, asked) >= AGREE:
        return region
    note = f"the plan's mask lies elsewhere than the {box.label!r} ({box.score:.2f}) it names: that is taken"
    margin = 0.1 * max(box.x1 - box.x0, box.y1 - box.y0)
    there = box_mask(box.grown(margin, margin), *region.mask.shape)
    return PlanRegion(there, region.rectangle, (*region.notes, note), moved=True)


def corrected_in_clip(boxes: Sequence[Box], region: PlanRegion, targets: int) -> PlanRegion:
    """As `corrected`, by the first frame that has boxes: there a thing that is followed begins."""
    first = min((box.frame for box in boxes), default=0)
    return corrected([box for box in boxes if box.frame == first], region, targets)


def clip_to_boxes(objects: Tensor, boxes: Sequence[Box], margin: float = 0.15) -> tuple[Tensor, list[str]]:
    """Silhouettes [N, F, H, W] cut off where they run away from the boxes that asked for them, in the frames
    that have any; in others they were followed.

    margin: how far beyond a box is still near, as a share of its sides. A note says when much was cut off.
    """
    allowed = torch.ones(objects.shape[1:])
    allowed[sorted({box.frame for box in boxes})] = 0
    for box in boxes:
        reach = box.grown(margin * (box.x1 - box.x0), margin * (box.y1 - box.y0))
        allowed[box.frame] = torch.maximum(allowed[box.frame], box_mask(reach, *objects.shape[2:]))
    cut = objects * allowed
    return cut, ran_over(float(objects.sum()), float(cut.sum()))


def ran_over(drawn: float, near: float) -> list[str]:
    """A note where much of what was drawn is not near its boxes. drawn, near: pixels."""
    lost = 1 - near / max(drawn, 1e-9)
    if lost <= 0.1 or not drawn:
        return []
    return [f"the segmenter ran {lost:.0%} over its boxes: cut off there"]


def decide(
    plan: Plan, region: PlanRegion, objects: Tensor | None, shape: tuple[int, int, int], grow: float
) -> Region:
    """The final mask.

    objects: float [N, F, H, W], the silhouettes that were found (N may be 0), or None where nothing could be
    segmented.
    shape: (F, H, W) of the original. grow: how far a silhouette grows where no plan says how far the edit may
        reach, as a share of the frame's shorter side.
    """
    frames, height, width = shape
    notes = list(region.notes)
    if plan.changes_nothing:
        return Region(torch.zeros(shape), notes or [NO_CHANGE])
    if plan.scope == "global":
        return Region(None, [*notes, "the scope is global: the whole frame is edited"])
    silhouette = objects.amax(0) if objects is not None and objects.shape[0] else None
    if region.mask is None:
        if silhouette is None:
            what = ", ".join(plan.targets) or "no target"
            return Region(
                None, [*notes, f"nothing was found for {what}, and the plan has no mask: whole frame"]
            )
        reach = max(1, round(grow * min(height, width)))
        return Region(
            grown(silhouette, reach), [*notes, f"the region is what was found, grown by {reach} px"]
        )
    asked = region.mask.expand(frames, height, width)
    if not bool(asked.any()):
        return Region(asked, [*notes, "the plan's mask is empty: nothing is edited"])
    if region.rectangle:
        return Region(asked, [*notes, "the plan asks for a rectangle: it is taken as it is"])
    if region.moved:
        found = silhouette is not None and bool(silhouette.any())
        how = (
            "the region is what was segmented there"
            if found
            else "nothing was segmented there: it is the box"
        )
        return Region(silhouette if found else asked, [*notes, how])
    if silhouette is None:
        return Region(asked, [*notes, "nothing was segmented: the plan's own mask is taken"])
    agreement = mask_iou(silhouette[0], region.mask)
    if agreement < SHARPENS:
        notes.append(f"the silhouette is not the plan's (IoU {agreement:.2f}): the plan's own mask is taken")
        return Region(asked, notes)
    return Region(silhouette, [*notes, f"the plan's mask, sharpened by the segmenter (IoU {agreement:.2f})"])


def rectangles(boxes: Sequence[Box], frames: Tensor) -> Tensor:
    """Given boxes as silhouettes [N, F, H, W], where there is no segmenter to draw better ones."""
    objects = frames.new_zeros(len(boxes), *frames.shape[:3])
    for number, box in enumerate(boxes):
        objects[number, box.frame] = box_mask(box.corners, *frames.shape[1:3])
    return objects


def fitted(mask: Tensor, frames: Tensor) -> Tensor:
    """A given mask as [F, H, W]. Raises RequestError for another size."""
    if mask.shape[1:] != frames.shape[1:3] or len(mask) not in (1, len(frames)):
        raise RequestError(
            f"mask of {tuple(mask.shape)}: expected [F, H, W] of {tuple(frames.shape[:3])}, or one for all"
        )
    return mask.expand(len(frames), -1, -1)
