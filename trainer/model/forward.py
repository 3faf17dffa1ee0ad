"""A forward of Qwen2-VL up to the last hidden state, with explicit positions and equal pictures in one
matmul.

The model's own vision tower attends picture by picture in a Python loop, which on a CPU costs more than the
arithmetic; pictures of one size are one batch here. `model.model(...)` is the oracle
(tests/trainer/model/test_batch.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .token_count import count_fed


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states [B, L, width] of a Qwen2VLForConditionalGeneration. Padding holds garbage."""
    return hidden_and_seen(model, batch)[0]


def hidden_and_seen(model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """As `hidden_states`, and the vision tower's last states [patches, vision width] before they are merged;
    None for pictures of different sizes, which go through the tower's own forward."""
    core = model.model
    embeds, states = embed_inputs(model, batch)
    count_fed(batch.attention_mask.sum())
    out = core.language_model(
        inputs_embeds=embeds,
        attention_mask=batch.attention_mask.long(),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    return out.last_hidden_state, states


def embed_inputs(model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Token embeddings [B, L, width] with the pictures in their places, and the tower's states as above."""
    core = model.model
    embeds = core.get_input_embeddings()(batch.input_ids)
    states = None
    if batch.features is not None:
        embeds = _place(embeds, batch, batch.features)
    elif len(batch.grids):
        pixels = batch.pixels.to(embeds.device)
        sizes = {(h, w) for _, h, w in batch.grids.tolist()}
        if len(sizes) == 1:
            states = tower_states(core.visual, pixels, *sizes.pop()).flatten(0, 1)
            features = core.visual.merger(states)
        else:
            out = core.visual(pixels, grid_thw=batch.grids)
            features = getattr(out, "pooler_output", out)  # a tensor before transformers 5
        embeds = _place(embeds, batch, features)
    return embeds, states


def _place(embeds: Tensor, batch: Batch, features: Tensor) -> Tensor:
    where = batch.vision_mask[..., None].to(embeds.device)
    return embeds.masked_scatter(where, features.to(embeds.device, embeds.dtype))


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
        """[tokens, width] of one picture, on the CPU."""
        pixels = pixels.cpu().contiguous()
        key = sha256(repr(grid.tolist()).encode() + pixels.view(torch.uint8).numpy().tobytes()).digest()
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        _, h, w = grid.tolist()
        features = self.core.visual.merger(
            tower_states(self.core.visual, pixels.to(self.core.device), h, w).flatten(0, 1)
        )
        self._kept[key] = features = features.cpu()
        self.bytes += features.nbytes
        while self.bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.nbytes
        return features


def tower_states(tower: Any, pixels: Tensor, h: int, w: int) -> Tensor:
    """Last hidden states [n, h * w, vision width] of n pictures of h x w patches. `pixels` [n * h * w,
    dim]."""
    x = tower.patch_embed(pixels).view(len(pixels) // (h * w), h * w, -1)
    cos, sin = _rotary(h, w, tower.spatial_merge_size, tower.blocks[0].attn.head_dim)
    for block in tower.blocks:
        x = x + _attend(block.attn, block.norm1(x), cos.to(x.device), sin.to(x.device))
        x = x + block.mlp(block.norm2(x))
    return x


def _attend(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Full attention inside each picture: x [n, patches, width]."""
    n, p, _ = x.shape
    q, k, v = attention.qkv(x).view(n, p, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = q * cos + _rotate(q) * sin, k * cos + _rotate(k) * sin
    q, k = q.to(v.dtype), k.to(v.dtype)
    seen = torch.nn.functional.scaled_dot_product_attention(q, k, v)  # which holds no [patches, patches]
    return attention.proj(seen.transpose(1, 2).reshape(n, p, -1))


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


@lru_cache(maxsize=64)
def _rotary(h: int, w: int, merge: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Axial rotary cosines and sines [patches, head_dim], in the processor's order of patches (merged
    blocks)."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at = (
        torch.stack((rows, columns), -1)
        .view(h // merge, merge, w // merge, merge, 2)
        .transpose(1, 2)
        .reshape(-1, 2)
    )
    frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles = (at[..., None] * frequencies).flatten(1).repeat(1, 2)
    return angles.cos(), angles.sin()
