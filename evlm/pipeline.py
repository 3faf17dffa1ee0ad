"""The five steps in a row: request, plan, boxes, mask, edited frames. Every intermediate comes out too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from .errors import ModelError
from .events import STEPS, Event, OnEvent, Step, Watch
from .plan.doubt import doubt
from .plan.trace import Plan, Trace
from .request import Request
from .segment.base_region import decide_by_found, detect
from .segment.region import (
    NO_CHANGE,
    PlanRegion,
    Region,
    agreeing,
    clip_to_boxes,
    corrected,
    decide,
    fitted,
    plan_region,
    rectangles,
)

__all__ = [
    "STEPS",
    "Changes",
    "Event",
    "Grounded",
    "OnEvent",
    "Pipeline",
    "Planned",
    "Result",
    "Step",
    "ground_plan",
    "segment_plan",
]

if TYPE_CHECKING:
    from .boxes import Box
    from .edit.protocol import Editor, EditSettings
    from .reason.reasoner import Reasoned, Sampling
    from .segment.segmenter import Segmentation


@dataclass(frozen=True)
class Result:
    """One edit with everything in between.

    text: what the reasoner wrote, as it wrote it. boxes: in pixels, those that agreed with the plan.
    object_masks: float [N, F, H, W], or None where nothing was segmented. mask: float [F, H, W] in 0..1;
    None: the whole frame. edited: float [F, H, W, 3] in 0..1, equal to the original bit for bit where the
    mask is 0.
    crops: what the editor cut out and worked on. seconds: of each step that ran. notes: decisions, in words.
    held_back: why nothing was painted (`plan.doubt`), and edited is the original; empty: it was.
    """

    trace: Trace
    plan: Plan
    text: str
    boxes: tuple[Box, ...]
    object_masks: Tensor | None
    mask: Tensor | None
    edited: Tensor
    crops: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held_back: str = ""


@dataclass(frozen=True)
class Planned:
    """Everything before the edit: where it goes and what was decided. Fields as `Result`'s.

    doubt: why nothing should be painted by this plan unless somebody says so (`plan.doubt`), or empty.
    """

    trace: Trace
    text: str
    boxes: tuple[Box, ...]
    object_masks: Tensor | None
    mask: Tensor | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubt: str = ""


@dataclass(frozen=True)
class Changes:
    """What somebody who looked at a plan wants otherwise; what is empty stays the plan's.

    instruction: in place of the plan's. targets: labels in place of the plan's, whose own place is then not
    asked. boxes: in pixels, in place of the detector's.
    """

    instruction: str = ""
    targets: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None

    def applied(self, trace: Trace) -> Trace:
        """The trace with its plan changed."""
        plan = trace.plan
        if self.instruction:
            plan = plan.as_one(instruction=self.instruction)
        if self.targets:
            plan = plan.as_one(targets=self.targets, scope="local", mask_text=None)
        elif self.boxes is not None:
            plan = plan.as_one(scope="local", mask_text=None)
        return replace(trace, plan=plan)


class AnyReasoner(Protocol):
    """What the pipeline asks of a reasoner: `Reasoner` and `RemoteReasoner` both are one."""

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: Callable[[str], None] | None = None,
        repair: bool = True,
    ) -> Reasoned: ...


class AnyGrounder(Protocol):
    def ground(self, frames: Tensor, labels: Sequence[str], threshold: float | None = None) -> list[Box]: ...


class AnySegmenter(Protocol):
    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation: ...


class Pipeline:
    """Holds the models and runs them one after the other. Grounder and segmenter may be None: the plan's own
    box and mask then do their work, more coarsely."""

    def __init__(
        self,
        reasoner: AnyReasoner,
        grounder: AnyGrounder | None,
        segmenter: AnySegmenter | None,
        editor: Editor,
    ) -> None:
        self.reasoner, self.grounder, self.segmenter, self.editor = reasoner, grounder, segmenter, editor

    @classmethod
    def load(
        cls,
        models: Mapping[str, Path],
        reasoner: AnyReasoner | None = None,
        adapter: str | Path | None = None,
        dtype: str = "auto",
        device: str | None = None,
        quantize: str | None = None,
        max_pixels: int | None = None,
        compiled: bool = False,
    ) -> Pipeline:
        """Load what `zoo.choose` found.

        reasoner: one that is loaded already, or speaks to an endpoint, instead of models["reasoner"].
        adapter, quantize, max_pixels, compiled: of the reasoner. Raises ModelError when it or an editor is
        lacking.
        """
        needed = ("editor",) if reasoner else ("reasoner", "editor")
        lacking = [role for role in needed if role not in models]
        if lacking:
            raise ModelError(
                f"no {' and no '.join(lacking)} among the models; name one, for example 'bundled', "
                "or 'qwen2-vl-7b' and 'instruct-pix2pix'"
            )
        grounder: AnyGrounder | None = None
        segmenter: AnySegmenter | None = None
        if reasoner is None:
            from .reason.reasoner import Reasoner

            reasoner = Reasoner.load(
                models["reasoner"],
                adapter,
                dtype,
                device,
                quantize=quantize,
                max_pixels=max_pixels,
                compiled=compiled,
            )
        if "detector" in models:
            from .ground.grounder import Grounder

            grounder = Grounder.load(models["detector"], dtype=dtype, device=device)
        if "segmenter" in models:
            from .segment.segmenter import Segmenter

            segmenter = Segmenter.load(models["segmenter"], dtype=dtype, device=device)
        from .edit.load import load_editor

        return cls(reasoner, grounder, segmenter, load_editor(models["editor"], dtype, device))

    def run(
        self,
        request: Request,
        sampling: Sampling | None = None,
        edit: EditSettings | None = None,
        threshold: float | None = None,
        grow: float = 0.03,
        on_event: OnEvent | None = None,
        anyway: bool = False,
    ) -> Result:
        """Run the five steps.

        sampling, edit, threshold: None takes the model's own defaults.
        grow: how far a silhouette grows where the plan has no mask, as a share of the frame's shorter side.
        on_event: sees every `Event`; what it raises (`Cancelled`) stops the work and passes through.
        anyway: paint by a plan that is doubted, too (`Result.held_back`).
        A plan that asks for no change gives the original back, and a note says so. Raises TraceError when the
        reasoner's text holds no plan, RefusalError when it says that it will not.
        """
        watch = Watch(on_event)
        reasoned = self._reason(request, sampling, watch)
        planned = self._plan(request, reasoned, threshold, grow, Changes(), None, watch)
        return self._paint(request, planned, edit, watch, anyway)

    def reason(
        self, request: Request, sampling: Sampling | None = None, on_event: OnEvent | None = None
    ) -> Reasoned:
        """The first step alone: what the reasoner makes of a request. Arguments and errors as `run`'s."""
        return self._reason(request, sampling, Watch(on_event))

    def plan(
        self,
        request: Request,
        reasoned: Reasoned,
        threshold: float | None = None,
        grow: float = 0.03,
        changes: Changes | None = None,
        mask: Tensor | None = None,
        on_event: OnEvent | None = None,
    ) -> Planned:
        """Where the edit goes: the steps "ground" and "segment" of an answer that `reason` gave.

        changes: what somebody who looked at the plan wants otherwise.
        mask: [F, H, W] or [1, H, W] in 0..1, at the original's size; takes the place of both steps.
        """
        watch = Watch(on_event)
        watch.notes += request.notes
        return self._plan(request, reasoned, threshold, grow, changes or Changes(), mask, watch)

    def paint(
        self,
        request: Request,
        planned: Planned,
        edit: EditSettings | None = None,
        on_event: OnEvent | None = None,
        anyway: bool = False,
    ) -> Result:
        """The last step alone, as often as one likes, inside the planned mask. anyway: as `run`'s."""
        return self._paint(request, planned, edit, Watch(on_event), anyway)

    def _reason(self, request: Request, sampling: Sampling | None, watch: Watch) -> Reasoned:
        watch.note("reason", list(request.notes))
        with watch.step("reason") as done:
            reasoned = self.reasoner.reason(request, sampling, on_token=watch.text)
            done(reasoned.trace.plan.instruction)
        return reasoned

    def _plan(
        self,
        request: Request,
        reasoned: Reasoned,
        threshold: float | None,
        grow: float,
        changes: Changes,
        mask: Tensor | None,
        watch: Watch,
    ) -> Planned:
        frames = request.original
        height, width = frames.shape[1:3]
        trace = changes.applied(reasoned.trace)
        plan = trace.plan
        watch.note("reason", [*(f"repaired: {repair}" for repair in plan.repairs), *reasoned.notes])
        objects: Tensor | None = None
        boxes: list[Box] = []
        if mask is not None:
            decided = Region(fitted(mask, frames), ["the mask that was given takes the place of the plan's"])
        else:
            region = plan_region(plan, height, width)
            if changes.boxes is not None:
                boxes = list(changes.boxes)
            elif plan.scope == "local" and not plan.changes_nothing:
                with watch.step("ground") as done:
                    grounded = ground_plan(self.grounder, frames, plan, threshold)
                    boxes, region = grounded.boxes, grounded.region
                    watch.note("ground", grounded.notes)
                    detections = ", ".join(f"{b.label} {b.score:.2f}" for b in boxes) or "nothing found"
                    done(f"{boxes[0].label}, the plan's own box" if grounded.by_plan else detections)
            if plan.scope == "local" and self.segmenter is not None and boxes:
                with watch.step("segment") as done:
                    decided, objects = segment_plan(self.segmenter, frames, plan, boxes, grow, region)
                    done(f"{objects.shape[0]} object{'s' * (objects.shape[0] != 1)}")
            else:
                objects = rectangles(boxes, frames) if changes.boxes else None
                shape = (frames.shape[0], height, width)
                decided = _decide(plan, region, boxes, objects, shape, grow)
        watch.note("segment", decided.notes)
        looked_at = mask is not None or changes != Changes()
        return Planned(
            trace,
            reasoned.text,
            tuple(boxes),
            objects,
            decided.mask,
            watch.seconds,
            tuple(watch.notes),
            "" if looked_at else doubt(plan, decided.mask is None),
        )

    def _paint(
        self, request: Request, planned: Planned, edit: EditSettings | None, watch: Watch, anyway: bool
    ) -> Result:
        frames, mask, plan = request.original, planned.mask, planned.trace.plan
        watch.notes = list(planned.notes)
        watch.seconds = dict(planned.seconds)
        crops: Tensor | None = None
        held_back = "" if anyway or plan.changes_nothing else planned.doubt
        with watch.step("edit") as done:
            if plan.changes_nothing:  # whatever mask was given
                edited, mask = frames.clone(), frames.new_zeros(frames.shape[:3])
                watch.note("edit", [] if NO_CHANGE in watch.notes else [NO_CHANGE])
            elif held_back:
                edited = frames.clone()
                watch.note("edit", [f"nothing was painted: {held_back}"])
            elif mask is not None and not bool(mask.any()):
                edited = frames.clone()
            else:
                result = self.editor.edit(
                    frames, plan.instruction, mask, settings=edit, on_step=watch.progress
                )
                edited, crops = result.frames, result.crops
                watch.note("edit", list(result.notes))
            share = "whole frame" if mask is None else f"{float((mask > 0).float().mean()):.0%} of the frame"
            done("nothing" if held_back else share)
        before = (planned.trace, plan, planned.text, planned.boxes, planned.object_masks, mask)
        return Result(*before, edited, crops, watch.seconds, tuple(watch.notes), held_back)


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
            detected = grounder.ground(frames, plan.targets, threshold=threshold, **how)
            if len(frames) == 1:
                region = corrected(detected, region, len(plan.targets))
            kept, notes = agreeing(detected, region, len(plan.targets))
            if not kept:
                notes.append(f"the detector found no {' or '.join(plan.targets)} that the plan means")
        if kept:
            return Grounded(kept, False, region, notes)
    boxes = [] if region.mask is None else plan_boxes(plan, height, width)
    return Grounded(boxes, bool(boxes), region, notes)


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
        if count == 1 and not base:
            region = corrected(boxes, region, len(plan.targets))
    if base and not boxes and region.mask is not None and not plan.changes_nothing:
        from .ground.grounder import plan_boxes

        boxes = plan_boxes(plan, height, width)
    objects, notes = (
        clip_to_boxes(segmenter.segment(frames, boxes=boxes).masks, boxes) if boxes else (None, [])
    )
    decided = _decide(plan, region, boxes, objects, (count, height, width), grow)
    decided.notes[:0] = notes
    return decided, frames.new_zeros(0, count, height, width) if objects is None else objects


def _decide(
    plan: Plan,
    region: PlanRegion,
    boxes: Sequence[Box],
    objects: Tensor | None,
    shape: tuple[int, int, int],
    grow: float,
) -> Region:
    """By the rule that the plan's trust calls for."""
    if plan.trust == "base":
        return decide_by_found(plan, region, boxes, objects, shape, grow)
    return decide(plan, region, objects, shape, grow)
