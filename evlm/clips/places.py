"""Where the steps of a plan go in every frame of a clip of any length, piece by piece onto the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import PictureError
from ..place import doubt_steps
from ..place_clip import place_long_steps
from ..place_each import place_each
from ..segment.clip_frames import ReadFrames
from .trim import trim

if TYPE_CHECKING:
    from ..boxes import Box
    from ..reason.reasoner import Reasoned
    from .job import ClipJob
    from .masks import MaskStore


def follow(job: ClipJob, reasoned: Reasoned, store: MaskStore, size: int) -> None:
    """By a tracker that goes through the whole clip, else by detector and segmenter in every frame, `size` of
    them at once, else by the plan's own mask along the motion. What was found is decided on once, and the
    pieces are written, of `size` frames each.

    What it has done lies in the job's folder while it is on its way. Of a plan that is doubted whatever is
    found, only the first piece is looked at.
    """
    plan, pipeline = reasoned.trace.plan, job.pipeline
    held = not job.anyway and bool(doubt_steps(plan, [False] * len(plan.steps)))
    frames = ReadFrames(job.clip, most=size if held else None)
    by_plan = job.video.track in ("plan", "flow")

    trimmed = 0

    def told(done: int, total: int) -> None:
        nonlocal trimmed
        job.tell("places", done, total)
        if "size" in how and not 0 <= done - trimmed < size:  # a window is behind it
            trimmed = done
            trim()

    how: dict[str, Any]
    if pipeline.tracks(job.video):
        how = {"tracker": pipeline.tracker}
    else:
        still = job.video.track == "plan"
        segmenter = None if still else pipeline.segmenter
        how = {"place": place_each, "size": size, "segmenter": segmenter, "still": still}
    places = place_long_steps(
        plan,
        frames,
        job.work,
        grounder=None if by_plan else pipeline.grounder,
        threshold=job.threshold,
        on_frame=told,
        **how,
    )
    boxes: dict[int, list[Box]] = {}
    for place in places:
        for box in place.boxes:
            boxes.setdefault(box.frame, []).append(box)
    doubt = doubt_steps(plan, [place.masks is None for place in places])
    notes = [*job.request.notes, *(f"repaired: {repair}" for repair in plan.repairs), *reasoned.notes]
    notes += [note for place in places for note in place.notes]
    while durations := frames.durations(store.count, store.count + size):
        first, stop = store.count, store.count + len(durations)
        store.add(
            [None if place.masks is None else place.masks(first, stop) for place in places],
            durations,
            [box for frame in range(first, stop) for box in boxes.get(frame, ())],
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
    if not frames.has(job.mask_frame):
        count = len(frames.durations(0, len(frames)))
        raise PictureError(
            f"{job.mask.path}: it is of frame {job.mask_frame}, and only {count} frames of {job.clip.path} "
            "can be read"
        )
    how = "along the motion" if tracker is None else "by SAM 2"
    repairs = reasoned.trace.plan.repairs
    notes = [*job.request.notes, *(f"repaired: {repair}" for repair in repairs), *reasoned.notes]
    notes += [f"the mask that was given is of frame {job.mask_frame} and is followed {how}", *tracks.notes]
    while durations := frames.durations(store.count, store.count + size):
        mask = tracks.union(store.count, store.count + len(durations)).float()
        store.add([mask] * store.steps, durations, notes=notes if not store.count else ())


def look(job: ClipJob, reasoned: Reasoned, store: MaskStore, size: int) -> None:
    """Window by window: by a mask that is given, or of a clip of one frame as of a picture."""
    masks = None if job.mask is None else job.mask.windows(size, store.count)
    for window in job.clip.windows(size, begin=store.count):
        request = replace(job.request, original=window.frames)
        mask = None if masks is None else next(masks, None)
        each = job.mask is not None and job.mask.still is None
        if job.mask is not None and each and (mask is None or len(mask) != len(window.frames)):
            raise job.mask.unequal()
        planned = job.pipeline.plan(request, reasoned, job.threshold, mask=mask, video=job.video)
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
