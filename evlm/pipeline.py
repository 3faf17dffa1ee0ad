"""The five steps in a row: request, plan, boxes, mask, edited frames. Every intermediate comes out too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .edit.steps import edit_steps
from .errors import ModelError
from .events import STEPS, Event, OnEvent, Step, Watch
from .masks import union_of
from .place import (
    AnyGrounder,
    AnySegmenter,
    Grounded,
    decide_place,
    doubt_steps,
    for_steps,
    ground_plan,
    ground_steps,
    of_step,
    segment_plan,
    segment_steps,
)
from .place_clip import place_clip_steps
from .plan.trace import Plan
from .request import Request
from .results import Changes, Planned, PlannedStep, Result
from .segment.region import NO_CHANGE, fitted, plan_region, rectangles

__all__ = [
    "STEPS",
    "Changes",
    "Event",
    "Grounded",
    "OnEvent",
    "Pipeline",
    "Planned",
    "PlannedStep",
    "Result",
    "Step",
    "ground_plan",
    "segment_plan",
]

if TYPE_CHECKING:
    from .boxes import Box
    from .edit.protocol import Editor, EditSettings
    from .reason.reasoner import Reasoned, Sampling
    from .segment.tracker import Tracker
    from .video.settings import VideoSettings


class AnyReasoner(Protocol):
    """What the pipeline asks of a reasoner: `Reasoner` and `RemoteReasoner` both are one."""

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: Callable[[str], None] | None = None,
        repair: bool = True,
    ) -> Reasoned: ...


class Pipeline:
    """Holds the models and runs them one after the other. Grounder and segmenter may be None: the plan's own
    box and mask then do their work, more coarsely. tracker: follows things through a clip; None: the
    segmenter draws them in every frame, or the motion carries the plan's own mask."""

    def __init__(
        self,
        reasoner: AnyReasoner,
        grounder: AnyGrounder | None,
        segmenter: AnySegmenter | None,
        editor: Editor,
        tracker: Tracker | None = None,
    ) -> None:
        self.reasoner, self.grounder, self.segmenter, self.editor = reasoner, grounder, segmenter, editor
        self.tracker = tracker
        self._load_tracker: Callable[[], Tracker] | None = None

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

        pipeline = cls(reasoner, grounder, segmenter, load_editor(models["editor"], dtype, device))
        if "segmenter" in models:
            from .segment.tracker import Tracker, tracker_source

            source = tracker_source(Path(models["segmenter"]))
            if source is not None:  # its other half, loaded when the first clip comes
                pipeline._load_tracker = lambda: Tracker.load(source, dtype, device)
        return pipeline

    def run(
        self,
        request: Request,
        sampling: Sampling | None = None,
        edit: EditSettings | None = None,
        threshold: float | None = None,
        grow: float = 0.03,
        on_event: OnEvent | None = None,
        anyway: bool = False,
        video: VideoSettings | None = None,
        confirm: Callable[[Planned], str] | None = None,
        mask: Tensor | None = None,
    ) -> Result:
        """Run the five steps.

        sampling, edit, threshold: None takes the model's own defaults.
        grow: how far a silhouette grows where the plan has no mask, as a share of the frame's shorter side.
        on_event: sees every `Event`; what it raises (`Cancelled`) stops the work and passes through.
        anyway: paint by a plan that is doubted, too (`Result.held_back`).
        video: how the frames of a clip are edited together; None: `VideoSettings()`. Its things are
            followed by the tracker, else drawn in every frame (`place_clip`).
        confirm: sees what is planned; gives why nothing is to be painted, whatever anyway says, or "".
        mask: as `plan`'s.
        The places of all steps of a plan are found in the original, then it is edited step after step
        (`edit_steps`). A plan that asks for no change gives the original back, and a note says so. Raises
        TraceError when the reasoner's text holds no plan, RefusalError when it says that it will not.
        """
        watch = Watch(on_event)
        reasoned = self._reason(request, sampling, watch)
        planned = self._plan(request, reasoned, threshold, grow, Changes(), mask, watch, video)
        if stopped := confirm(planned) if confirm is not None else "":
            planned, anyway = replace(planned, doubt=stopped), False
        return self._paint(request, planned, edit, watch, anyway, video)

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
        video: VideoSettings | None = None,
    ) -> Planned:
        """Where the edit goes: the steps "ground" and "segment" of an answer that `reason` gave.

        changes: what somebody who looked at the plan wants otherwise.
        mask: [F, H, W] or [1, H, W] in 0..1, at the original's size; takes the place of both steps.
        video: its `track` says how things are followed through a clip.
        """
        watch = Watch(on_event)
        watch.notes += request.notes
        return self._plan(request, reasoned, threshold, grow, changes or Changes(), mask, watch, video)

    def paint(
        self,
        request: Request,
        planned: Planned,
        edit: EditSettings | None = None,
        on_event: OnEvent | None = None,
        anyway: bool = False,
        video: VideoSettings | None = None,
    ) -> Result:
        """The last step alone, as often as one likes, inside the planned mask. anyway, video: as `run`'s."""
        return self._paint(request, planned, edit, Watch(on_event), anyway, video)

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
        video: VideoSettings | None = None,
    ) -> Planned:
        frames = request.original
        trace = changes.applied(reasoned.trace)
        plan = trace.plan
        watch.note("reason", [*(f"repaired: {repair}" for repair in plan.repairs), *reasoned.notes])
        if mask is not None:
            given = "the mask that was given takes the place of the plan's"
            watch.note("segment", [given])
            place = fitted(mask, frames)
            steps, objects = tuple(PlannedStep(step, (), place) for step in plan.steps), None
        else:
            look = self._places if len(frames) == 1 else partial(self._clip_places, video)
            steps, objects = look(frames, plan, threshold, grow, changes.boxes, watch)
        looked_at = mask is not None or changes != Changes()
        return Planned(
            trace,
            reasoned.text,
            tuple(box for step in steps for box in step.boxes),
            objects,
            union_of([step.mask for step in steps]),
            watch.seconds,
            tuple(watch.notes),
            "" if looked_at else _doubt(plan, steps),
            steps,
        )

    def _places(
        self,
        frames: Tensor,
        plan: Plan,
        threshold: float | None,
        grow: float,
        given: tuple[Box, ...] | None,
        watch: Watch,
    ) -> tuple[tuple[PlannedStep, ...], Tensor | None]:
        """(each step with its place, silhouettes [N, F, H, W] of all that was segmented)."""
        count, height, width = frames.shape[:3]
        looks = any(step.scope == "local" and not step.changes_nothing for step in plan.steps)
        regions = [plan_region(step, height, width) for step in plan.steps]
        boxes: list[Box] = []
        if given is not None:
            boxes = for_steps(plan, given)
        elif looks:
            with watch.step("ground") as done:
                found = ground_steps(self.grounder, frames, plan, threshold)
                boxes = [box for each in found for box in each.boxes]
                regions = [each.region for each in found]
                watch.note("ground", [note for each in found for note in each.notes])
                done(", ".join(_caption(box) for box in boxes) or "nothing found")
        objects: Tensor | None = None
        if self.segmenter is not None and boxes and looks:
            with watch.step("segment") as done:
                placed = segment_steps(self.segmenter, frames, plan, boxes, grow, regions)
                objects = torch.cat([each for _, each in placed])
                done(f"{objects.shape[0]} object{'s' * (objects.shape[0] != 1)}")
            decided = [region for region, _ in placed]
        else:
            objects = rectangles(boxes, frames) if given else None
            shape = (count, height, width)
            decided = [
                decide_place(step, region, [box for box in boxes if box.step == number], objects, shape, grow)
                for number, (step, region) in enumerate(zip(plan.steps, regions, strict=True), 1)
            ]
            decided = [
                replace(each, notes=of_step(plan, number, each.notes))
                for number, each in enumerate(decided, 1)
            ]
        watch.note("segment", [note for each in decided for note in each.notes])
        steps = [
            PlannedStep(step, tuple(box for box in boxes if box.step == number), each.mask)
            for number, (step, each) in enumerate(zip(plan.steps, decided, strict=True), 1)
        ]
        return tuple(steps), objects

    def _clip_places(
        self,
        video: VideoSettings | None,
        frames: Tensor,
        plan: Plan,
        threshold: float | None,
        grow: float,
        given: tuple[Box, ...] | None,
        watch: Watch,
    ) -> tuple[tuple[PlannedStep, ...], Tensor | None]:
        """As `_places`, followed through a clip."""
        tracks = self.tracks(video)
        still = video is not None and video.track == "plan"
        by_plan = still or (video is not None and video.track == "flow")
        with watch.step("segment") as done:
            placed = place_clip_steps(
                plan,
                frames,
                given,
                grounder=None if by_plan else self.grounder,
                tracker=self.tracker if tracks else None,
                segmenter=None if still else self.segmenter,
                threshold=threshold,
                grow=grow,
                on_frame=watch.looked,
                still=still,
            )
            objects = torch.cat([each.objects for each in placed])
            done(f"{len(objects)} object{'s' * (len(objects) != 1)} in {len(frames)} frames")
        watch.note("segment", [note for each in placed for note in each.notes])
        steps = [
            PlannedStep(step, tuple(each.boxes), each.mask)
            for step, each in zip(plan.steps, placed, strict=True)
        ]
        return tuple(steps), objects if len(objects) else None

    def tracks(self, video: VideoSettings | None = None) -> bool:
        """Whether a tracker follows things through a clip; it is loaded then."""
        if video is not None and video.track != "auto":
            return False
        if self.tracker is None and self._load_tracker is not None:
            self.tracker = self._load_tracker()
        return self.tracker is not None

    def _paint(
        self,
        request: Request,
        planned: Planned,
        edit: EditSettings | None,
        watch: Watch,
        anyway: bool,
        video: VideoSettings | None = None,
    ) -> Result:
        frames, plan = request.original, planned.trace.plan
        watch.notes = list(planned.notes)
        watch.seconds = dict(planned.seconds)
        crops: Tensor | None = None
        held_back = "" if anyway or plan.changes_nothing else planned.doubt
        mask, edited = planned.mask, frames.clone()
        with watch.step("edit") as done:
            if plan.changes_nothing:  # whatever mask was given
                mask = frames.new_zeros(frames.shape[:3])
                watch.note("edit", [] if NO_CHANGE in watch.notes else [NO_CHANGE])
            elif held_back:
                watch.note("edit", [f"nothing was painted: {held_back}"])
            else:
                from .cues import told
                from .video.clip import ClipEditor

                models, notes = (self.editor, self.reasoner, self.segmenter), list[str]()
                painter = told(*models, request, plan, planned.text, mask, notes)
                watch.note("edit", notes)
                clip: Any = ClipEditor(painter, video)
                result = edit_steps(
                    clip if len(frames) > 1 else painter,
                    frames,
                    [(step.plan, step.mask) for step in planned.steps],
                    edit,
                    watch.progress,
                )
                edited, crops = result.frames, result.crops if len(result.crops) else None
                watch.note("edit", list(result.notes))
            share = "whole frame" if mask is None else f"{float((mask > 0).float().mean()):.0%} of the frame"
            done("nothing" if held_back else share)
        before = (planned.trace, plan, planned.text, planned.boxes, planned.object_masks, mask)
        return Result(*before, edited, crops, watch.seconds, tuple(watch.notes), held_back, planned.steps)


def _caption(box: Box) -> str:
    return f"{box.label}, the plan's own box" if box.by_plan else f"{box.label} {box.score:.2f}"


def _doubt(plan: Plan, steps: Sequence[PlannedStep]) -> str:
    """Why nothing is painted by this plan, of several steps the first reason."""
    return doubt_steps(plan, [step.mask is None for step in steps])
