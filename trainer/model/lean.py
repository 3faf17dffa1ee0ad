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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .lean_layer import Adapted, Layer, NormWithGraph, Rows, WithGraph, forward, normed
from .pieces import Pieces, Segment

LAYERS = ("Qwen2VLDecoderLayer", "Qwen2_5_VLDecoderLayer")
_GROUP = 1024  # tokens of a layer at once, where no graph is kept
_MERGED = 768  # from so many tokens on it pays to add the adapter to the weights
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


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
    if any(_watched(module) for module in core.modules()):
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
        return _frozen(module.weight) and _frozen(module.bias)
    from peft.tuners.lora import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
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
    """Whether somebody wants to be told when it runs."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _active(module: Any) -> list[str]:
    if module.disable_adapters:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _modules(layer: Any) -> list[Any]:
    return [getattr(layer.self_attn, n) for n in _ATTENTION] + [getattr(layer.mlp, n) for n in _MLP]


def _linear_of(module: Any) -> Adapted:
    if type(module) is nn.Linear:
        return Adapted(module.weight, module.bias)
    base = module.base_layer
    for name in _active(module):
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        return Adapted(base.weight, base.bias, a, b, float(module.scaling[name]))
    return Adapted(base.weight, base.bias)


def _layer_of(layer: Any) -> Layer:
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    return Layer(
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
        rows = Rows(cos, sin, Pieces.of(segments))
        last = Rows(cos, sin, Pieces.of(segments, True), wanted)
        x = embeds
        for number, layer in enumerate(layers):
            where = last if number + 1 == len(layers) else rows
            x = WithGraph.apply(x, layer, where, *layer.lora)
        return NormWithGraph.apply(x, core.norm.weight, float(core.norm.variance_epsilon))
    with torch.no_grad():
        return _without_graph(core, layers, embeds, cos, sin, segments)


def _without_graph(
    core: Any, layers: list[Layer], embeds: Tensor, cos: Tensor, sin: Tensor, segments: Sequence[Segment]
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
                x[a:b] = forward(x[a:b], layer, Rows(cos[a:b], sin[a:b], Pieces.of(local)), False)[0]
                continue
            wanted = torch.cat([torch.arange(max(s.start, s.wanted), s.stop) for s in local])
            if len(wanted):
                rows = Rows(cos[a:b], sin[a:b], Pieces.of(local, True), wanted)
                last = forward(x[a:b], layer, rows, False)[0]
                found.append(normed(last, core.norm.weight, core.norm.variance_epsilon)[0])
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
