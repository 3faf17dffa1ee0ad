"""A forward of Qwen2-VL up to the last hidden state, with explicit positions and equal pictures in one
matmul.

The model's own vision tower attends picture by picture in a Python loop, which on a CPU costs more than the
arithmetic; pictures of one size are one batch here. `model.model(...)` is the oracle
(tests/trainer/test_batch.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .fed import count_fed


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
    if len(batch.grids):
        pixels = batch.pixels.to(embeds.device)
        sizes = {(h, w) for _, h, w in batch.grids.tolist()}
        if len(sizes) == 1:
            states = tower_states(core.visual, pixels, *sizes.pop()).flatten(0, 1)
            features = core.visual.merger(states)
        else:
            features = core.visual(pixels, grid_thw=batch.grids).pooler_output
        embeds = embeds.masked_scatter(
            batch.vision_mask[..., None].to(embeds.device), features.to(embeds.dtype)
        )
    return embeds, states


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
    weights = (q @ k.transpose(-1, -2) * attention.head_dim**-0.5).softmax(-1, dtype=torch.float32)
    return attention.proj((weights.to(v.dtype) @ v).transpose(1, 2).reshape(n, p, -1))


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


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
