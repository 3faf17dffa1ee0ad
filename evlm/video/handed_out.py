"""Keyframes for an editor that is not ours: handed out, taken back edited, and carried over their clip.

What no keyframe's motion reaches stays as the nearest keyframes have it: nobody is there to paint it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor

from ..edit.crop import extract
from ..edit.follow import track_of
from ..edit.protocol import EditSettings
from ..errors import PictureError
from .carried import nearness
from .clip import put, route
from .propagate import Flow, carry, key_of, keyframes, runs, thing_flow
from .windows import Route

_AT_ONCE = 8  # frames that are carried together
_CONTEXT = 1.2
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
    return picked, Keys(tuple(indices), times, count, height, width, _digest(picked)), notes


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
    result, done = frames.clone(), 0
    routes = _routes(frames, mask, notes)
    total = sum(len(each.boxes) for each in routes)
    for each in routes:
        for run in runs(each):
            mine = [at for at in keys.indices if at in run]
            if not mine:
                notes.append(f"frames {run[0]} to {run[-1]} have no keyframe and stay as they are")
                done += len(run)
                continue
            for start in range(0, len(run), _AT_ONCE):
                which = run[start : start + _AT_ONCE]
                work = each.work(frames[which], which)
                crops = _crops(frames, edited, keys, each, mine, which, flow)
                # Only these frames are copied: `put` gives new ones.
                part = put(result[which[0] : which[-1] + 1], which[0], each, which, work, crops, feather)
                result[which[0] : which[-1] + 1] = part
                done += len(which)
                if on_frame is not None:
                    on_frame(done, total)
    return result, notes


def _crops(
    frames: Tensor, edited: Tensor, keys: Keys, place: Route, mine: list[int], which: list[int], flow: Flow
) -> Tensor:
    """The crops [n, h, w, 3] of the frames `which` of one stretch. mine: its keyframes."""
    found: dict[int, Tensor] = {}
    pairs: dict[tuple[int, ...], list[int]] = {}
    for frame in which:
        if frame in mine:
            found[frame] = extract(edited[keys.indices.index(frame)][None], place.boxes[frame])[0]
            continue
        around = (
            max((k for k in mine if k < frame), default=-1),
            min((k for k in mine if k > frame), default=-1),
        )
        pairs.setdefault(tuple(k for k in around if k >= 0), []).append(frame)
    for pair, between in pairs.items():
        known = []
        for at in pair:
            painted = extract(edited[keys.indices.index(at)][None], place.boxes[at])[0]
            known.append(key_of(place.work(frames[[at]], [at]), 0, painted))
        work = place.work(frames[between], between)
        crops, _ = carry(work, nearness(pair, between), known, None, flow)
        found.update(zip(between, crops, strict=True))
    return torch.stack([found[frame] for frame in which])


def _routes(frames: Tensor, mask: Tensor | None, notes: list[str]) -> list[Route]:
    """The places of a clip, each in a crop that follows it, as large as it is there."""
    count, height, width = frames.shape[:3]
    side = math.sqrt(height * width)
    if mask is not None:
        corners = [each for each in track_of(mask >= 0.5) if each is not None]
        sizes = [((x1 - x0) * _CONTEXT, (y1 - y0) * _CONTEXT) for x0, y0, x1, y1 in corners]
        side = max((math.sqrt(max(w, h / 2) * max(h, w / 2)) for w, h in sizes), default=side)
    size = max(8, round(side))
    whole = max(8, round(math.sqrt(height * width)))
    editor = SimpleNamespace(best_resolution=size, full_frame_resolution=whole, multiple=1, factor=1)
    return route(frames[:1], count, mask, editor, EditSettings(context=_CONTEXT), notes)


def _check(frames: Tensor, edited: Tensor, keys: Keys) -> None:
    size = (keys.count, keys.height, keys.width)
    if tuple(frames.shape[:3]) != size:
        raise PictureError(
            f"the keys are of a clip of {keys.count} frames of {keys.width} x {keys.height}, and this one "
            f"has {frames.shape[0]} of {frames.shape[2]} x {frames.shape[1]}: connect the same clip to both "
            "nodes"
        )
    if _digest(frames[list(keys.indices)]) != keys.source:
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


def _digest(frames: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        digest.update((frame * 255).round().clamp(0, 255).byte().contiguous().numpy())
    return digest.hexdigest()
