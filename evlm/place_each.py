"""Where a plan's edits go in a clip by detector and segmenter in every frame, of frames that never lie there
all at once: what is found is collected window by window, and decided on once, for the whole clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .boxes import Box
from .place import AnyGrounder, AnySegmenter
from .place_clip import LongPlace, Look, adds, carried_along, place_added
from .plan.trace import Plan
from .segment.base_region import NONE
from .segment.clip_frames import numbers
from .segment.clip_region import decide_carried, decide_followed
from .segment.kept import EVERY, Kept
from .segment.region import clip_to_boxes, plan_region, ran_over
from .segment.tracks import Tracks

if TYPE_CHECKING:
    from .segment.clip_frames import Frames
    from .segment.tracker import OnFrame

Boxes = Callable[[Tensor, list[int], bool], list[Box]]
"""(frames [n, H, W, 3], their numbers, whether they go on from those before) -> the boxes in them."""


def place_each(
    plan: Plan,
    frames: Frames,
    folder: Path,
    name: str,
    size: int,
    grounder: AnyGrounder | None,
    segmenter: AnySegmenter | None,
    threshold: float | None = None,
    grow: float = 0.03,
    on_frame: OnFrame | None = None,
    still: bool = False,
) -> LongPlace:
    """As `place_clip` without a tracker, of frames of which `size` are looked at together: the same masks.

    folder, name: where what is done goes, and with which name; the same call goes on from there.
    """
    count, height, width = frames.shape[:3]
    region = plan_region(plan, height, width)
    if adds(plan, region) and not still:
        return place_added(plan, region, frames, grow, on_frame, Kept(folder, f"{name}-flow"))
    look, drawn = Look(plan, region, grounder, threshold), _Drawn(Tracks(count, height, width))
    if not (plan.changes_nothing or plan.scope == "global"):
        if look.can:
            kept = Kept(folder, f"{name}-found", look.said_on, look.take_on)
            drawn = _through(frames, size, segmenter, look.within, kept, on_frame)
        if not drawn.boxes and not still:
            carried, own = carried_along(look, segmenter, frames, on_frame, Kept(folder, f"{name}-flow"))
            if carried is not None:
                moved = decide_carried(region, carried)
                return LongPlace(
                    moved.masks, own, list(dict.fromkeys([*look.notes, *moved.notes, *carried.notes]))
                )

            def everywhere(_: Tensor, which: list[int], __: bool) -> list[Box]:
                return [replace(box, frame=frame) for box in own for frame in which]

            if own:
                drawn = _through(frames, size, segmenter, everywhere, Kept(folder, f"{name}-own"), on_frame)
    boxes, tracks = drawn.boxes, drawn.tracks
    silhouettes = tracks.silhouette if boxes and segmenter is not None else None
    prompted = sorted({box.frame for box in boxes})
    found = any(not box.by_plan for box in boxes)
    shape = tracks.count, height, width
    decided = decide_followed(plan, look.place, silhouettes, prompted, found, shape, grow)
    said = [note for note in look.notes if not (found and note.startswith(NONE))]  # in some window
    notes = [*said, *ran_over(drawn.before, drawn.after), *decided.notes]
    return LongPlace(decided.masks, boxes, list(dict.fromkeys(notes)))


@dataclass
class _Drawn:
    """tracks: one object, everything that was drawn. boxes: of which. before, after: pixels that were drawn,
    and those of them that are near the boxes."""

    tracks: Tracks
    boxes: list[Box] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0


def _through(
    frames: Frames,
    size: int,
    segmenter: AnySegmenter | None,
    boxes_in: Boxes,
    kept: Kept,
    on_frame: OnFrame | None,
) -> _Drawn:
    """What the segmenter draws of the boxes in each frame."""
    drawn = _Drawn(Tracks(*frames.shape[:3]))
    drawn.tracks.add("")
    done = saved = 0
    state = kept.load()
    if state is not None:
        done = saved = int(state["frames"])
        drawn.before, drawn.after = state["before"], state["after"]
        for boxes, news in state["masks"]:
            drawn.boxes += [Box(**box) for box in boxes]
            drawn.tracks.take(news)
    new: list[Box] = []
    for which, some in _windows(frames, done, size):
        here = boxes_in(some, which, done > 0)
        if here and segmenter is not None:
            own = [replace(box, frame=box.frame - which[0]) for box in here]
            objects = segmenter.segment(some, boxes=own).masks
            cut, _ = clip_to_boxes(objects, own)
            drawn.before += float(objects.sum())
            drawn.after += float(cut.sum())
            for frame, mask in zip(which, cut.amax(0) > 0, strict=True):
                drawn.tracks.put(0, frame, mask, 1.0)
        new += here
        done = which[-1] + 1
        if done - saved >= EVERY or done == len(frames):
            _save(kept, drawn, new, done)
            new, saved = [], done
        if on_frame is not None:
            on_frame(done, len(frames))
    if done > saved:  # the file has fewer frames than it says
        _save(kept, drawn, new, done)
    drawn.tracks.end(done)
    return drawn


def _save(kept: Kept, drawn: _Drawn, new: list[Box], done: int) -> None:
    drawn.boxes += new
    piece = [[asdict(box) for box in new], drawn.tracks.news()]
    kept.save([piece], {"frames": done, "before": drawn.before, "after": drawn.after})


def _windows(frames: Frames, begin: int, size: int) -> Iterator[tuple[list[int], Tensor]]:
    """(numbers, frames [n, H, W, 3]) from number `begin` on, `size` together, as far as the clip goes."""
    which: list[int] = []
    some: list[Tensor] = []
    for frame in numbers(frames, begin):
        which.append(frame)
        some.append(frames[frame])
        if len(which) == size:
            yield which, torch.stack(some)
            which, some = [], []
    if which:
        yield which, torch.stack(some)
