"""The bundled segmenter at twice its width, to begin the tracker with: the same function, each channel twice.

A layer norm over doubled channels gives the doubled norm, sine and cosine of doubled frequencies are doubled,
and a layer reads the two halves of a channel with weights that sum to its old weight. How they share it is
drawn at random: halves with equal weights would have equal gradients and stay one channel for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPLIT = 0.5  # of a layer's own scale: how far the weights of two halves lie from each other
_LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def widened(narrow: nn.Module, wide: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """The state of `narrow` for `wide`, the same model with two channels for each of its hidden ones."""
    state, sizes = narrow.state_dict(), wide.state_dict()
    layers = {name: each for name, each in narrow.named_modules() if isinstance(each, _LAYERS)}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        shape, found = sizes[name].shape, tensor.float()
        owner, _, kind = name.rpartition(".")
        for axis, (size, wanted) in enumerate(zip(tensor.shape, shape, strict=True)):
            if size == wanted:
                continue
            if wanted != 2 * size:
                raise ValueError(f"{name}: {tuple(tensor.shape)} does not become {tuple(shape)}")
            found = found.repeat_interleave(2, axis)
            layer = layers.get(owner)
            if kind == "weight" and axis == _read(layer):
                found = _shared(found / 2, axis, generator)
        result[name] = found * _scale(name)
    return result


def _read(layer: nn.Module | None) -> int | None:
    """The axis of a layer's weight along which it reads."""
    return None if layer is None else 0 if isinstance(layer, nn.ConvTranspose2d) else 1


def _shared(weight: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    """A weight whose pairs along `axis` are equal, with another share for each half."""
    pairs = weight.unflatten(axis, (-1, 2))
    aside = torch.randn(pairs.select(axis + 1, 0).shape, generator=generator) * (SPLIT * weight.std())
    return (pairs + torch.stack([aside, -aside], axis + 1)).flatten(axis, axis + 1)


def _scale(name: str) -> float:
    """Products of two doubled vectors are twice as large: in attention's scores, whose library divides by the
    root of the width, and in the masks."""
    if "mask_decoder" in name and (".q_proj." in name or ".k_proj." in name):
        return float(2**-0.25)
    return 0.5 if "output_hypernetworks_mlps" in name and ".proj_out." in name else 1.0
