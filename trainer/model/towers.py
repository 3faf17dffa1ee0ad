"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, equal pictures in one matmul.

The models' own towers attend picture by picture in a Python loop, and Qwen2.5-VL's window by window, which on
a CPU costs more than the arithmetic; here pictures of one size are one batch, and so are windows of one size.
`core.visual(...)` is the oracle (tests/trainer/model/test_batch.py, test_families.py).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def tower_states(tower: Any, pixels: Tensor, h: int, w: int) -> Tensor:
    """Last hidden states [n, h * w, vision width] of n pictures of h x w patches. `pixels` [n * h * w,
    dim]."""
    return _walk(tower, pixels, h, w)[0]


def picture_features(tower: Any, pixels: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """(features [n * tokens, width * (1 + levels)], last states as of `tower_states`) of n pictures of one
    size. Behind what stands in the tokens' places come the levels that Qwen3-VL adds behind its first
    layers (DeepStack, arXiv 2406.04334); the others have none."""
    x, levels = _walk(tower, pixels, h, w)
    return torch.cat([tower.merger(x.flatten(0, 1)), *levels], -1), x


def all_features(tower: Any, pixels: Tensor, grids: list[list[int]]) -> tuple[Tensor, Tensor | None]:
    """As `picture_features`, of pictures of any sizes in their order; the states [patches, vision width] are
    None where sizes differ. grids: (t, h, w) patches of each."""
    sizes = list(dict.fromkeys((h, w) for _, h, w in grids))
    if len(sizes) == 1:
        features, states = picture_features(tower, pixels, *sizes[0])
        return features, states.flatten(0, 1)
    parts = pixels.split([t * h * w for t, h, w in grids])
    merged: dict[int, Tensor] = {}
    for size in sizes:
        same = [n for n, grid in enumerate(grids) if tuple(grid[1:]) == size]
        features, _ = picture_features(tower, torch.cat([parts[n] for n in same]), *size)
        lengths = [len(parts[n]) // tower.spatial_merge_size**2 for n in same]
        merged |= zip(same, features.split(lengths), strict=True)
    return torch.cat([merged[n] for n in range(len(grids))]), None


def _walk(tower: Any, pixels: Tensor, h: int, w: int) -> tuple[Tensor, list[Tensor]]:
    """(last states [n, h * w, vision width], merged states [n * tokens, width] behind some blocks)."""
    x = tower.patch_embed(pixels).view(len(pixels) // (h * w), h * w, -1)
    merge = tower.spatial_merge_size
    if hasattr(tower, "pos_embed"):
        x = x + _learned_positions(tower, h, w).to(x.dtype)
    cos, sin = (each.to(x.device) for each in _rotary(h, w, merge, tower.blocks[0].attn.head_dim))
    windows, whole = [], range(len(tower.blocks))
    if hasattr(tower, "fullatt_block_indexes"):
        whole = tower.fullatt_block_indexes
        windows = [each.to(x.device) for each in _windows(h, w, merge, _side(tower))]
    deep = list(getattr(tower, "deepstack_visual_indexes", ()))
    levels = []
    again = tower.training and torch.is_grad_enabled() and getattr(tower, "evlm_checkpointed", False)
    for number, block in enumerate(tower.blocks):
        taken = block, x, cos, sin, [] if number in whole else windows
        x = checkpoint(_pass, *taken, use_reentrant=False) if again else _pass(*taken)
        if number in deep:
            levels.append(tower.deepstack_merger_list[deep.index(number)](x.flatten(0, 1)))
    return x, levels


def _pass(block: Any, x: Tensor, cos: Tensor, sin: Tensor, windows: list[Tensor]) -> Tensor:
    x = x + _attend(block.attn, block.norm1(x), cos, sin, windows)
    return x + block.mlp(block.norm2(x))


def _attend(attention: Any, x: Tensor, cos: Tensor, sin: Tensor, windows: list[Tensor]) -> Tensor:
    """Attention inside each picture, or inside each of its windows: x [n, patches, width]. windows: int64
    [count, patches of one] of each size that they have; none for the whole picture."""
    n, p, _ = x.shape
    q, k, v = attention.qkv(x).view(n, p, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = q * cos + _rotate(q) * sin, k * cos + _rotate(k) * sin
    if not windows:
        return attention.proj(_softmax(q, k, v).transpose(1, 2).reshape(n, p, -1))
    seen = [_softmax(*(each[:, :, index] for each in (q, k, v))).flatten(2, 3) for index in windows]
    back = torch.cat([index.flatten() for index in windows]).argsort()
    return attention.proj(torch.cat(seen, 2)[:, :, back].transpose(1, 2).reshape(n, p, -1))


def _softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over the last but one dimension: of all patches, or of those of each window, which come as
    one more dimension. PyTorch need not hold [patches, patches] for whole pictures; with windows it may,
    for each window's own patches."""
    return torch.nn.functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)


def _rotate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


@lru_cache(maxsize=64)
def _places(h: int, w: int, merge: int) -> Tensor:
    """(row, column) of each patch, int64 [h * w, 2], in the processor's order (merged blocks)."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at = torch.stack((rows, columns), -1).view(h // merge, merge, w // merge, merge, 2)
    return at.transpose(1, 2).reshape(-1, 2)


@lru_cache(maxsize=64)
def _rotary(h: int, w: int, merge: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Axial rotary cosines and sines [patches, head_dim]."""
    frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
    angles = (_places(h, w, merge)[..., None] * frequencies).flatten(1).repeat(1, 2)
    return angles.cos(), angles.sin()


def _side(tower: Any) -> int:
    """Patches a side of Qwen2.5-VL's windows, whole merged blocks of them."""
    merged: int = tower.window_size // tower.spatial_merge_size // tower.patch_size
    return merged * tower.spatial_merge_size


@lru_cache(maxsize=64)
def _windows(h: int, w: int, merge: int, side: int) -> list[Tensor]:
    """Numbers of the patches in each window, those of one size together: int64 [windows, patches of one].
    At the right and at the bottom a window is what is left."""
    row, column = (_places(h, w, merge) // side).unbind(1)
    number = row * -(-w // side) + column
    by_size: dict[int, list[Tensor]] = {}
    for each in range(int(number.max()) + 1):
        patches = (number == each).nonzero().flatten()
        by_size.setdefault(len(patches), []).append(patches)
    return [torch.stack(same) for same in by_size.values()]


def _learned_positions(tower: Any, h: int, w: int) -> Tensor:
    """Qwen3-VL's table of positions [side * side, width], read between its points where the picture has
    another number of patches: [h * w, width]."""
    side, table = int(tower.pos_embed.num_embeddings**0.5), tower.pos_embed.weight
    total: Any = 0
    taps = [_taps(size, side, table.device) for size in (h, w)]
    rows, columns = _places(h, w, tower.spatial_merge_size).to(table.device).unbind(1)
    for low_row, row_share in taps[0]:
        for low_column, column_share in taps[1]:
            index = low_row[rows] * side + low_column[columns]
            total = total + tower.pos_embed(index) * (row_share[rows] * column_share[columns])[:, None]
    return total


def _taps(size: int, side: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The two points of a table of `side` between which each of `size` places lies, corners on corners, and
    their shares."""
    at = torch.arange(size, device=device, dtype=torch.float32) * (side - 1) / max(1, size - 1)
    low = at.floor()
    high = (low + 1).clamp(max=side - 1)
    return [(low.long(), 1 - (at - low)), (high.long(), at - low)]
