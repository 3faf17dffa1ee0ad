"""Where a plan's edits go in a clip: their targets looked for in keyframes and followed into all others, or
the plan's own mask carried along the motion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .boxes import Box, Corners, box_iou
from .ground.which import find
from .place import AnyGrounder, AnySegmenter, for_steps, of_step
from .plan.mask_codec import mask_iou
from .plan.operation import operation
from .plan.trace import Plan
from .segment.base_region import detect
from .segment.clip_region import Silhouettes, decide_carried, decide_followed
from .segment.kept import Kept
from .segment.region import (
    AGREE,
    SHARPENS,
    PlanRegion,
    agreeing,
    clip_to_boxes,
    corrected,
    decide,
    plan_region,
)

if TYPE_CHECKING:
    from .segment.clip_frames import Frames
    from .segment.tracker import OnFrame, Tracker
    from .segment.tracks import Tracks


@dataclass(frozen=True)
class ClipPlace:
    """mask: float [F, H, W] of 0 and 1, or None for the whole frame. boxes: those that were prompted with,
    each in its frame. notes: decisions, in words. followed: makes `objects`."""

    mask: Tensor | None
    boxes: list[Box]
    notes: list[str]
    followed: Callable[[], Tensor]

    @property
    def objects(self) -> Tensor:
        """Float [N, F, H, W], each thing by itself: N times a mask's memory, made when it is asked for."""
        return self.followed()


def place_clip_steps(
    plan: Plan,
    frames: Tensor,
    given: Sequence[Box] | None = None,
    on_frame: OnFrame | None = None,
    **how: Any,
) -> list[ClipPlace]:
    """As `place_clip`, for each step of a plan. Boxes say to which step they belong, and notes of several
    steps say so too."""
    placed = []
    known = None if given is None else for_steps(plan, given)
    for number, step in enumerate(plan.steps, 1):
        own = None if known is None else [box for box in known if box.step == number]
        told = None if on_frame is None else _of_all(on_frame, number, len(plan.steps))
        each = place_clip(step, frames, given=own, on_frame=told, **how)
        boxes = [replace(box, step=number) for box in each.boxes]
        placed.append(replace(each, boxes=boxes, notes=of_step(plan, number, each.notes)))
    return placed


def place_clip(
    plan: Plan,
    frames: Tensor,
    grounder: AnyGrounder | None,
    tracker: Tracker | None,
    segmenter: AnySegmenter | None,
    threshold: float | None = None,
    grow: float = 0.03,
    given: Sequence[Box] | None = None,
    on_frame: OnFrame | None = None,
    still: bool = False,
) -> ClipPlace:
    """Where a plan of one edit goes in frames [F, H, W, 3].

    By a tracker, else by the segmenter on every frame, else by the plan's own mask, which is carried along
    the motion. given: boxes in place of the detector's. threshold, grow: as in `Pipeline.run`. on_frame: of
    the tracker. still: the plan's own mask stays where it is.
    """
    count, height, width = frames.shape[:3]
    region = plan_region(plan, height, width)
    empty = frames.new_zeros(0, count, height, width)
    if plan.changes_nothing or plan.scope == "global":
        decided = decide(plan, region, None, (count, height, width), grow)
        return ClipPlace(decided.mask, [], decided.notes, lambda: empty)
    if adds(plan, region) and given is None and not still:
        along = place_added(plan, region, frames, grow, on_frame)
        assert along.masks is not None  # the plan has one
        return ClipPlace(along.masks(0, count), along.boxes, along.notes, lambda: empty)
    look = Look(plan, region, grounder, threshold)
    boxes: list[Box] = []
    silhouettes: Silhouettes | None = None
    followed: Callable[[], Tensor] = lambda: empty  # noqa: E731
    notes = list[str]()
    if tracker is not None:
        tracks, boxes = _followed(look, tracker, frames, given, on_frame)
        if tracks is not None:
            notes, followed = tracks.notes, partial(_masks_of, tracks)
            silhouettes = tracks.silhouette if len(tracks) else None
    else:
        boxes = list(given) if given is not None else look.at(frames, range(count))
        if not boxes and given is None and not still:
            carried, own = carried_along(look, segmenter, frames, on_frame)
            if carried is not None:
                moved = decide_carried(region, carried)
                notes = list(dict.fromkeys([*look.notes, *moved.notes, *carried.notes]))
                assert moved.masks is not None
                return ClipPlace(moved.masks(0, count), own, notes, partial(_masks_of, carried))
            boxes = [replace(box, frame=frame) for box in own for frame in range(count)]
        if boxes and segmenter is not None:
            objects, notes = clip_to_boxes(segmenter.segment(frames, boxes=boxes).masks, boxes)
            followed = partial(_same, objects)
            silhouettes = objects.amax(0).__getitem__ if len(objects) else None
    prompted = sorted({box.frame for box in boxes})
    found = any(not box.by_plan for box in boxes)
    where = decide_followed(plan, look.place, silhouettes, prompted, found, (count, height, width), grow)
    mask = None if where.masks is None else where.masks(0, count)
    return ClipPlace(mask, boxes, list(dict.fromkeys([*look.notes, *notes, *where.notes])), followed)


def _masks_of(tracks: Tracks) -> Tensor:
    return tracks.masks


def _same(objects: Tensor) -> Tensor:
    return objects


@dataclass(frozen=True)
class LongPlace:
    """As `ClipPlace`, of a clip of any length. masks: (first, stop) -> float [stop - first, H, W] of 0 and 1;
    None for the whole frame."""

    masks: Callable[[int, int], Tensor] | None
    boxes: list[Box]
    notes: list[str]


def place_long_steps(
    plan: Plan,
    frames: Frames,
    folder: Path,
    on_frame: OnFrame | None = None,
    place: Callable[..., LongPlace] | None = None,
    **how: Any,
) -> list[LongPlace]:
    """As `place_long`, or `place`, for each step of a plan, as `place_clip_steps` has them."""
    placed = []
    for number, step in enumerate(plan.steps, 1):
        told = None if on_frame is None else _of_all(on_frame, number, len(plan.steps))
        each = (place or place_long)(step, frames, folder, f"follow-{number}", on_frame=told, **how)
        boxes = [replace(box, step=number) for box in each.boxes]
        placed.append(replace(each, boxes=boxes, notes=of_step(plan, number, each.notes)))
    return placed


def _of_all(on_frame: OnFrame, number: int, steps: int) -> OnFrame:
    return lambda done, total: on_frame((number - 1) * total + done, steps * total)


def place_long(
    plan: Plan,
    frames: Frames,
    folder: Path,
    name: str,
    grounder: AnyGrounder | None,
    tracker: Tracker,
    threshold: float | None = None,
    grow: float = 0.03,
    on_frame: OnFrame | None = None,
) -> LongPlace:
    """As `place_clip` by a tracker, of frames that never lie there all at once: the same masks.

    folder, name: where what is done goes, and with which name; the same call goes on from there.
    """
    count, height, width = frames.shape[:3]
    region = plan_region(plan, height, width)
    if plan.changes_nothing or plan.scope == "global":
        decided = decide_followed(plan, region, None, [], False, (count, height, width), grow)
        return LongPlace(decided.masks, [], decided.notes)
    if adds(plan, region):
        return place_added(plan, region, frames, grow, on_frame, Kept(folder, f"{name}-flow"))
    look = Look(plan, region, grounder, threshold)
    tracks, boxes = _followed(look, tracker, frames, None, on_frame, Kept(folder, name))
    prompted = sorted({box.frame for box in boxes})
    found = any(not box.by_plan for box in boxes)
    silhouettes, notes = None, list[str]()
    if tracks is not None:
        count, notes = tracks.count, tracks.notes
        silhouettes = tracks.silhouette if len(tracks) else None
    decided = decide_followed(plan, look.place, silhouettes, prompted, found, (count, height, width), grow)
    return LongPlace(decided.masks, boxes, list(dict.fromkeys([*look.notes, *notes, *decided.notes])))


def adds(plan: Plan, region: PlanRegion) -> bool:
    """Whether a plan puts something new at a place that it names. A model that was never trained on masks
    names what it is put on instead, which is there to be found."""
    return operation(plan) == "add" and region.mask is not None and plan.trust != "base"


def place_added(
    plan: Plan,
    region: PlanRegion,
    frames: Frames,
    grow: float,
    on_frame: OnFrame | None,
    kept: Kept | None = None,
) -> LongPlace:
    """The plan's own mask, along with what it holds: what is not there yet nobody can find or follow."""
    count, height, width = frames.shape[:3]
    look = Look(plan, region, None, None)
    carried, own = carried_along(look, None, frames, on_frame, kept, rests=True)
    if carried is not None:
        decided = decide_carried(region, carried)
        notes = [*look.notes, *decided.notes, *carried.notes]
    else:
        decided = decide_followed(plan, region, None, [], False, (count, height, width), grow)
        notes = [*look.notes, *decided.notes]
    return LongPlace(decided.masks, own, list(dict.fromkeys(notes)))


def _followed(
    look: Look,
    tracker: Tracker,
    frames: Frames,
    given: Sequence[Box] | None,
    on_frame: OnFrame | None,
    kept: Kept | None = None,
) -> tuple[Tracks | None, list[Box]]:
    """(what was followed, the boxes that it was prompted with): those of the detector in keyframes, else the
    plan's own."""
    from .segment.tracker import box_prompts

    if given is None and look.can:
        first = None if kept is None else Kept(kept.folder, f"{kept.name}-found", look.said, look.take)
        tracks = tracker.track(
            frames, find=lambda frame: look.at(frames, [frame]), on_frame=on_frame, kept=first
        )
        if look.found:
            return tracks, look.found
    boxes = list(given) if given is not None else look.plans_own(*frames.shape[1:3])
    if not boxes:
        return None, []
    second = None if kept is None else Kept(kept.folder, f"{kept.name}-own")
    return tracker.track(frames, box_prompts(boxes), on_frame=on_frame, kept=second), boxes


def carried_along(
    look: Look,
    segmenter: AnySegmenter | None,
    frames: Frames,
    on_frame: OnFrame | None,
    kept: Kept | None = None,
    rests: bool = False,
) -> tuple[Tracks | None, list[Box]]:
    """(the plan's own mask carried along the motion, its boxes in the first frame); None where there is none,
    or where what it holds does not move as one thing. rests: as in `FlowTracker`."""
    from .segment.flow_tracker import MOVES, FlowTracker, seen_of
    from .segment.tracker import Prompt

    boxes = look.plans_own(*frames.shape[1:3])
    if not boxes or look.region.mask is None:
        return None, boxes
    mask = look.region.mask
    if segmenter is not None and not look.region.rectangle:
        objects, _ = clip_to_boxes(segmenter.segment(frames[0][None], boxes=boxes).masks, boxes)
        silhouette = objects.amax(0)[0] if len(objects) else mask * 0
        if mask_iou(silhouette, mask) >= SHARPENS:
            mask = silhouette
            look.notes.append("the plan's mask is sharpened by the segmenter in the first frame")
    name = " and ".join(look.plan.targets) or "the plan's place"
    tracks = FlowTracker(rests).track(frames, {0: [Prompt(name, mask=mask)]}, on_frame=on_frame, kept=kept)
    seen = seen_of(tracks.scores[0][tracks.present[0]])[1:]
    if len(seen) and float(seen.mean()) >= MOVES:
        return tracks, boxes
    if tracks.count > 1:
        look.notes.append("what the plan's mask holds does not move as one thing: it stays where it is")
    return None, boxes


@dataclass
class Look:
    """The detector, asked in some frames, and what it found that the plan means."""

    plan: Plan
    region: PlanRegion
    grounder: AnyGrounder | None
    threshold: float | None

    def __post_init__(self) -> None:
        self.found: list[Box] = []
        self._begun: list[Box] | None = None  # all that was detected where something was first kept
        self.notes: list[str] = []
        self._last: dict[str, Box] = {}  # of the frame that was looked at last
        self._places: dict[str, Corners] = {}  # where each label was last

    @property
    def can(self) -> bool:
        return self.grounder is not None and bool(self.plan.targets)

    @property
    def place(self) -> PlanRegion:
        """The plan's region, or where the thing begins that it names, by a sure detection."""
        return corrected(self._begun or (), self.region, len(self.plan.targets))

    def said(self) -> Any:
        """What was found and noted, for `take`."""
        return {"found": [asdict(box) for box in self.found], **self.said_on()}

    def take(self, said: Any) -> None:
        self.found = [Box(**box) for box in said["found"]]
        self.take_on(said)

    def said_on(self) -> Any:
        """As `said`, but for what was found: of every frame of a long clip that is much."""
        last = [asdict(box) for box in self._last.values()]
        begun = None if self._begun is None else [asdict(box) for box in self._begun]
        notes = list(dict.fromkeys(self.notes))
        return {"notes": notes, "last": last, "places": dict(self._places), "begun": begun}

    def take_on(self, said: Any) -> None:
        self.notes = said["notes"]
        self._last = {box.label: box for box in (Box(**each) for each in said["last"])}
        self._places = {label: tuple(place) for label, place in said["places"].items()}
        begun = said.get("begun")
        self._begun = None if begun is None else [Box(**box) for box in begun]

    def at(self, frames: Frames, which: Sequence[int]) -> list[Box]:
        """The boxes in the frames `which` of a clip that are about the plan's region there."""
        return self.within(torch.stack([frames[frame] for frame in which]), which) if self.can else []

    def within(self, some: Tensor, which: Sequence[int], on: bool = False) -> list[Box]:
        """As `at`, of frames [n, H, W, 3] that are there. on: they go on from those that were looked at
        last."""
        targets = self.plan.targets
        if not on:
            self._last, self._places = {}, {}
        if self.plan.trust == "base":
            kept, said = detect(
                self.grounder, some, self.plan, self.region, self.threshold, last=self._places
            )
        else:
            detected, said = find(self.grounder, some, targets, self.threshold)
            kept, last = [], self._last
            for frame in range(len(some)):
                here = [box for box in detected if box.frame == frame]
                # One target more than there are: a thing is somewhere in the region of the whole clip.
                place = corrected(here, self.region, len(targets))
                agreed, more = agreeing(here, place, len(targets) + 1)
                agreed += [box for box in here if box not in agreed and _goes_on(last.get(box.label), box)]
                last = {box.label: box for box in agreed}
                self._begun = here if agreed and self._begun is None else self._begun
                kept += agreed
                said += [*place.notes[len(self.region.notes) :], *more][: 3 if frame == 0 and not on else 0]
            self._last = last
        self.notes += said
        boxes = [replace(box, frame=which[box.frame]) for box in kept]
        self.found += boxes
        return boxes

    def plans_own(self, height: int, width: int) -> list[Box]:
        """The plan's own box, in the first frame."""
        from .ground.grounder import plan_boxes

        if self.can:
            names = " or ".join(self.plan.targets)
            self.notes.append(f"the detector found no {names} that the plan means, in no frame")
        return [] if self.region.mask is None else plan_boxes(self.plan, height, width)


def _goes_on(last: Box | None, box: Box) -> bool:
    """Whether a box is the one of the frame before, a little further."""
    return last is not None and box_iou(last.corners, box.corners) >= AGREE
