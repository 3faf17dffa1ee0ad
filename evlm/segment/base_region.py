"""Where an edit may happen by a plan of trust "base": its model was never trained on masks, so what is found
decides.

Such a model names things well and places them badly. The detector and SAM 2 draw the region; the plan's own
box chooses among several detections of a label, and is SAM 2's prompt where nothing was found. It is the
region itself only where nothing else can say it: of a thing that is added, and where SAM 2 sees nothing that
fills it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..boxes import bounding_box, box_iou
from ..ground.which import find, which
from ..plan.mask_codec import mask_iou
from ..plan.trace import Plan
from .region import SHARPENS, PlanRegion, Region, decide, rectangles

if TYPE_CHECKING:
    from ..boxes import Box, Corners

RIVAL = 0.5  # share of a label's best score from which a box may be the one that the plan means
_ADDS = re.compile(r"\s*(?:please\s+)?(?:add|insert|put|place|attach|include)\b", re.IGNORECASE)


NONE = "the detector found no"


def detect(
    grounder: Any,
    frames: Tensor,
    plan: Plan,
    region: PlanRegion,
    threshold: float | None,
    last: dict[str, Corners] | None = None,
    **how: Any,
) -> tuple[list[Box], list[str]]:
    """The boxes of the plan's targets in frames [F, H, W, 3], and what was decided, in words.

    grounder: a `Grounder`. region: the plan's. last: where each label was in the frames before these, brought
    up to date; of one that was nowhere yet the plan says it. how: more arguments for its `ground`; with
    keep="all" all boxes are kept, else one of each label in each frame, or as many as the label says.
    """
    place = None if region.mask is None else bounding_box(region.mask)
    if place is not None and _ADDS.match(plan.instruction):
        return [], ["something new is added, so no detector is asked: the plan's own box is its place"]
    choosing = place is not None and how.get("keep", "best") == "best"
    if choosing:
        how["keep"] = "all"
    boxes, notes = find(grounder, frames, plan.targets, threshold, **how)
    if not boxes:
        return [], [*notes, f"{NONE} {' or '.join(plan.targets)}"]
    if not choosing or place is None:
        return boxes, notes
    kept = [box for box in boxes if not which(box.label).plain]  # which and how many was said
    boxes = [box for box in boxes if which(box.label).plain]
    for label in dict.fromkeys(box.label for box in boxes):
        last = {} if last is None else last
        nearby, first = last.get(label, place), label not in last
        for frame in range(len(frames)):
            found = [box for box in boxes if (box.label, box.frame) == (label, frame)]
            if not found:
                continue
            box = _meant(found, nearby)
            if first and len(found) > 1 and frame == min(box.frame for box in boxes if box.label == label):
                notes.append(
                    f"{len(found)} boxes of {label!r} were found: the plan's own box chooses the one with "
                    f"score {box.score:.2f} (IoU {box_iou(box.corners, place):.2f})"
                )
            kept.append(box)
            nearby = last[label] = box.corners  # in a clip the thing is followed from frame to frame
    return sorted(kept, key=lambda box: box.frame), notes


def decide_by_found(
    plan: Plan,
    region: PlanRegion,
    boxes: Sequence[Box],
    objects: Tensor | None,
    shape: tuple[int, int, int],
    grow: float,
) -> Region:
    """The final mask. boxes: of the targets, a detector's or the plan's own. The rest as in `region.decide`,
    which says what happens where the plan has no place."""
    if plan.changes_nothing or plan.scope == "global":
        return decide(plan, region, objects, shape, grow)
    found = [box for box in boxes if not box.by_plan]
    if found and (objects is None or not bool(objects.any())):
        objects = rectangles(found, torch.zeros(*shape, 3))  # nobody draws a better outline
    if region.mask is None or objects is None or not bool(objects.any()):
        return decide(plan, region, None if region.mask is not None else objects, shape, grow)
    silhouette, notes = objects.amax(0), list(region.notes)
    agreement = mask_iou(silhouette[0], region.mask)
    if found:
        notes.append(
            "what was found decides, for the model was never trained on places "
            f"(IoU {agreement:.2f} with the plan's own)"
        )
        return Region(silhouette, notes)
    asked = region.mask.expand(*shape)
    if _ADDS.match(plan.instruction):
        return Region(asked, [*notes, "room for something new: the plan's own box is taken"])
    if agreement < SHARPENS:
        notes.append(f"nothing fills the plan's own box (IoU {agreement:.2f}): it is taken as it is")
        return Region(asked, notes)
    notes.append(f"nothing was detected: what SAM 2 sees in the plan's own box (IoU {agreement:.2f})")
    return Region(silhouette, notes)


def _meant(boxes: Sequence[Box], place: Corners) -> Box:
    """The box of one label that overlaps the place most; where none does, the nearest. A box far less sure
    than the best one is none of them."""
    least = RIVAL * max(box.score for box in boxes)
    rivals = [box for box in boxes if box.score >= least]
    return max(
        rivals, key=lambda box: (box_iou(box.corners, place), -_distance(box.corners, place), box.score)
    )


def _distance(a: Corners, b: Corners) -> float:
    """Between two centres, in pixels."""
    return math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
