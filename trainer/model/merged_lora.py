"""Adapters added to their weights while nothing is learned: one matmul a module in place of three.

PEFT computes W x + s B A x; here it is (W + s B A) x, in tensors beside the weights, which are never touched.
PEFT's own forward is the oracle (tests/trainer/model/test_merged_lora.py). Only full precision is merged:
in bfloat16 a small B A would be rounded away, and with it the log-ratio that is being measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

LIMIT = 1 << 26  # numbers in all merged weights of one adapter; a larger model keeps PEFT's way


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """No dropout and no graph, and adapters added to their weights where that is exact (`merged_weights`);
    afterwards each module trains or not as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), merged_weights(model):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def merged_weights(model: Any) -> Iterator[None]:
    """Inside, linear modules with LoRA compute with the sum of weight and adapters.

    Which adapters are active may change inside; their values and the base's may not. Modules that are not
    plain LoRA on a plain float32 or float64 linear module stay as they are, as does a model whose sums would
    not fit LIMIT. For use without gradients.
    """
    layers = [layer for layer in model.modules() if _plain(layer)]
    if sum(layer.base_layer.weight.numel() for layer in layers) > LIMIT:
        layers = []
    for layer in layers:
        layer.forward = partial(_forward, layer, {})
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _plain(layer: Any) -> bool:
    """Whether PEFT would compute W x + b + s B A x, and nobody has put another forward in its place."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or type(layer.base_layer) is not torch.nn.Linear:
        return False
    special = layer.lora_variant or layer.merged or any(layer.lora_bias.values())
    exact = layer.base_layer.weight.dtype in (torch.float32, torch.float64)
    return exact and not special and "forward" not in vars(layer)


def _forward(layer: Any, sums: dict[tuple[str, ...], Tensor], x: Tensor, *args: Any, **options: Any) -> Any:
    active = tuple(name for name in layer.active_adapters if name in layer.lora_A)
    if layer.disable_adapters or not active:
        return layer.base_layer(x)
    if args or options or torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x, *args, **options)
    if active not in sums:
        weight = layer.base_layer.weight.detach().clone()
        for name in active:
            weight += layer.get_delta_weight(name).detach()
        sums[active] = weight
    return torch.nn.functional.linear(x, sums[active], layer.base_layer.bias)
