"""The decoder layers of a Qwen2-VL or Qwen2.5-VL on a CPU, in float32, with the backward pass written out.

What autograd and PEFT would do is done with fewer passes over memory, and what is not needed is not done:

- LoRA is added into its module's output in place, and modules with one input share their products with A;
- of a layer only what the backward pass cannot cheaply make again is kept (12 widths a token);
- attention is computed piece by piece (`pieces`), prompts once for all responses behind them;
- the MLP runs on as many tokens as a core's cache holds;
- of the last layer only tokens whose state is asked for have a query, an output and an MLP;
- without a graph, a long row adds the adapter to each weight once, for one layer at a time.

The models' own layers are the oracle (tests/trainer/model/test_lean.py): `usable` says where this may stand
in for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu

from .pieces import Pieces, Segment, attend, attend_backward

LAYERS = ("Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer")
_CHUNK = 256  # tokens of an MLP at once: their activations stay in a core's cache
_GROUP = 1024  # tokens of a layer at once, where no graph is kept
_MERGED = 2048  # from so many tokens on it pays to add the adapter to the weights
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class _Linear:
    """y = W x + bias + scale B A x; a and b are None where there is no adapter."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0

    def merged(self) -> _Linear:
        if self.a is None or self.b is None:
            return self
        return _Linear(torch.addmm(self.weight, self.b, self.a, alpha=self.scale), self.bias)


@dataclass(frozen=True)
class _Layer:
    """A decoder layer: its norms' weights and their epsilon, its linear modules, the width of a head."""

    norms: tuple[Tensor, Tensor]
    epsilon: float
    modules: tuple[_Linear, ...]
    head: int

    @property
    def lora(self) -> list[Tensor | None]:
        return [each for module in self.modules for each in (module.a, module.b)]


@dataclass(frozen=True)
class _Rows:
    """Where a layer computes. cos, sin [T, 1, head / 2]; pieces: of the attention; wanted: tokens that go on,
    None for all."""

    cos: Tensor
    sin: Tensor
    pieces: Pieces
    wanted: Tensor | None = None


def usable(core: Any) -> bool:
    """Whether `last_states` may stand in for a language model's own layers."""
    config = core.config
    if torch.is_autocast_enabled("cpu") or getattr(core, "evlm_checkpointed", False):
        return False
    if core.training and (getattr(core, "gradient_checkpointing", False) or config.attention_dropout):
        return False
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    rotary = core.rotary_emb
    if getattr(rotary, "rope_type", "default") != "default" or not hasattr(config, "num_key_value_heads"):
        return False
    layers = list(core.layers)
    if any(type(layer).__name__ not in LAYERS or "forward" in vars(layer) for layer in layers):
        return False
    frozen = [layer.input_layernorm.weight for layer in layers] + [core.norm.weight]
    frozen += [layer.post_attention_layernorm.weight for layer in layers]
    return all(_frozen(each) for each in frozen) and all(
        _plain(module) for layer in layers for module in _modules(layer)
    )


def _frozen(weight: Tensor | None) -> bool:
    return weight is None or (
        weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad
    )


def _plain(module: Any) -> bool:
    """A frozen linear module, or one with at most one active adapter of PEFT that is plain LoRA."""
    if type(module) is nn.Linear:
        return _frozen(module.weight) and _frozen(module.bias) and not _watched(module)
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear or _watched(module):
        return False
    base = module.base_layer
    if not (_frozen(base.weight) and _frozen(base.bias)) or module.merged or any(module.lora_bias.values()):
        return False
    names = _active(module)
    if module.lora_variant or len(names) > 1:
        return False
    if not names:
        return True
    dropout, a = module.lora_dropout[names[0]], module.lora_A[names[0]].weight
    drops = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
    return not drops and a.dtype == torch.float32 and a.device.type == "cpu"


def _watched(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _active(module: Any) -> list[str]:
    if module.disable_adapters:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _modules(layer: Any) -> list[Any]:
    return [getattr(layer.self_attn, n) for n in _ATTENTION] + [getattr(layer.mlp, n) for n in _MLP]


def _linear_of(module: Any) -> _Linear:
    if type(module) is nn.Linear:
        return _Linear(module.weight, module.bias)
    base = module.base_layer
    for name in _active(module):
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        return _Linear(base.weight, base.bias, a, b, float(module.scaling[name]))
    return _Linear(base.weight, base.bias)


def _layer_of(layer: Any) -> _Layer:
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    return _Layer(
        (first.weight, second.weight),
        float(first.variance_epsilon),
        tuple(_linear_of(module) for module in _modules(layer)),
        int(layer.self_attn.head_dim),
    )


def last_states(core: Any, embeds: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Last hidden states of the tokens that the segments want, one segment after the other: [N, width].

    embeds [T, width] and positions int64 [3, T] of a row whose segments follow one another without a gap,
    each behind the one that it sees.
    """
    layers = [_layer_of(layer) for layer in core.layers]
    cos, sin = _rotary(core, positions)
    tokens = [torch.arange(max(s.start, s.wanted), s.stop) for s in segments]
    wanted = torch.cat(tokens)
    learning = embeds.requires_grad or any(
        each is not None and each.requires_grad for layer in layers for each in layer.lora
    )
    if torch.is_grad_enabled() and learning:
        rows = _Rows(cos, sin, Pieces.of(segments))
        last = _Rows(cos, sin, Pieces.of(segments, True), wanted)
        x = embeds
        for number, layer in enumerate(layers):
            where = last if number + 1 == len(layers) else rows
            x = _Kept.apply(x, layer, where, *layer.lora)
        return _Norm.apply(x, core.norm.weight, float(core.norm.variance_epsilon))
    with torch.no_grad():
        return _without_graph(core, layers, embeds, cos, sin, segments)


def _without_graph(
    core: Any, layers: list[_Layer], embeds: Tensor, cos: Tensor, sin: Tensor, segments: Sequence[Segment]
) -> Tensor:
    """Layer by layer, and in each layer one group of prompts with what stands behind them after the other."""
    groups: list[list[Segment]] = []
    for each in segments:
        size = each.stop - groups[-1][0].start if groups else 0
        if not groups or (each.before is None and size > _GROUP):
            groups.append([])
        groups[-1].append(each)
    x, found = embeds.clone(), []
    for number, layer in enumerate(layers):
        if len(x) >= _MERGED:
            layer = replace(layer, modules=tuple(each.merged() for each in layer.modules))
        for group in groups:
            a, b = group[0].start, group[-1].stop
            local = _moved(group, a)
            if number + 1 < len(layers):
                x[a:b] = _forward(x[a:b], layer, _Rows(cos[a:b], sin[a:b], Pieces.of(local)), False)[0]
                continue
            wanted = torch.cat([torch.arange(max(s.start, s.wanted), s.stop) for s in local])
            if len(wanted):
                rows = _Rows(cos[a:b], sin[a:b], Pieces.of(local, True), wanted)
                last = _forward(x[a:b], layer, rows, False)[0]
                found.append(_normed(last, core.norm.weight, core.norm.variance_epsilon)[0])
    return torch.cat(found)


def _moved(group: list[Segment], by: int) -> list[Segment]:
    """The same segments of a row that begins `by` later."""
    moved: dict[int, Segment] = {}
    for each in group:
        before = None if each.before is None else moved[id(each.before)]
        moved[id(each)] = Segment(each.start - by, each.stop - by, before, each.wanted - by)
    return list(moved.values())


def _rotary(core: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, 1, head / 2] of multimodal positions: each section of the frequencies turns by
    its own axis."""
    config = core.config
    known = getattr(config, "rope_parameters", None) or config.rope_scaling
    freqs = positions[..., None].float() * core.rotary_emb.inv_freq.float()
    parts = freqs.split(list(known["mrope_section"]), -1)
    angles = torch.cat([part[n % 3] for n, part in enumerate(parts)], -1)[:, None]
    scaling = float(core.rotary_emb.attention_scaling)
    return angles.cos() * scaling, angles.sin() * scaling


# --- a layer ---


def _forward(x: Tensor, layer: _Layer, rows: _Rows, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """(the layer's output, of the wanted tokens alone, what its backward pass needs beside x)."""
    to_q, to_k, to_v, to_o, to_gate, to_up, to_down = layer.modules
    h, scale = _normed(x, layer.norms[0], layer.epsilon)
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
    for at in range(0, len(middle), _CHUNK):
        part = middle[at : at + _CHUNK]
        h, last_scale[at : at + _CHUNK] = _normed(part, layer.norms[1], layer.epsilon)
        (gate, up), low_in = _project((to_gate, to_up), h)
        act = silu(gate).mul_(up)
        (down,), low_down = _project((to_down,), act)
        torch.add(down, part, out=result[at : at + _CHUNK])
        if keep:
            kept.append((gate, up, low_in, low_down))
    if not keep:
        return result, []
    flat = [each for chunk in kept for each in chunk]
    return result, [scale, q, k, v, out, lse, middle, last_scale, low_o, *lows, *flat]


def _backward(
    slope: Tensor, x: Tensor, layer: _Layer, rows: _Rows, kept: Sequence[Tensor], needs_x: bool
) -> tuple[Tensor | None, list[_Slopes]]:
    """(gradient by x, those by each module's adapter)."""
    to_q, to_k, to_v, to_o, to_gate, to_up, to_down = layer.modules
    slopes = [_Slopes.of(module) for module in layer.modules]
    scale, q, k, v, out, lse, middle, last_scale, low_o, *more = kept
    lows = [more.pop(0) for _ in range(1 if rows.wanted is None else 2)]
    by_middle = torch.empty_like(middle)
    for at in range(0, len(middle), _CHUNK):
        gate, up, low_in, low_down = (more.pop(0) for _ in range(4))
        some, dy = middle[at : at + _CHUNK], slope[at : at + _CHUNK]
        gated = silu(gate)
        by_act = _project_back((to_down,), gated * up, low_down, (dy,), slopes[6:], True)
        assert by_act is not None
        by_up = gated.mul_(by_act)
        by_gate = torch.ops.aten.silu_backward(by_act.mul_(up), gate)
        hat = some * last_scale[at : at + _CHUNK]
        h = hat * layer.norms[1]
        by_h = _project_back((to_gate, to_up), h, low_in, (by_gate, by_up), slopes[4:6], True)
        assert by_h is not None
        dx = _norm_back(by_h, hat, layer.norms[1], last_scale[at : at + _CHUNK])
        torch.add(dx, dy, out=by_middle[at : at + _CHUNK])
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


class _Kept(torch.autograd.Function):
    """A layer with a graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Layer, rows: _Rows, *lora: Tensor | None) -> Tensor:
        result, kept = _forward(x, layer, rows, True)
        ctx.layer, ctx.rows = layer, rows
        ctx.save_for_backward(x, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        x, *kept = ctx.saved_tensors
        by_x, slopes = _backward(slope.contiguous(), x, ctx.layer, ctx.rows, kept, ctx.needs_input_grad[0])
        return (by_x, None, None, *(each for pair in slopes for each in (pair.a, pair.b)))


class _Norm(torch.autograd.Function):
    """The norm behind the last layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        result, scale = _normed(x, weight, epsilon)
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
    def of(cls, module: _Linear) -> _Slopes:
        if module.a is None or module.b is None or not module.a.requires_grad:
            return cls()
        return cls(torch.zeros_like(module.a), torch.zeros_like(module.b))


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
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


def _project(modules: Sequence[_Linear], h: Tensor) -> tuple[list[Tensor], Tensor]:
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
    modules: Sequence[_Linear],
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
