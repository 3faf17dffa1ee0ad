"""A clip of which keyframes are painted, together, and carried over the frames between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..edit.protocol import EditSettings, OnStep
from .agree import agree
from .clip import Finished, Read, largest, put
from .propagate import Flow, Key, carry, key_of, keyframes, runs, thing_flow
from .settings import VideoSettings
from .windows import Progress, Route, Span, WindowPainter, spans


def edit_carried(
    editor: Any,
    read: Read,
    count: int,
    instruction: str,
    routes: Sequence[Route],
    settings: EditSettings | None,
    on_step: OnStep | None,
    video: VideoSettings,
    notes: list[str],
    flow: Flow = thing_flow,
) -> Iterator[Finished]:
    """As `edit_windows`, but only keyframes are painted, and what their motion does not reach. Keyframes look
    at all others of their window. flow: the motion of a thing between two crops.
    """
    settings = settings or editor.defaults
    keys = keyframes(routes, video.keyframes)
    notes.append(f"{len(keys)} of {count} frames are keyframes: the others are carried along the motion")
    alone = video.together == "per-frame"
    text = editor.read(instruction, notes)
    progress = Progress(on_step, sum(len(route.boxes) for route in routes))
    together = video if alone else replace(video, together="all")
    painter = WindowPainter(editor, text, settings, together, notes, progress)
    known: list[dict[int, Key]] = [{} for _ in routes]
    windows, position, again = key_spans(len(keys), video.window), 0, 0
    for span in windows:
        here = keys[span.start : span.stop]
        for route, painted in zip(routes, known, strict=True):
            mine = [frame for frame in here if frame in route.boxes]
            _paint_keys(painter, read, route, mine, painted, flow)
        stop = count if span is windows[-1] else here[-1]
        while position < stop:
            end = min(position + video.window, stop)
            frames = read(position, end)
            result, crops = frames.clone(), frames.new_zeros(0, 0, 0, 3)
            for route, painted in zip(routes, known, strict=True):
                which = [frame for frame in range(position, end) if frame in route.boxes]
                if not which:
                    continue
                found, anew = between(painter, frames, position, route, which, painted, flow)
                again += anew
                work = route.work([frames[frame - position] for frame in which], which)
                result = put(result, position, route, which, work, found, settings.feather, own=True)
                if route is largest(routes):
                    crops = found
            yield Finished(position, result, crops, ())
            position = end
        known = [{f: key for f, key in each.items() if f >= stop} for each in known]
    if again:
        notes.append(f"in {again} frames the motion did not reach everything: painted there")


def key_spans(count: int, window: int) -> list[Span]:
    """The windows of `count` keyframes: each begins with the last one of the window before, from which the
    frames between them are carried, too."""
    return spans(count, max(window, 2), 1)


def _paint_keys(
    painter: WindowPainter, read: Read, route: Route, which: list[int], known: dict[int, Key], flow: Flow
) -> None:
    """The keyframes `which` of one place; those that are known are looked at, and the others join them."""
    old = [frame for frame in which if frame in known]
    new = [frame for frame in which if frame not in known]
    if not new:
        return
    work = route.work(torch.cat([read(frame, frame + 1) for frame in old + new]), old + new)
    paths = [known[frame].path for frame in old]
    held = torch.stack([path for path in paths if path is not None], 1) if old else None
    path, painted = painter.paint(work, held)
    for at, frame in enumerate(new):
        known[frame] = key_of(work, len(old) + at, painted[at], path[:, len(old) + at])
    if painter.video.agree:
        known |= agree({frame: known[frame] for frame in old + new}, new, flow)


def between(
    painter: WindowPainter,
    frames: Tensor,
    first: int,
    route: Route,
    which: list[int],
    known: dict[int, Key],
    flow: Flow,
) -> tuple[Tensor, int]:
    """(the painted crops [n, h, w, 3] of the frames `which`, how many of those that were carried had to be
    painted). frames: the clip's from `first` on."""
    crops: dict[int, Tensor] = {frame: known[frame].painted for frame in which if frame in known}
    again = 0
    run_of = {frame: number for number, run in enumerate(runs(route)) for frame in run}
    pairs: dict[tuple[int, ...], list[int]] = {}
    for frame in which:
        mine = [key for key in known if run_of.get(key) == run_of[frame]]
        around = [
            max((k for k in mine if k < frame), default=-1),
            min((k for k in mine if k > frame), default=-1),
        ]
        if frame not in known:
            pairs.setdefault(tuple(k for k in around if k >= 0), []).append(frame)
    for pair, carried in pairs.items():
        work = route.work([frames[frame - first] for frame in carried], carried)
        if pair:
            found, anew = carry(work, nearness(pair, carried), [known[key] for key in pair], painter, flow)
            painter.progress.skip(len(carried), painter.settings.steps)
            again += anew
        else:  # no keyframe in this stretch
            _, found = painter.paint(work, None)
        crops.update(zip(carried, found, strict=True))
    return torch.stack([crops[frame] for frame in which]), again


def nearness(pair: Sequence[int], which: Sequence[int]) -> Tensor:
    """[K, n]: how near each key of one or two is to frames between them, the sum 1."""
    if len(pair) == 1:
        return torch.ones(1, len(which))
    a, b = pair
    far = torch.tensor([(frame - a) / (b - a) for frame in which])
    return torch.stack([1 - far, far])
