"""A clip edited together: its places followed, its windows painted one after the other, put back by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..edit.crop import crop_box
from ..edit.masked import Work, put_back, smoothed
from ..edit.protocol import Edited, EditSettings, OnStep, unchanged
from ..edit.regions import places
from ..errors import PictureError
from ..files.pictures import check_frames
from ..masks import fit_mask
from .settings import VideoSettings
from .windows import Progress, Route, Span, WindowPainter, windows_of

Read = Callable[[int, int], Tensor]
"""(start, stop) -> frames [stop - start, H, W, 3] in 0..1 of a clip."""

Carry = tuple[dict[int, Tensor], ...]
"""What the next window begins from: by place and frame, the latents [S + 1, C, h, w] that a finished frame
had before each of the S steps and at the end."""


@dataclass(frozen=True)
class Finished:
    """frames: [n, H, W, 3] in 0..1, the clip's from `start` on, edited. crops: [A, h, w, 3], what was
    painted of the largest place. carry: give it back to go on after these frames."""

    start: int
    frames: Tensor
    crops: Tensor
    carry: Carry


def opens(editor: Any) -> bool:
    """Whether an editor lets frames be painted together: it is open in latents, as `IP2P` is."""
    return all(
        hasattr(editor, name) for name in ("unet", "read", "encode", "decode", "paint", "painted_cells")
    )


def edit_clip(
    editor: Any,
    frames: Tensor,
    instruction: str,
    mask: Tensor | None = None,
    settings: EditSettings | None = None,
    on_step: OnStep | None = None,
    video: VideoSettings | None = None,
) -> Edited:
    """Edits a clip as `editor.edit` does, its frames together. The first six arguments, the errors and what
    comes back are the editor's; outside the mask every frame equals the given one bit for bit.

    video: how the frames are held together. An editor that is not open in latents (`opens`) paints frame by
    frame, and a note says so.
    """
    video = video or VideoSettings()
    if len(frames) == 1 or not opens(editor):
        edited: Edited = editor.edit(frames, instruction, mask, settings=settings, on_step=on_step)
        if len(frames) > 1 and video.together != "per-frame":
            edited = replace(edited, notes=(*edited.notes, _ALONE))
        return edited
    notes: list[str] = []
    frames = check_frames(frames, notes=notes)
    routes = route(frames[:1], len(frames), mask, editor, settings or editor.defaults, notes)
    if not routes:
        return unchanged(frames, notes)
    manner = edit_windows
    if video.carries(len(frames)):
        from .carried import edit_carried as manner  # type: ignore[assignment]
    done = list(
        manner(
            editor,
            lambda start, stop: frames[start:stop],
            len(frames),
            instruction,
            routes,
            settings,
            on_step,
            video,
            notes,
        )
    )
    crops = torch.cat([each.crops for each in done if len(each.crops)])
    box = next(iter(largest(routes).boxes.values()))
    return Edited(torch.cat([each.frames for each in done]), crops, box, tuple(dict.fromkeys(notes)))


class ClipEditor:
    """An editor whose frames are edited together, where one is asked for that edits frames."""

    def __init__(self, editor: Any, video: VideoSettings | None = None) -> None:
        self.editor, self.video = editor, video
        self.steps: bool = getattr(editor, "steps", True)

    @property
    def defaults(self) -> EditSettings:
        defaults: EditSettings = self.editor.defaults
        return defaults

    @property
    def modules(self) -> Sequence[Any]:
        modules: Sequence[Any] = self.editor.modules
        return modules

    def edit(
        self,
        frames: Tensor,
        instruction: str,
        mask: Tensor | None = None,
        settings: EditSettings | None = None,
        on_step: OnStep | None = None,
    ) -> Edited:
        """As `edit_clip`. An editor whose weights somebody else manages is lent for that time (`use`)."""
        lend = getattr(self.editor, "use", None)
        with nullcontext(self.editor) if lend is None else lend() as editor:
            return edit_clip(editor, frames, instruction, mask, settings, on_step, self.video)


_ALONE = "this editor paints each frame by itself: its frames cannot look at each other"


def route(
    frames: Tensor, count: int, mask: Tensor | None, editor: Any, settings: EditSettings, notes: list[str]
) -> list[Route]:
    """The places of a clip, each with the crop that follows it; none for an empty mask.

    frames: [1 or more, H, W, 3], for their size. count: of the clip's frames. mask: [count or 1, H, W] in
    0..1, as `fit_mask` takes it, or None for the whole frame. notes: what a user should know is added. Raises
    PictureError.
    """
    height, width = frames.shape[1:3]
    if mask is not None:
        mask = fit_mask(mask, frames[:1].expand(count, -1, -1, -1), notes=notes)
    if mask is None:
        box = crop_box(torch.ones(1, height, width), 1.0, editor.full_frame_resolution, editor.multiple)
        if box is None:
            raise PictureError(f"frames of {width} x {height} pixels: nothing to edit")
        return [Route(None, dict.fromkeys(range(count), box))]
    on = (mask >= 0.5).expand(count, -1, -1)
    found = places(on, settings.context, editor.best_resolution, editor.multiple, editor.factor)
    routes = [Route.of(place) for place in found]
    at_work = len({frame for each in routes for frame in each.boxes})
    if not routes:
        notes.append("the mask is empty: nothing to edit")
    elif at_work < count:
        notes.append(f"{count - at_work} of {count} frames have an empty mask and stay as is")
    if len(routes) > 1:
        notes.append(f"{len(routes)} places lie apart: each is painted in a crop of its own")
    return routes


def edit_windows(
    editor: Any,
    read: Read,
    count: int,
    instruction: str,
    routes: Sequence[Route],
    settings: EditSettings | None,
    on_step: OnStep | None,
    video: VideoSettings,
    notes: list[str],
    begin: int = 0,
    carry: Carry = (),
    own: bool = False,
) -> Iterator[Finished]:
    """Edits a clip window by window; no more than one window of frames is held.

    read: gives frames of the clip, `count` in all. routes: as `route` gives them. notes: what a user should
    know is added while it goes on. begin, carry: the first frame of a window and the carry of the one before,
    to go on where an earlier run stopped; the result is the same bit for bit. own: what is read is nobody
    else's, and is painted on.
    """
    settings = settings or editor.defaults
    text = editor.read(instruction, notes)
    finished = [dict(each) for each in carry] or [{} for _ in routes]
    pictures = sum(frame >= begin for each in routes for frame in each.boxes)
    progress = Progress(on_step, pictures)
    shown = routes.index(largest(routes))
    painter = WindowPainter(editor, text, settings, video, notes, progress)
    for steps in zip(*(windows_of(each, count, video) for each in routes), strict=True):
        span = steps[0][0]
        if span.new < begin:
            continue
        # What a window has in memory is gone before the next one is read.
        which = [(old, new) for _, old, new in steps]
        yield _window(painter, read, span, routes, which, finished, shown, own)


def _window(
    painter: WindowPainter,
    read: Read,
    span: Span,
    routes: Sequence[Route],
    which: Sequence[tuple[list[int], list[int]]],
    finished: list[dict[int, Tensor]],
    shown: int,
    own: bool,
) -> Finished:
    """One window. which: by place, the finished and the new frames in it. finished: the carry by place, which
    is brought up to date. shown: number of the place whose crops are given. own: as in `edit_windows`."""
    frames, overlap = read(span.start, span.stop), painter.video.shared
    works = [
        each.work([frames[frame - span.start] for frame in old + new], old + new) if new else None
        for each, (old, new) in zip(routes, which, strict=True)
    ]
    result = frames[span.new - span.start :]
    result = result if own else result.clone()
    crops = frames.new_zeros(0, 0, 0, 3)
    for number, (each, work, (old, new)) in enumerate(zip(routes, works, which, strict=True)):
        if work is None:  # what it has finished before may still lie in the next window
            latents = finished[number].items()
            finished[number] = {frame: each for frame, each in latents if frame >= span.stop - overlap}
            continue
        held = torch.stack([finished[number][frame] for frame in old], 1) if old else None
        path, painted = painter.paint(work, held)
        last = (old + new)[-overlap:] if overlap else []
        paths = path[:, len(path[0]) - len(last) :].cpu().unbind(1)
        finished[number] = dict(zip(last, paths, strict=True))
        result = put(result, span.new, each, new, work, painted, painter.settings.feather, own=True)
        if number == shown:
            crops = painted
    return Finished(span.new, result, crops, tuple(dict(each) for each in finished))


def put(
    frames: Tensor,
    first: int,
    route: Route,
    new: list[int],
    work: Work,
    painted: Tensor,
    feather: int | None,
    own: bool = False,
) -> Tensor:
    """The new frames [n, H, W, 3], the clip's from `first` on, with the painted crops in them. own: as in
    `put_back`."""
    at_work = Work(
        work.boxes[-len(new) :],
        torch.tensor([frame - first for frame in new]),
        painted,
        None if work.mask is None else work.mask[-len(new) :],
    )
    return put_back(frames, at_work, painted, feather, steady(route, new), own)


def steady(route: Route, which: list[int]) -> Tensor | None:
    """The route's masks of some frames [n, H, W] smoothed over time, the neighbours of the first and the last
    one among them; None for the whole frame."""
    if route.inside is None:
        return None
    around = [frame for frame in (which[0] - 1, *which, which[-1] + 1) if frame in route.boxes]
    masks = smoothed(route.inside[around], torch.tensor(around))
    begin = around.index(which[0])
    return masks[begin : begin + len(which)]


def largest(routes: Sequence[Route]) -> Route:
    def size(route: Route) -> int:
        box = next(iter(route.boxes.values()))
        return (box.x1 - box.x0) * (box.y1 - box.y0)

    return max(routes, key=size)
