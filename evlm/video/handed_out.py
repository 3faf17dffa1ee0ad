"""Keyframes for an editor that is not ours: handed out, taken back edited, and carried over their clip.

What no keyframe's motion reaches takes the paint beside it or, where it is much, stays as the nearest
keyframes have it: nobody is there to paint it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..edit.crop import extract, restore
from ..edit.follow import track_of
from ..edit.protocol import EditSettings
from ..errors import PictureError
from .agree import agree
from .carried import key_spans, nearness
from .clip import put, route
from .propagate import Flow, carry, key_of, keyframes, runs, thing_flow
from .windows import Route

_AT_ONCE = 8  # frames that are carried together
AS_LARGE = EditSettings(context=1.2)
Corners = tuple[int, int, int, int]
Shown = Callable[[int], tuple[Tensor, Tensor]]
"""number of a keyframe -> (the clip's frame, the edited one), [H, W, 3] in 0..1."""
OnFrame = Callable[[int, int], None]
"""(frames done, frames in all); what it raises stops the work."""


@dataclass(frozen=True)
class Keys:
    """Which frames of a clip were handed out. times: seconds. count, height, width: of the clip. source: a
    digest of those frames."""

    indices: tuple[int, ...]
    times: tuple[Fraction, ...]
    count: int
    height: int
    width: int
    source: str


def hand_out(
    frames: Tensor, durations: Sequence[Fraction], mask: Tensor | None = None, chosen: str | int = "auto"
) -> tuple[Tensor, Keys, list[str]]:
    """(the keyframes [K, H, W, 3], which they are, what a user should know).

    frames: [F, H, W, 3] in 0..1. durations: seconds that each is shown. mask: [F or 1, H, W], where the edit
    will be; None: everywhere. chosen: as `keyframes` has it. Raises PictureError where nothing is to
    be edited.
    """
    notes: list[str] = []
    indices = keyframes(_routes(frames, mask, notes), chosen)
    if not indices:
        raise PictureError("mask: no pixel of it is on in any frame, so there are no keyframes")
    picked = frames[indices]
    times = tuple(sum(durations[:at], Fraction(0)) for at in indices)
    count, height, width = frames.shape[:3]
    return picked, Keys(tuple(indices), times, count, height, width, digest_of(picked)), notes


def carry_over(
    frames: Tensor,
    edited: Tensor,
    keys: Keys,
    mask: Tensor | None = None,
    feather: int | None = None,
    on_frame: OnFrame | None = None,
    flow: Flow = thing_flow,
) -> tuple[Tensor, list[str]]:
    """(the clip [F, H, W, 3] with the edited keyframes carried over it, what a user should know).

    frames: the clip of which `hand_out` gave the keys. edited: [K, H, W, 3], those keyframes. mask, feather:
    outside the mask every frame stays as it is, bit for bit. Raises PictureError where these do not belong
    together.
    """
    _check(frames, edited, keys)
    notes: list[str] = []
    routes = _routes(frames, mask, notes)
    notes += unreached(routes, keys.indices)

    def shown(key: int) -> tuple[Tensor, Tensor]:
        return frames[key], edited[keys.indices.index(key)]

    result, done = frames.clone(), 0
    total = sum(len(each.boxes) for each in routes)
    for first in range(0, len(frames), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        result[part] = carry_window(frames[part], first, routes, keys.indices, shown, feather, flow)
        done += sum(first <= frame < first + _AT_ONCE for each in routes for frame in each.boxes)
        if on_frame is not None:
            on_frame(done, total)
    return result, notes


def one_look(
    frames: Tensor,
    edited: Tensor,
    keys: Keys,
    mask: Tensor | None = None,
    on_key: OnFrame | None = None,
    flow: Flow = thing_flow,
) -> Tensor:
    """The edited keyframes [K, H, W, 3] as `evened` gives them. frames, edited, keys, mask, PictureError: as
    of `carry_over`. on_key: as its `on_frame`, of keyframes; asked before each flow, too, which may take
    seconds."""
    _check(frames, edited, keys)
    found: list[Tensor] = []

    def told() -> None:
        if on_key is not None:
            on_key(len(found), len(keys.indices))

    def shown(key: int) -> tuple[Tensor, Tensor]:
        return frames[key], edited[keys.indices.index(key)]

    def watched(*parts: Tensor) -> Tensor:
        told()
        return flow(*parts)

    for _, picture in evened(keys.indices, _routes(frames, mask, []), shown, watched):
        found.append(picture)
        told()
    return torch.stack(found)


def evened(
    indices: Sequence[int], routes: Sequence[Route], shown: Shown, flow: Flow = thing_flow
) -> Iterator[tuple[int, Tensor]]:
    """(frame, its edited keyframe [H, W, 3]) in order, brought to one look in the places (agree.py); outside
    them, and where nothing differs, with the bits that it had.

    indices, routes, shown: as of `carry_window`. No more than `_AT_ONCE` of them are held.
    """
    last: dict[int, tuple[Tensor, Tensor]] = {}
    for span in key_spans(len(indices), _AT_ONCE):
        new = indices[span.new : span.stop]
        pairs = {at: last.get(at) or shown(at) for at in indices[span.start : span.stop]}
        pairs |= {at: (pairs[at][0], pairs[at][1].clone()) for at in new}
        for place in routes:
            known = {
                at: key_of(place.work(source[None], [at]), 0, extract(edited[None], place.boxes[at])[0])
                for at, (source, edited) in pairs.items()
                if at in place.boxes
            }
            for at, key in agree(known, [at for at in known if at in new], flow).items():
                _change(pairs[at][1], place, at, known[at].painted, key.painted)
        yield from ((at, pairs[at][1]) for at in new)
        last = {new[-1]: pairs[new[-1]]}


def _change(picture: Tensor, place: Route, at: int, old: Tensor, new: Tensor) -> None:
    """Adds what has changed in a crop to the picture, inside the place alone."""
    box = place.boxes[at]
    window = slice(box.y0, box.y1), slice(box.x0, box.x1)
    after, before = (restore(each[None], box)[0] for each in (new, old))
    more = after - before
    if place.inside is not None:
        more = more * place.inside[at][window][..., None]
    picture[window] = (picture[window] + more).clamp(0, 1)


def carry_window(
    frames: Tensor,
    first: int,
    routes: Sequence[Route],
    indices: Sequence[int],
    shown: Shown,
    feather: int | None = None,
    flow: Flow = thing_flow,
) -> Tensor:
    """Frames [n, H, W, 3], the clip's from `first` on, with edited keyframes carried over them.

    routes: the places of the whole clip. indices: of all keyframes, in order; `shown` is asked for none but
    the last one before a frame, itself, and the next one.
    """
    result, stop = frames, first + len(frames)
    for each in routes:
        for run in runs(each):
            which = [frame for frame in run if first <= frame < stop]
            mine = [at for at in indices if run[0] <= at <= run[-1]]
            if which and mine:
                here = frames[[frame - first for frame in which]]
                crops = _crops(here, each, mine, which, shown, flow)
                result = put(result, first, each, which, each.work(here, which), crops, feather)
    return result


def unreached(routes: Sequence[Route], indices: Sequence[int]) -> list[str]:
    """In words, the stretches in which a place is on and no keyframe lies."""
    return [
        f"frames {run[0]} to {run[-1]} have no keyframe and stay as they are"
        for each in routes
        for run in runs(each)
        if not any(run[0] <= at <= run[-1] for at in indices)
    ]


def _crops(
    frames: Tensor, place: Route, mine: list[int], which: list[int], shown: Shown, flow: Flow
) -> Tensor:
    """The crops [n, h, w, 3] of the frames `which` [n, H, W, 3] of one stretch. mine: its keyframes."""
    found: dict[int, Tensor] = {}
    pairs: dict[tuple[int, ...], list[int]] = {}
    for frame in which:
        if frame in mine:
            found[frame] = extract(shown(frame)[1][None], place.boxes[frame])[0]
            continue
        around = (
            max((k for k in mine if k < frame), default=-1),
            min((k for k in mine if k > frame), default=-1),
        )
        pairs.setdefault(tuple(k for k in around if k >= 0), []).append(frame)
    for pair, between in pairs.items():
        known = []
        for at in pair:
            source, edited = shown(at)
            painted = extract(edited[None], place.boxes[at])[0]
            known.append(key_of(place.work(source[None], [at]), 0, painted))
        work = place.work(frames[[which.index(frame) for frame in between]], between)
        crops, _ = carry(work, nearness(pair, between), known, None, flow)
        found.update(zip(between, crops, strict=True))
    return torch.stack([found[frame] for frame in which])


def _routes(frames: Tensor, mask: Tensor | None, notes: list[str]) -> list[Route]:
    """The places of a clip, each in a crop that follows it, as large as it is there."""
    count, height, width = frames.shape[:3]
    corners = None if mask is None else track_of(mask >= 0.5)
    return route(frames[:1], count, mask, sizes(corners, height, width), AS_LARGE, notes)


def sizes(corners: Sequence[Corners | None] | None, height: int, width: int) -> Any:
    """What `route` asks of an editor, so that crops are as large as what is in them. corners: of the mask in
    each frame, or None for the whole frame."""
    side = whole = max(8, round(math.sqrt(height * width)))
    around = AS_LARGE.context
    there = [each for each in corners or () if each is not None]
    if there:
        extents = [((x1 - x0) * around, (y1 - y0) * around) for x0, y0, x1, y1 in there]
        side = max(8, round(max(math.sqrt(max(w, h / 2) * max(h, w / 2)) for w, h in extents)))
    return SimpleNamespace(best_resolution=side, full_frame_resolution=whole, multiple=1, factor=1)


def _check(frames: Tensor, edited: Tensor, keys: Keys) -> None:
    size = (keys.count, keys.height, keys.width)
    if tuple(frames.shape[:3]) != size:
        raise PictureError(
            f"the keys are of a clip of {keys.count} frames of {keys.width} x {keys.height}, and this one "
            f"has {frames.shape[0]} of {frames.shape[2]} x {frames.shape[1]}: connect the same clip to both "
            "nodes"
        )
    if digest_of(frames[list(keys.indices)]) != keys.source:
        raise PictureError(
            "the keys are of another clip of the same size: connect the same clip to both nodes"
        )
    if len(edited) != len(keys.indices):
        raise PictureError(
            f"{len(edited)} edited keyframes came back of {len(keys.indices)} that were handed out: edit "
            "each of them, in their order"
        )
    if tuple(edited.shape[1:3]) != size[1:]:
        raise PictureError(
            f"the edited keyframes are {edited.shape[2]} x {edited.shape[1]}, and the clip is {keys.width} x "
            f"{keys.height}: scale them back to that"
        )


def digest_of(frames: Iterable[Tensor]) -> str:
    """Of keyframes [H, W, 3] in 0..1, for `Keys.source`."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        digest.update((frame * 255).round().clamp(0, 255).byte().numpy().tobytes())
    return digest.hexdigest()
