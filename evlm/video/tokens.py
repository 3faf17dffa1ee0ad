"""Tokens of a few frames carried to the others while they are painted: TokenFlow (Geyer et al., arXiv
2307.10373, section 4.2).

At every step one frame of each stretch of `STRETCH`, drawn anew, is a key, and so is the last of the frames
that an earlier window has finished. The keys go through the model looking at each other. In the other frames
a self-attention gives, at each token p, what it gave the nearest keys a before and b after at their tokens
most like p, by the cosine of what goes into it:

    out(p) = w_a T_a[q_a] + w_b T_b[q_b],   q_k = argmax_q cos(x(p), x_k(q)),   w by nearness in time

Likeness is looked for in the copy of the guidance that sees the picture and no words, and counts for all of
them: there the model shows what it makes of the source. The paper's code weighs by a sigmoid, which jumps
half way between two keys; here the weights are linear. It inverts the source first; InstructPix2Pix sees it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..edit.guidance import Guidance, Predict
from .together import Call, Processor, Refs, SharedAttention, in_one, in_pieces

STRETCH = 4
"""Frames of which one is a key."""

Near = tuple[tuple[int, float], ...]
"""The nearest keys of a frame, each with its weight; the sum is 1."""


@dataclass
class TokenAttention(SharedAttention):
    """What the processors of one model share. seed: of which frames are keys.

    known: by layer and key, (what went into its attention [L, D], of unit length, what came out
    [copies, L, D]) of this step. near: of the frames that are in the model; None: these are keys. plain: the
    copy in which likeness is looked for.
    """

    seed: int = 0
    known: dict[str, dict[int, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    near: Sequence[Near] | None = None
    plain: int = 0

    def processor(self, name: str, stock: Any) -> Processor:
        return _TokenProcessor(name, self, stock)

    def window(
        self, refs: Refs, chunk: int, notes: list[str], needed: Sequence[int] | None = None
    ) -> Predict:
        """As `SharedAttention.window`; of refs only their number counts. What is not needed is finished."""
        return TokenWindow(self, len(refs), chunk, notes, range(len(refs)) if needed is None else needed)


class TokenWindow:
    """The frames of one window, step by step: first the keys, then the others in batches."""

    def __init__(
        self, sharing: TokenAttention, count: int, chunk: int, notes: list[str], needed: Sequence[int]
    ) -> None:
        self.sharing, self.chunk, self.notes = sharing, chunk, notes
        self.needed = sorted(needed)
        self.finished = max((frame for frame in range(count) if frame not in set(needed)), default=None)
        self.step = 0

    def __call__(self, guidance: Guidance, unet: Any, noisy: Tensor, time: Tensor) -> Tensor:
        sharing, prediction = self.sharing, torch.zeros_like(noisy)
        keys = keys_of(self.needed, self.finished, f"{sharing.seed} {self.step}")
        others = tuple(frame for frame in self.needed if frame not in keys)
        self.step += 1
        sharing.plain = guidance.plain

        def through(frames: tuple[int, ...]) -> int:
            among = set(keys) >= set(frames)
            sharing.near = None if among else [nearest(frame, keys) for frame in frames]
            sharing.call = Call(frames, (keys if among else (),) * len(frames), frozenset())
            try:
                prediction[list(frames)] = guidance(unet, noisy[list(frames)], time, frames)
            finally:
                sharing.call = sharing.near = None
            return len(frames)

        sharing.known.clear()
        in_one(through, keys, "propagate='flow'")
        if others:
            self.chunk = in_pieces(through, others, self.chunk, self.notes)
        sharing.known.clear()
        return prediction


def keys_of(frames: Sequence[int], finished: int | None, seed: str) -> tuple[int, ...]:
    """The keys among frames in ascending order: one of each stretch, drawn by the seed, and the finished one
    before them."""
    rng = random.Random(seed)
    stretches = [frames[at : at + STRETCH] for at in range(0, len(frames), STRETCH)]
    drawn = tuple(rng.choice(stretch) for stretch in stretches)
    return drawn if finished is None else (finished, *drawn)


def nearest(frame: int, keys: Sequence[int]) -> Near:
    """The keys before and after a frame that is none, and how near each is."""
    before = max((key for key in keys if key < frame), default=None)
    after = min((key for key in keys if key > frame), default=None)
    if before is None or after is None:
        only = after if before is None else before
        assert only is not None, "a window without a key"
        return ((only, 1.0),)
    far = (frame - before) / (after - before)
    return ((before, 1 - far), (after, far))


class _TokenProcessor(Processor):
    """Keeps what a self-attention gives the keys, and gives it to the others."""

    sharing: TokenAttention

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sharing, call = self.sharing, self.sharing.call
        if call is not None and sharing.near is not None:
            return self._taken(hidden_states, sharing.near)
        output = super().__call__(attn, hidden_states, *args, **kwargs)
        if call is not None:
            states = _unit(hidden_states, len(call.frames), sharing.plain)
            outputs = output.reshape(-1, len(call.frames), *output.shape[1:])
            sharing.known[self.name] = {
                frame: (states[at], outputs[:, at]) for at, frame in enumerate(call.frames)
            }
        return output

    def _taken(self, hidden: Tensor, near: Sequence[Near]) -> Tensor:
        known = self.sharing.known[self.name]
        states = _unit(hidden, len(near), self.sharing.plain)
        taken = []
        for state, keys in zip(states, near, strict=True):
            parts = []
            for key, weight in keys:
                theirs, output = known[key]
                parts.append(weight * output[:, (state @ theirs.T).argmax(1)])
            taken.append(torch.stack(parts).sum(0))
        return torch.stack(taken, 1).flatten(0, 1)


def _unit(hidden: Tensor, frames: int, copy: int) -> Tensor:
    """[copies * frames, L, D] -> [frames, L, D] of one copy, each token of unit length."""
    return F.normalize(hidden.reshape(-1, frames, *hidden.shape[1:])[copy].float(), dim=-1)
