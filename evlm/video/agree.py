"""Keyframes of one place brought to one look, before they are carried.

Each is painted from its own crop: their colours differ, and a clip that is carried from one to the next
flickers. For keyframe a, with the flows of the *source* from a to every other one b:

    E_a' = (n_a E_a + sum_b n_b s_ab warp(E_b, a -> b)) / (n_a + sum_b n_b s_ab)

s is 1 where the way there and back ends where it began, the thing is there in both, and the source has one
colour in both, within `SAME`: where its light changes, what was painted may change, too. n is 1, but for a
keyframe of an earlier window, which is a mean itself and stays as it is: it counts as all of this one's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..motion.flow import consistent, warp
from .propagate import Flow, Key, thing_flow

SAME = 0.1
_AT_ONCE = 1 << 16  # pixels of a flow: more at once are slower on a CPU


def agree(keys: Mapping[int, Key], new: Collection[int], flow: Flow = thing_flow) -> dict[int, Key]:
    """The new ones among the keyframes of a place, by frame, as all of them have them together. keys: crops
    of one size. Outside its mask a keyframe stays as it is."""
    frames = sorted(keys)
    total = {frame: keys[frame].painted.clone() for frame in new}
    count = {frame: torch.ones(keys[frame].painted.shape[:2]) for frame in new}
    for at, first in enumerate(frames):
        others = [each for each in frames[at + 1 :] if first in total or each in total]
        for some in _batches(others, keys[first].inside.numel()):
            one, many = _stack(keys, [first] * len(some)), _stack(keys, some)
            there, back = (
                flow(a.source, b.source, a.inside, b.inside) for a, b in ((one, many), (many, one))
            )
            for a, b, way, returns, here, far in (
                (one, many, there, back, [first] * len(some), some),
                (many, one, back, there, some, [first] * len(some)),
            ):
                seen, painted = _seen(a, b, way, returns)
                for number, (frame, other) in enumerate(zip(here, far, strict=True)):
                    if frame in total:
                        weight = seen[number] * (1.0 if other in total else float(len(keys)))
                        total[frame] += weight[..., None] * painted[number]
                        count[frame] += weight
    return {frame: replace(keys[frame], painted=total[frame] / count[frame][..., None]) for frame in new}


def _seen(key: Key, other: Key, there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """(float [B, h, w], where other keyframes tell what keyframes show; what they have there, [B, h, w, 3]).
    key, other: of several, [B, h, w, 3] and [B, h, w]."""
    source, inside, painted = (
        warp(each, there) for each in (other.source, other.inside[..., None], other.painted)
    )
    alike = (source - key.source).abs().amax(-1) < SAME
    return (consistent(there, back) & (inside[..., 0] > 0.5) & (key.inside > 0) & alike).float(), painted


def _stack(keys: Mapping[int, Key], which: Sequence[int]) -> Key:
    parts = [[getattr(keys[frame], name) for frame in which] for name in ("source", "painted", "inside")]
    return Key(*(torch.stack(each) for each in parts))


def _batches(frames: Sequence[int], pixels: int) -> list[Sequence[int]]:
    size = max(1, _AT_ONCE // max(1, pixels))
    return [frames[at : at + size] for at in range(0, len(frames), size)]
