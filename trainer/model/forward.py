"""A forward of Qwen2-VL, Qwen2.5-VL or Qwen3-VL up to the last hidden state, with explicit positions and
equal pictures in one matmul (`towers`).

`model.model(...)` is the oracle (tests/trainer/model/test_batch.py, test_families.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .token_count import count_fed
from .towers import all_features, picture_features, tower_states

__all__ = ["Embedded", "Features", "embed_inputs", "hidden_and_seen", "hidden_states", "tower_states"]


@dataclass(frozen=True)
class Embedded:
    """tokens: embeddings [B, L, width] with the pictures in their places. deep: what the language model of a
    Qwen3-VL takes beside them, its pictures' features of the first layers; empty elsewhere. states: the
    vision tower's, [patches, vision width], where its pictures have one size and are not known yet."""

    tokens: Tensor
    deep: dict[str, Any]
    states: Tensor | None = None

    def longer(self, extra: int) -> dict[str, Any]:
        """`deep` for rows to which `extra` tokens that are no pictures have been added."""
        if not self.deep:
            return {}
        mask = self.deep["visual_pos_masks"]
        return {**self.deep, "visual_pos_masks": torch.nn.functional.pad(mask, (0, extra))}


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [B, L, width] of a Qwen-VL's ForConditionalGeneration. Padding holds garbage."""
    return hidden_and_seen(model, batch)[0]


def hidden_and_seen(model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """As `hidden_states`, and the vision tower's last states [patches, vision width] before they are merged;
    None for pictures of different sizes."""
    embedded = embed_inputs(model, batch)
    count_fed(batch.attention_mask.sum())
    out = model.model.language_model(
        inputs_embeds=embedded.tokens,
        attention_mask=batch.attention_mask.long(),
        position_ids=batch.position_ids,
        use_cache=False,
        **embedded.deep,
    )
    return out.last_hidden_state, embedded.states


def embed_inputs(model: Any, batch: Batch) -> Embedded:
    """The batch's tokens and pictures as the language model takes them."""
    core = model.model
    embeds = core.get_input_embeddings()(batch.input_ids)
    states, features = None, batch.features
    if features is None and len(batch.grids):
        features, states = all_features(core.visual, batch.pixels.to(embeds.device), batch.grids.tolist())
    if features is None:
        return Embedded(embeds, {})
    seen, *levels = features.to(embeds.device, embeds.dtype).split(embeds.shape[-1], -1)
    where = batch.vision_mask.to(embeds.device)
    deep = {"visual_pos_masks": where, "deepstack_visual_embeds": levels} if levels else {}
    return Embedded(embeds.masked_scatter(where[..., None], seen), deep, states)


class Features:
    """What a frozen vision tower makes of pictures, kept in memory by their pixels: each is computed once in
    a run, if all fit. A tower that learns, or has adapters, is left alone.

    Each picture is computed by itself, so its features do not depend on what it is batched with, and a run
    that was resumed, whose memory is empty, computes the same bits. limit: bytes to keep; the oldest go
    first.
    """

    def __init__(self, model: Any, limit: int = 1 << 30) -> None:
        self.core, self.limit = model.model, limit
        self.hits = self.bytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its features; unchanged where the tower is not frozen or there are no pictures."""
        named = list(self.core.visual.named_parameters())
        if not len(batch.grids) or any(p.requires_grad or ".lora_" in name for name, p in named):
            return batch
        pictures = batch.pixels.split(batch.grids.prod(1).tolist())
        each = [self._of(pixels, grid) for pixels, grid in zip(pictures, batch.grids, strict=True)]
        return replace(batch, features=torch.cat(each))

    @torch.no_grad()
    def _of(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """[tokens, width * (1 + levels)] of one picture, on the CPU."""
        pixels = pixels.cpu().contiguous()
        key = sha256(repr(grid.tolist()).encode() + pixels.view(torch.uint8).numpy().tobytes()).digest()
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        _, h, w = grid.tolist()
        features, _ = picture_features(self.core.visual, pixels.to(self.core.device), h, w)
        self._kept[key] = features = features.cpu()
        self.bytes += features.nbytes
        while self.bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.nbytes
        return features
