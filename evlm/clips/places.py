"""Where the steps of a plan go in every frame of a clip of any length, piece by piece onto the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..place import doubt_steps
from ..place_clip import place_long_steps
from ..segment.clip_frames import ReadFrames
from .trim import trim

if TYPE_CHECKING:
    from ..reason.reasoner import Reasoned
    from .job import ClipJob
    from .masks import MaskStore


FLOWS = "follow-*-flow.state"
"""Where the plan's own mask is on its way."""


def follow(job: ClipJob, reasoned: Reasoned, store: MaskStore, size: int) -> None:
    """By a tracker that goes through the whole clip, or by the plan's own mask along the motion; then the
    pieces are written, of `size` frames each.

    What it has done lies in the job's folder while it is on its way. Of a plan that is doubted whatever is
    found, only the first piece is looked at.
    """
    plan = reasoned.trace.plan
    held = not job.anyway and bool(doubt_steps(plan, [False] * len(plan.steps)))
    frames = ReadFrames(job.clip, most=size if held else None)
    tracker = job.pipeline.tracker if job.pipeline.tracks(job.video) else None
    places = place_long_steps(
        plan,
        frames,
        job.work,
        grounder=None if tracker is None else job.pipeline.grounder,
        tracker=tracker,
        segmenter=job.pipeline.segmenter,
        threshold=job.threshold,
        on_frame=lambda done, total: job.tell("places", done, total),
    )
    boxes = [box for place in places for box in place.boxes]
    doubt = doubt_steps(plan, [place.masks is None for place in places])
    notes = [*job.request.notes, *(f"repaired: {repair}" for repair in plan.repairs), *reasoned.notes]
    notes += [note for place in places for note in place.notes]
    while durations := frames.durations(store.count, store.count + size):
        first, stop = store.count, store.count + len(durations)
        store.add(
            [None if place.masks is None else place.masks(first, stop) for place in places],
            durations,
            [box for box in boxes if first <= box.frame < stop],
            notes if first == 0 else (),
            doubt,
        )


def follow_given(job: ClipJob, reasoned: Reasoned, store: MaskStore, size: int) -> None:
    """By the mask that is given for one frame, both ways from there: by a tracker, else along the motion."""
    from ..segment.flow_tracker import FlowTracker
    from ..segment.kept import Kept
    from ..segment.tracker import Prompt

    assert job.mask is not None and job.mask_frame is not None
    frames = ReadFrames(job.clip)
    tracker = job.pipeline.tracker if job.pipeline.tracks(job.video) else None
    tracks = (tracker or FlowTracker()).track(
        frames,
        {job.mask_frame: [Prompt("the mask", mask=next(job.mask.windows(size))[0])]},
        on_frame=lambda done, total: job.tell("places", done, total),
        kept=Kept(job.work, "follow-mask"),
    )
    how = "along the motion" if tracker is None else "by SAM 2"
    notes = [*job.request.notes, *reasoned.notes]
    notes += [f"the mask that was given is of frame {job.mask_frame} and is followed {how}", *tracks.notes]
    while durations := frames.durations(store.count, store.count + size):
        mask = tracks.union(store.count, store.count + len(durations)).float()
        store.add([mask] * store.steps, durations, notes=notes if not store.count else ())


def look(job: ClipJob, reasoned: Reasoned, store: MaskStore, size: int) -> None:
    """Window by window, each for itself: by a mask that is given, a segmenter or the plan."""
    masks = None if job.mask is None else job.mask.windows(size, store.count)
    for window in job.clip.windows(size, begin=store.count):
        request = replace(job.request, original=window.frames)
        mask = None if masks is None else next(masks, None)
        each = job.mask is not None and job.mask.still is None
        if job.mask is not None and each and (mask is None or len(mask) != len(window.frames)):
            raise job.mask.unequal()
        planned = job.pipeline.plan(request, reasoned, job.threshold, mask=mask, video=job.video)
        own = bool(planned.boxes) and all(box.by_plan for box in planned.boxes)
        if own and window.first == 0 and job.video.track == "auto" and len(window.frames) < job.clip.count:
            follow(job, reasoned, store, size)  # nobody else knows where it is
            return
        store.add(
            [step.mask for step in planned.steps],
            window.durations,
            [replace(box, frame=box.frame + window.first) for box in planned.boxes],
            planned.notes,
            planned.doubt,
        )
        job.tell("places", store.count)
        if store.pieces[0].doubt and not job.anyway:
            return
        del window, request, planned, mask  # before the next window is read
        trim()
    if job.mask is not None and job.mask.still is None and next(masks or iter(()), None) is not None:
        raise job.mask.unequal()
