"""Where a plan's edits go: the boxes of its targets, and from them the masks, step after step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from .ground.which import find, which
from .plan.doubt import doubt
from .plan.trace import Plan
from .segment.base_region import decide_by_found, detect
from .segment.clip_region import decide_clip
from .segment.region import (
    PlanRegion,
    Region,
    agreeing_in_frames,
    clip_to_boxes,
    corrected_in_clip,
    decide,
    plan_region,
)

if TYPE_CHECKING:
    from .boxes import Box
    from .segment.segmenter import Segmentation


class AnyGrounder(Protocol):
    def ground(self, frames: Tensor, labels: Sequence[str], threshold: float | None = None) -> list[Box]: ...


class AnySegmenter(Protocol):
    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation: ...


@dataclass(frozen=True)
class Grounded:
    """Boxes of a plan's targets in pixels; by_plan: they are the plan's own, not a detector's. region: the
    plan's, corrected by a sure detection. notes: decisions, in words."""

    boxes: list[Box]
    by_plan: bool
    region: PlanRegion
    notes: list[str]


def ground_plan(
    grounder: Any, frames: Tensor, plan: Plan, threshold: float | None = None, **how: Any
) -> Grounded:
    """Where the plan's targets are in frames [F, H, W, 3]: by a detector, else by the plan's own mask text.

    grounder: a `Grounder`, or None. how: more arguments for its `ground`. Nothing found is no boxes, and a
    note.
    """
    from .ground.grounder import plan_boxes

    height, width = frames.shape[1:3]
    region = plan_region(plan, height, width)
    if plan.changes_nothing:
        return Grounded([], False, region, list(region.notes))
    notes: list[str] = []
    if grounder is not None and plan.targets:
        if plan.trust == "base":
            kept, notes = detect(grounder, frames, plan, region, threshold, **how)
        else:
            detected, said = find(grounder, frames, plan.targets, threshold, **how)
            begins = corrected_in_clip(detected, region, len(plan.targets))
            several = any(which(label).count != 1 for label in plan.targets)
            kept, notes = agreeing_in_frames(detected, region, len(plan.targets) + several, begins)
            region = begins
            notes = said + notes
            if not kept:
                notes.append(f"the detector found no {' or '.join(plan.targets)} that the plan means")
        if kept:
            return Grounded(kept, False, region, notes)
    boxes = [] if region.mask is None else plan_boxes(plan, height, width)
    return Grounded(boxes, bool(boxes), region, notes)


def ground_steps(
    grounder: Any, frames: Tensor, plan: Plan, threshold: float | None = None, **how: Any
) -> list[Grounded]:
    """As `ground_plan`, for each step of a plan: all of them are looked for in the original. Boxes say to
    which step they belong, and notes of several steps say so too."""
    found = []
    for number, step in enumerate(plan.steps, 1):
        each = ground_plan(grounder, frames, step, threshold, **how)
        boxes = [replace(box, step=number) for box in each.boxes]
        found.append(replace(each, boxes=boxes, notes=of_step(plan, number, each.notes)))
    return found


def of_step(plan: Plan, number: int, notes: Sequence[str]) -> list[str]:
    """Notes that say to which step they belong, where a plan has several."""
    return [f"step {number}: {note}" for note in notes] if plan.several else list(notes)


def for_steps(plan: Plan, boxes: Sequence[Box]) -> list[Box]:
    """Boxes from anywhere, each with the step that it belongs to.

    One whose step is not known (0, or more than there are) belongs to the steps that have its label among
    their targets; where none has, to all of them: it comes back once for each.
    """
    if not plan.several:
        return [replace(box, step=1) for box in boxes]
    numbers = range(1, len(plan.steps) + 1)
    named = [
        {each.lower() for label in step.targets for each in (label, which(label).name)} for step in plan.steps
    ]
    placed: list[Box] = []
    for box in boxes:
        known = [box.step] if box.step in numbers else []
        own = known or [number for number in numbers if box.label.lower() in named[number - 1]] or numbers
        placed += [replace(box, step=number) for number in own]
    return placed


def doubt_steps(plan: Plan, whole_frame: Sequence[bool], looked: bool = True) -> str:
    """As `doubt`, for each step of a plan with its own `whole_frame`; the first reason, and of which step."""
    reasons = (
        (number, doubt(replace(step, repairs=plan.repairs), whole, looked))
        for number, (step, whole) in enumerate(zip(plan.steps, whole_frame, strict=True), 1)
        if not step.changes_nothing
    )
    return next((" ".join(of_step(plan, number, [why])) for number, why in reasons if why), "")


def segment_plan(
    segmenter: AnySegmenter,
    frames: Tensor,
    plan: Plan,
    boxes: Sequence[Box],
    grow: float = 0.03,
    region: PlanRegion | None = None,
) -> tuple[Region, Tensor]:
    """(where the plan may edit frames [F, H, W, 3], silhouettes [N, F, H, W]) from the boxes of its targets.

    grow: as in `Pipeline.run`. region: the plan's, as `ground_plan` gave it; None: read from the plan here,
    and corrected by the boxes. A plan of trust "base" prompts with its own box where there are none.
    """
    count, height, width = frames.shape[:3]
    base = plan.trust == "base"
    if region is None:
        region = plan_region(plan, height, width)
        if not base:
            region = corrected_in_clip(boxes, region, len(plan.targets))
    if base and not boxes and region.mask is not None and not plan.changes_nothing:
        from .ground.grounder import plan_boxes

        boxes = plan_boxes(plan, height, width)
    objects, notes = (
        clip_to_boxes(segmenter.segment(frames, boxes=boxes).masks, boxes) if boxes else (None, [])
    )
    decided = decide_place(plan, region, boxes, objects, (count, height, width), grow)
    decided.notes[:0] = notes
    return decided, frames.new_zeros(0, count, height, width) if objects is None else objects


def segment_steps(
    segmenter: AnySegmenter,
    frames: Tensor,
    plan: Plan,
    boxes: Sequence[Box],
    grow: float = 0.03,
    regions: Sequence[PlanRegion] | None = None,
) -> list[tuple[Region, Tensor]]:
    """As `segment_plan`, for each step of a plan, from the boxes that belong to it (`for_steps`)."""
    placed = []
    boxes = for_steps(plan, boxes)
    remembering = getattr(segmenter, "remembering", nullcontext)  # a tracker has none
    with remembering():
        for number, step in enumerate(plan.steps, 1):
            own = [box for box in boxes if box.step == number]
            region = None if regions is None else regions[number - 1]
            decided, objects = segment_plan(segmenter, frames, step, own, grow, region)
            placed.append((replace(decided, notes=of_step(plan, number, decided.notes)), objects))
    return placed


def decide_place(
    plan: Plan,
    region: PlanRegion,
    boxes: Sequence[Box],
    objects: Tensor | None,
    shape: tuple[int, int, int],
    grow: float,
) -> Region:
    """By the rule that the plan's trust calls for; in a clip each frame by what is there."""
    if shape[0] > 1:
        prompted = sorted({box.frame for box in boxes})
        found = any(not box.by_plan for box in boxes)
        return decide_clip(plan, region, objects, prompted, found, shape, grow)
    if plan.trust == "base":
        return decide_by_found(plan, region, boxes, objects, shape, grow)
    return decide(plan, region, objects, shape, grow)
