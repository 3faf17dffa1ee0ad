"""Attention shared by the frames of a window: in every self-attention a frame looks at others, too.

With Q of frame i and K, V of the frames R(i) that it looks at: softmax(Q_i [K_R]^T / sqrt d) [V_R].

    per-frame  {i}, as every editor of pictures does
    sparse     {0, i-1, i}: Tune-A-Video's sparse-causal attention (arXiv 2212.11565), and itself
    tav        {0, i-1}, as its code has it
    anchors    {i} and the window's anchors, its first and its middle frame (Instruct 4D-to-4D)
    all        all frames of the window (TokenFlow's extended attention)

The model's processors are exchanged for the time of a `with shared(unet)`, and what is computed of a frame
that others look at is kept for the rest of the step: so a window may be larger than what fits into memory at
once, and the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..edit.chunks import in_chunks
from ..edit.guidance import Guidance, Predict
from ..errors import ModelError, RequestError

Mode = Literal["per-frame", "sparse", "tav", "anchors", "all"]
MODES: tuple[str, ...] = get_args(Mode)

Refs = tuple[tuple[int, ...], ...]


def references(mode: Mode, count: int) -> Refs:
    """At whom each of `count` frames of a window looks, in ascending order. Raises RequestError for an
    unknown mode."""
    frames = range(count)
    if mode == "per-frame":
        return tuple((i,) for i in frames)
    if mode == "sparse":
        return tuple(tuple(sorted({0, max(i - 1, 0), i})) for i in frames)
    if mode == "tav":
        return tuple(tuple(sorted({0, max(i - 1, 0)})) for i in frames)
    if mode == "anchors":
        return tuple(tuple(sorted({0, count // 2, i})) for i in frames)
    if mode == "all":
        return (tuple(frames),) * count
    raise RequestError(f"together {mode!r}: expected one of {', '.join(MODES)}")


@contextmanager
def shared(unet: Any, sharing: SharedAttention | None = None) -> Iterator[SharedAttention]:
    """The model with shared attention in every `attn1`; afterwards, also after an exception, it has its own
    processors again. sharing: of another manner than at whom frames look."""
    stock = dict(unet.attn_processors)
    sharing = SharedAttention() if sharing is None else sharing
    try:
        unet.set_attn_processor(
            {
                name: sharing.processor(name, processor) if ".attn1." in name else processor
                for name, processor in stock.items()
            }
        )
        yield sharing
    finally:
        sharing.call = None
        unet.set_attn_processor(stock)


@dataclass
class Call:
    """Frames that go through the model in one batch. keep: those of them that later calls look at."""

    frames: tuple[int, ...]
    refs: Refs
    keep: frozenset[int]


@dataclass
class SharedAttention:
    """What the processors of one model share. call: the batch that is in the model now; None: attention is
    as ever. kept: keys and values [copies, L, D] of frames of this step, by layer."""

    call: Call | None = None
    kept: dict[str, dict[int, tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def processor(self, name: str, stock: Any) -> Processor:
        """Of the self-attention `name`, whose own is `stock`."""
        return Processor(name, self, stock)

    def window(
        self, refs: Refs, chunk: int, notes: list[str], needed: Sequence[int] | None = None
    ) -> Predict:
        """How the frames of a window go through the model (an editor's `predict`).

        refs: at whom each frame looks. chunk: frames in one batch. needed: the frames whose prediction
            counts; the others go along where one of these looks at them. notes: halved chunks are added.
        """
        return Window(self, refs, chunk, notes, tuple(range(len(refs))) if needed is None else tuple(needed))


class Window:
    """The frames of one window, in batches in which each frame finds at whom it looks: there, or kept."""

    def __init__(
        self, sharing: SharedAttention, refs: Refs, chunk: int, notes: list[str], needed: tuple[int, ...]
    ) -> None:
        self.sharing, self.chunk, self.notes = sharing, chunk, notes
        present = sorted({*needed, *(ref for frame in needed for ref in refs[frame])})
        self.refs = {
            frame: tuple(ref for ref in refs[frame] if ref in present) or (frame,) for frame in present
        }
        self.parts = _in_order(self.refs)

    def __call__(self, guidance: Guidance, unet: Any, noisy: Tensor, time: Tensor) -> Tensor:
        prediction = torch.zeros_like(noisy)
        self.sharing.kept.clear()

        def through(frames: tuple[int, ...]) -> int:
            keep = {ref for other, refs in self.refs.items() if other not in frames for ref in refs}
            refs = tuple(self.refs[frame] for frame in frames)
            self.sharing.call = Call(frames, refs, frozenset(keep & set(frames)))
            try:
                prediction[list(frames)] = guidance(unet, noisy[list(frames)], time, frames)
            finally:
                self.sharing.call = None
            return len(frames)

        for part in self.parts:
            if part.mutual:
                in_one(through, part.frames, "together='per-frame'")
            else:
                self.chunk = in_pieces(through, part.frames, self.chunk, self.notes)
        self.sharing.kept.clear()
        return prediction


Through = Callable[[tuple[int, ...]], int]
"""Frames through the model in one batch; gives how many they are."""


def in_pieces(through: Through, frames: tuple[int, ...], chunk: int, notes: list[str]) -> int:
    """Frames through the model, at most `chunk` in a batch. Gives the size to begin with next time: what did
    fit. notes: halved chunks are added."""
    sizes, halved = in_chunks(len(frames), chunk, lambda piece: through(frames[piece]))
    notes += halved
    return max(sizes[-2:]) if halved else chunk


def in_one(through: Through, frames: tuple[int, ...], otherwise: str = "") -> None:
    """Frames that look at each other, in one batch. otherwise: what would do as well as a smaller window.
    Raises ModelError where they do not fit into memory."""
    try:
        in_chunks(1, 1, lambda _: through(frames))
    except ModelError as error:
        if "out of memory" not in str(error):
            raise
        raise ModelError(
            f"out of memory with the {len(frames)} frames that look at each other; give a smaller "
            f"window{otherwise and ', or '}{otherwise}"
        ) from error


@dataclass(frozen=True)
class _Part:
    """Frames in their order; mutual: they look at each other, so they go through the model in one batch."""

    frames: tuple[int, ...]
    mutual: bool


def _in_order(refs: dict[int, tuple[int, ...]]) -> list[_Part]:
    """The frames in parts so that each looks only at frames of its own part or an earlier one."""
    left, done, parts = sorted(refs), set[int](), list[_Part]()
    while left:
        # A frame that looks only back, at what is done by then, can wait for its turn in a row of such.
        row: list[int] = []
        for frame in left:
            if set(refs[frame]) <= done | set(row) | {frame}:
                row.append(frame)
        mutual = not row
        if mutual:
            row = _closed(refs, left, done)
        parts.append(_Part(tuple(row), mutual))
        done |= set(row)
        left = [frame for frame in left if frame not in done]
    return parts


def _closed(refs: dict[int, tuple[int, ...]], left: list[int], done: set[int]) -> list[int]:
    """The smallest set of frames that look at nobody else who is not done."""

    def reach(frame: int) -> list[int]:
        seen, front = {frame}, [frame]
        while front:
            new = {ref for each in front for ref in refs[each]} - seen - done
            seen |= new
            front = list(new)
        return sorted(seen)

    return min((reach(frame) for frame in left), key=len)


class Processor:
    """Stands in for diffusers' AttnProcessor2_0 in one self-attention."""

    def __init__(self, name: str, sharing: SharedAttention, stock: Any) -> None:
        self.name, self.sharing, self.stock = name, sharing, stock

    def __call__(
        self, attn: Any, hidden_states: Tensor, *args: Any, gate: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """gate: of a bridge's tokens, which self-attention has none of; diffusers warns of what it finds no
        parameter for."""
        call = self.sharing.call
        if call is None:
            result: Tensor = self.stock(attn, hidden_states, *args, **kwargs)
            return result
        query, key, value = (to(hidden_states) for to in (attn.to_q, attn.to_k, attn.to_v))
        mixed = self._look(call, query, key, value, attn.heads)
        output: Tensor = attn.to_out[1](attn.to_out[0](mixed.to(query.dtype)))
        return output / attn.rescale_output_factor

    def _look(self, call: Call, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """[copies * n, L, D] each -> [copies * n, L, D], n the frames of the call."""
        count = len(call.frames)
        by_frame = [each.reshape(-1, count, *each.shape[1:]) for each in (key, value)]
        kept = self.sharing.kept.setdefault(self.name, {})
        for at, frame in enumerate(call.frames):
            if frame in call.keep:
                kept[frame] = (by_frame[0][:, at], by_frame[1][:, at])
        if all(refs == (frame,) for frame, refs in zip(call.frames, call.refs, strict=True)):
            return _attend(query, key, value, heads)
        position = {frame: at for at, frame in enumerate(call.frames)}

        def seen(which: int, refs: tuple[int, ...]) -> Tensor:
            """Keys (which 0) or values (1) of some frames, [copies, len(refs) * L, D]."""
            return torch.cat(
                [by_frame[which][:, position[ref]] if ref in position else kept[ref][which] for ref in refs],
                1,
            )

        queries = query.reshape(-1, count, *query.shape[1:])
        mixed = torch.empty_like(queries)
        if len(set(call.refs)) == 1:  # one set for all: nothing is copied for each
            together = _attend(queries.flatten(1, 2), seen(0, call.refs[0]), seen(1, call.refs[0]), heads)
            return together.reshape(query.shape)
        for size in {len(refs) for refs in call.refs}:
            rows = [at for at, refs in enumerate(call.refs) if len(refs) == size]
            keys, values = (
                torch.stack([seen(which, call.refs[at]) for at in rows], 1).flatten(0, 1) for which in (0, 1)
            )
            part = _attend(queries[:, rows].flatten(0, 1), keys, values, heads)
            mixed[:, rows] = part.reshape(len(queries), len(rows), *query.shape[1:])
        return mixed.reshape(query.shape)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[B, L, D], [B, M, D], [B, M, D] -> [B, L, D]."""
    batch, length, width = query.shape
    q, k, v = (each.view(batch, -1, heads, width // heads).transpose(1, 2) for each in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
