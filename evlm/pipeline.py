"""The five steps in a row: request, plan, boxes, mask, edited frames. Every intermediate comes out too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from .errors import ModelError
from .plan.trace import Plan, Trace
from .request import Request
from .segment.region import PlanRegion, Region, agreeing, clip_to_boxes, corrected, decide, plan_region

if TYPE_CHECKING:
    from .boxes import Box
    from .edit.protocol import Editor, EditSettings
    from .reason.reasoner import Reasoned, Sampling
    from .segment.segmenter import Segmentation

STEPS = ("reason", "ground", "segment", "edit")
Step = Literal["reason", "ground", "segment", "edit"]


@dataclass(frozen=True)
class Event:
    """What is happening, for whoever watches.

    kind: "start" and "end" of a step (end: `text` sums it up in a few words); "text" a piece of what the
    reasoner writes; "progress" `done` of `total` editing steps, with a preview [F, h, w, 3] where there is
    one; "note" a decision.
    """

    step: Step
    kind: Literal["start", "text", "progress", "note", "end"]
    text: str = ""
    done: int = 0
    total: int = 0
    preview: Tensor | None = None


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """One edit with everything in between.

    text: what the reasoner wrote, as it wrote it. boxes: in pixels, those that agreed with the plan.
    object_masks: float [N, F, H, W], or None where nothing was segmented. mask: float [F, H, W] in 0..1;
    None: the whole frame. edited: float [F, H, W, 3] in 0..1, equal to the original bit for bit where the
    mask is 0.
    crops: what the editor cut out and worked on. seconds: of each step that ran. notes: decisions, in words.
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
    ) -> Pipeline:
        """Load what `zoo.choose` found.

        reasoner: one that is loaded already, or speaks to an endpoint, instead of models["reasoner"].
        adapter, quantize: LoRA weights for the reasoner, and "4bit" for it. Raises ModelError when a reasoner
        or an editor is lacking.
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

            reasoner = Reasoner.load(models["reasoner"], adapter, dtype, device, quantize=quantize)
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
    ) -> Result:
        """Run the five steps.

        sampling, edit, threshold: None takes the model's own defaults.
        grow: how far a silhouette grows where the plan has no mask, as a share of the frame's shorter side.
        on_event: sees every `Event`; what it raises (`Cancelled`) stops the work and passes through.
        Raises TraceError when the reasoner's text holds no plan.
        """
        watch = _Watch(on_event)
        frames = request.original
        height, width = frames.shape[1:3]
        watch.note("reason", list(request.notes))

        with watch.step("reason") as done:
            reasoned = self.reasoner.reason(request, sampling, on_token=watch.text)
            plan = reasoned.trace.plan
            watch.notes += [f"repaired: {repair}" for repair in plan.repairs]
            done(plan.instruction)

        region = plan_region(plan, height, width)
        boxes: list[Box] = []
        if plan.scope == "local":
            with watch.step("ground") as done:
                grounded = ground_plan(self.grounder, frames, plan, threshold)
                boxes, region = grounded.boxes, grounded.region
                watch.note("ground", grounded.notes)
                detections = ", ".join(f"{b.label} {b.score:.2f}" for b in boxes) or "nothing found"
                done(f"{boxes[0].label}, the plan's own box" if grounded.by_plan else detections)

        objects: Tensor | None = None
        if plan.scope == "local" and self.segmenter is not None and boxes:
            with watch.step("segment") as done:
                decided, objects = segment_plan(self.segmenter, frames, plan, boxes, grow, region)
                done(f"{objects.shape[0]} object{'s' * (objects.shape[0] != 1)}")
        else:
            decided = decide(plan, region, None, (frames.shape[0], height, width), grow)
        mask = decided.mask
        watch.note("segment", decided.notes)

        crops: Tensor | None = None
        with watch.step("edit") as done:
            if mask is not None and not bool(mask.any()):
                edited = frames.clone()
            else:
                result = self.editor.edit(
                    frames, plan.instruction, mask, settings=edit, on_step=watch.progress
                )
                edited, crops = result.frames, result.crops
                watch.note("edit", list(result.notes))
            done("whole frame" if mask is None else f"{float((mask > 0).float().mean()):.0%} of the frame")
        return Result(
            reasoned.trace,
            plan,
            reasoned.text,
            tuple(boxes),
            objects,
            mask,
            edited,
            crops,
            watch.seconds,
            tuple(watch.notes),
        )


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
    notes: list[str] = []
    if grounder is not None and plan.targets:
        detected = grounder.ground(frames, plan.targets, threshold=threshold, **how)
        if len(frames) == 1:
            region = corrected(detected, region, len(plan.targets))
        kept, notes = agreeing(detected, region, len(plan.targets))
        if kept:
            return Grounded(kept, False, region, notes)
        notes.append(f"the detector found no {' or '.join(plan.targets)} that the plan means")
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
    and corrected by the boxes.
    """
    count, height, width = frames.shape[:3]
    if region is None:
        region = plan_region(plan, height, width)
        if count == 1:
            region = corrected(boxes, region, len(plan.targets))
    objects, notes = (
        clip_to_boxes(segmenter.segment(frames, boxes=boxes).masks, boxes) if boxes else (None, [])
    )
    decided = decide(plan, region, objects, (count, height, width), grow)
    decided.notes[:0] = notes
    return decided, frames.new_zeros(0, count, height, width) if objects is None else objects


class _Watch:
    """Times the steps and tells whoever listens."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    @contextmanager
    def step(self, name: Step) -> Iterator[Callable[[str], None]]:
        summary: list[str] = []
        self._tell(Event(name, "start"))
        began = time.perf_counter()
        yield summary.append
        self.seconds[name] = time.perf_counter() - began
        self._tell(Event(name, "end", " ".join(summary)))

    def text(self, piece: str) -> None:
        self._tell(Event("reason", "text", piece))

    def progress(self, done: int, total: int, preview: Tensor | None) -> None:
        self._tell(Event("edit", "progress", done=done, total=total, preview=preview))

    def note(self, step: Step, notes: list[str]) -> None:
        self.notes += notes
        for text in notes:
            self._tell(Event(step, "note", text))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
