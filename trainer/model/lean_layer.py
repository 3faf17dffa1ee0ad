"""A decoder layer of `lean`, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu

from .pieces import Pieces, attend, attend_backward

_CHUNK = 384  # tokens of an MLP at once, at most: their activations stay in a core's cache


@dataclass(frozen=True)
class Adapted:
    """y = W x + bias + scale B A x; a and b are None where there is no adapter."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0

    def merged(self) -> Adapted:
        if self.a is None or self.b is None:
            return self
        return Adapted(torch.addmm(self.weight, self.b, self.a, alpha=self.scale), self.bias)


@dataclass(frozen=True)
class Layer:
    """A decoder layer: its norms' weights and their epsilon, its linear modules, the width of a head."""

    norms: tuple[Tensor, Tensor]
    epsilon: float
    modules: tuple[Adapted, ...]
    head: int

    @property
    def lora(self) -> list[Tensor | None]:
        return [each for module in self.modules for each in (module.a, module.b)]


@dataclass(frozen=True)
class Rows:
    """Where a layer computes. cos, sin [T, 1, head / 2]; pieces: of the attention; wanted: tokens that go on,
    None for all."""

    cos: Tensor
    sin: Tensor
    pieces: Pieces
    wanted: Tensor | None = None


def forward(x: Tensor, layer: Layer, rows: Rows, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """(the layer's output, of the wanted tokens alone, what its backward pass needs beside x)."""
    to_q, to_k, to_v, to_o, to_gate, to_up, to_down = layer.modules
    h, scale = normed(x, layer.norms[0], layer.epsilon)
    if rows.wanted is None:
        (q, k, v), low = _project((to_q, to_k, to_v), h)
        lows, cos, sin = [low], rows.cos, rows.sin
    else:
        (k, v), low = _project((to_k, to_v), h)
        (q,), low_q = _project((to_q,), h[rows.wanted])
        lows, x = [low, low_q], x[rows.wanted]
        cos, sin = rows.cos[rows.wanted], rows.sin[rows.wanted]
    q, k, v = (each.view(len(each), -1, layer.head) for each in (q, k, v))
    q, k = _turned(q, cos, sin), _turned(k, rows.cos, rows.sin)
    group = q.shape[1] // k.shape[1]
    wide = (k, v) if group == 1 else (k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
    out, lse = attend(q, *wide, rows.pieces)
    seen = out.flatten(1)
    (added,), low_o = _project((to_o,), seen)
    middle = added.add_(x)
    result, last_scale = torch.empty_like(middle), middle.new_empty(len(middle), 1)
    kept: list[tuple[Tensor, ...]] = []
    for some in _chunks(len(middle)):
        part = middle[some]
        h, last_scale[some] = normed(part, layer.norms[1], layer.epsilon)
        (gate, up), low_in = _project((to_gate, to_up), h)
        act = silu(gate).mul_(up)
        (down,), low_down = _project((to_down,), act)
        torch.add(down, part, out=result[some])
        if keep:
            kept.append((gate, up, low_in, low_down))
    if not keep:
        return result, []
    flat = [each for chunk in kept for each in chunk]
    return result, [scale, q, k, v, out, lse, middle, last_scale, low_o, *lows, *flat]


def _backward(
    slope: Tensor, x: Tensor, layer: Layer, rows: Rows, kept: Sequence[Tensor], needs_x: bool
) -> tuple[Tensor | None, list[_Slopes]]:
    """(gradient by x, those by each module's adapter)."""
    to_q, to_k, to_v, to_o, to_gate, to_up, to_down = layer.modules
    slopes = [_Slopes.of(module) for module in layer.modules]
    scale, q, k, v, out, lse, middle, last_scale, low_o, *more = kept
    lows = [more.pop(0) for _ in range(1 if rows.wanted is None else 2)]
    by_middle = torch.empty_like(middle)
    for some in _chunks(len(middle)):
        gate, up, low_in, low_down = (more.pop(0) for _ in range(4))
        dy, its_scale = slope[some], last_scale[some]
        gated = silu(gate)
        by_act = _project_back((to_down,), gated * up, low_down, (dy,), slopes[6:], True)
        assert by_act is not None
        by_up = gated.mul_(by_act)
        by_gate = torch.ops.aten.silu_backward(by_act.mul_(up), gate)
        hat = middle[some] * its_scale
        h = hat * layer.norms[1]
        by_h = _project_back((to_gate, to_up), h, low_in, (by_gate, by_up), slopes[4:6], True)
        assert by_h is not None
        dx = _norm_back(by_h, hat, layer.norms[1], its_scale)
        torch.add(dx, dy, out=by_middle[some])
    by_seen = _project_back((to_o,), out.flatten(1), low_o, (by_middle,), slopes[3:4], True)
    assert by_seen is not None
    group = q.shape[1] // k.shape[1]
    wide = (k, v) if group == 1 else (k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
    dq, dk, dv = attend_backward(by_seen.view_as(q), q, *wide, out, lse, rows.pieces)
    if group > 1:
        dk, dv = (each.unflatten(1, (-1, group)).sum(2) for each in (dk, dv))
    cos, sin = (rows.cos, rows.sin) if rows.wanted is None else (rows.cos[rows.wanted], rows.sin[rows.wanted])
    dq, dk = _turned(dq, cos, -sin).flatten(1), _turned(dk, rows.cos, -rows.sin).flatten(1)
    dv, hat = dv.flatten(1), x * scale
    h = hat * layer.norms[0]
    if rows.wanted is None:
        by_h = _project_back((to_q, to_k, to_v), h, lows[0], (dq, dk, dv), slopes[:3], needs_x)
    else:
        by_h = _project_back((to_k, to_v), h, lows[0], (dk, dv), slopes[1:3], needs_x)
        by_q = _project_back((to_q,), h[rows.wanted], lows[1], (dq,), slopes[:1], needs_x)
        if by_h is not None and by_q is not None:
            by_h.index_add_(0, rows.wanted, by_q)
    if by_h is None:
        return None, slopes
    by_x = _norm_back(by_h, hat, layer.norms[0], scale)
    if rows.wanted is None:
        return by_x.add_(by_middle), slopes
    return by_x.index_add_(0, rows.wanted, by_middle), slopes


class WithGraph(torch.autograd.Function):
    """A layer with a graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rows: Rows, *lora: Tensor | None) -> Tensor:
        result, kept = forward(x, layer, rows, True)
        ctx.layer, ctx.rows = layer, rows
        ctx.save_for_backward(x, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        x, *kept = ctx.saved_tensors
        by_x, slopes = _backward(slope.contiguous(), x, ctx.layer, ctx.rows, kept, ctx.needs_input_grad[0])
        return (by_x, None, None, *(each for pair in slopes for each in (pair.a, pair.b)))


class NormWithGraph(torch.autograd.Function):
    """The norm behind the last layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        result, scale = normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        return _norm_back(slope.clone(), x * scale, weight, scale), None, None


# --- its parts ---


@dataclass
class _Slopes:
    """Gradients by a module's A and B, added up; None where nothing learns."""

    a: Tensor | None = None
    b: Tensor | None = None

    @classmethod
    def of(cls, module: Adapted) -> _Slopes:
        if module.a is None or module.b is None or not module.a.requires_grad:
            return cls()
        return cls(torch.zeros_like(module.a), torch.zeros_like(module.b))


def _chunks(tokens: int) -> list[slice]:
    """Equal parts of about as many tokens as the cache holds."""
    size = -(-tokens // max(1, -(-tokens // _CHUNK)))
    return [slice(at, min(at + size, tokens)) for at in range(0, tokens, max(1, size))]


def normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(the RMS norm of x, what each row was multiplied with [T, 1])."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    scale = scale.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale).mul_(weight), scale


def _norm_back(slope: Tensor, hat: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Gradient by a norm's input, in the memory of that by its output. hat: the input times its scale."""
    slope.mul_(weight)
    along = torch.linalg.vecdot(slope, hat)[:, None].div_(-hat.shape[-1])
    return slope.addcmul_(hat, along).mul_(scale)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x [T, heads, head dim]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)
    return out


def _project(modules: Sequence[Adapted], h: Tensor) -> tuple[list[Tensor], Tensor]:
    """(what each module makes of h, the products of h with their A side by side [T, sum of ranks])."""
    adapters = [each.a for each in modules if each.a is not None]
    low = linear(h, torch.cat(adapters)) if adapters else h.new_empty(len(h), 0)
    results, at = [], 0
    for each in modules:
        y = linear(h, each.weight, each.bias)
        if each.b is not None:
            rank = each.b.shape[1]
            y.addmm_(low[:, at : at + rank], each.b.t(), alpha=each.scale)
            at += rank
        results.append(y)
    return results, low


def _project_back(
    modules: Sequence[Adapted],
    h: Tensor,
    low: Tensor,
    slopes: Sequence[Tensor],
    learned: Sequence[_Slopes],
    needs_input: bool,
) -> Tensor | None:
    """The gradient by h, and those by the adapters added to `learned`. slopes: by each module's output."""
    by_low, by_h, at = torch.empty_like(low), None, 0
    for module, slope, its in zip(modules, slopes, learned, strict=True):
        if needs_input:
            by_h = slope @ module.weight if by_h is None else by_h.addmm_(slope, module.weight)
        if module.b is None:
            continue
        rank = module.b.shape[1]
        part = slice(at, at + rank)
        at += rank
        torch.mm(slope, module.b, out=by_low[:, part]).mul_(module.scale)
        if its.b is not None:
            its.b.addmm_(slope.t(), low[:, part], alpha=module.scale)
    adapters = [each.a for each in modules if each.a is not None]
    if not adapters:
        return by_h
    if any(each.a is not None for each in learned):
        at = 0
        found = by_low.t() @ h
        for module, its in zip(modules, learned, strict=True):
            if module.a is None:
                continue
            rank = len(module.a)
            if its.a is not None:
                its.a.add_(found[at : at + rank])
            at += rank
    return None if by_h is None else by_h.addmm_(by_low, torch.cat(adapters))
