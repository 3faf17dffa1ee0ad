"""Supervised fine-tuning: token cross-entropy over the response, and nothing but the response reaches the
head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..model.token_logprobs import token_logps


def answer_loss(
    states: Tensor, tokens: Tensor, head: Any, chunk: int | None = None, weights: Tensor | None = None
) -> Tensor:
    """Summed negative log-likelihood in nats of tokens int64 [N] under the states that predict them [N,
    width]; []. weights: float [N], of each token; 1 where None."""
    logps = token_logps(states, tokens, head, chunk)
    return -(logps if weights is None else logps * weights).sum()


def sft_loss(
    hidden: Tensor, labels: Tensor, head: Any, chunk: int | None = None, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """(summed negative log-likelihood in nats, number of tokens). weights: float [B, L], of each token; 1
    where None.

    hidden [B, L, width]; labels int64 [B, L], -100 where nothing is learned; labels[:, t] is predicted from
    hidden[:, t - 1]. The vocabulary's logits exist for `chunk` tokens at a time (`token_logps`).
    """
    targets = labels[:, 1:]
    wanted = targets != -100
    states, tokens = hidden[:, :-1][wanted], targets[wanted]
    of_tokens = None if weights is None else weights[:, 1:][wanted]
    return answer_loss(states, tokens, head, chunk, of_tokens), len(tokens)
