"""Supervised fine-tuning: token cross-entropy over the response, and nothing but the response reaches the
head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sft_loss(hidden: Tensor, labels: Tensor, head: nn.Linear, chunk: int = 8192) -> tuple[Tensor, int]:
    """(summed negative log-likelihood in nats, number of tokens).

    hidden [B, L, width]; labels int64 [B, L], -100 where nothing is learned; labels[:, t] is predicted from
    hidden[:, t - 1]. The vocabulary's logits exist for `chunk` tokens at a time.
    """
    targets = labels[:, 1:]
    wanted = targets != -100
    states, tokens = hidden[:, :-1][wanted], targets[wanted]
    total = hidden.new_zeros((), dtype=torch.float32)
    for at in range(0, len(tokens), chunk):
        logits = head(states[at : at + chunk]).float()
        total = total + nn.functional.cross_entropy(logits, tokens[at : at + chunk], reduction="sum")
    return total, len(tokens)
