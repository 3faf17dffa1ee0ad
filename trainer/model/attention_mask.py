"""Attention masks of rows that hold several responses behind one prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def block_mask(block: Tensor) -> Tensor:
    """Who may look at whom: a token at earlier ones of its block and of block 0, the prompt; block -1 is
    padding. int64 [B, L] -> bool [B, 1, L, L]. Each token sees itself, so that no row of a softmax is
    empty."""
    q, k = block[:, :, None], block[:, None, :]
    length = block.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=block.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=block.device)
    return (((k == 0) | (k == q)) & (k >= 0) & causal | itself)[:, None]


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that both eager and sdpa attention add to their scores."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )
