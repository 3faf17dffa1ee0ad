"""Log-probabilities of tokens from last hidden states, without the logits of all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

_LOGITS = {"cpu": 1 << 21}  # of a chunk: 8 MiB in float32, what a cache holds; elsewhere 1 GiB


def token_logps(
    states: Tensor, tokens: Tensor, head: Any, chunk: int | None = None, temperature: float = 1.0
) -> Tensor:
    """log p(tokens[t]) under head(states[t]) / temperature: [T, width], int64 [T] -> [T], float32 at least.

    temperature: that at which tokens were drawn, so that this is the chance they were drawn with. Raises
    ValueError: one other than 1 behind a head with a bias.
    Logits [chunk, vocabulary] exist for one chunk at a time, in the backward pass too; None takes a chunk
    that fits the device. Behind a frozen head the derivative is known on the way forward, and nothing is
    computed twice.
    """
    tokens = tokens.to(states.device)
    if temperature != 1:
        if head.bias is not None:
            raise ValueError("a temperature behind a head with a bias")
        states = states / temperature
    if chunk is None:
        chunk = max(1, _LOGITS.get(states.device.type, 1 << 28) // head.out_features)
    if type(head) is torch.nn.Linear and not any(p.requires_grad for p in head.parameters()):
        return _FrozenHead.apply(states, tokens, head, chunk)

    def score(some: Tensor, wanted: Tensor) -> Tensor:
        logits = _logits(head, some)
        return logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1)

    again = torch.is_grad_enabled() and len(tokens) > chunk
    parts = [states.new_zeros(0, dtype=torch.promote_types(states.dtype, torch.float32))]
    for at in range(0, len(tokens), chunk):
        some = states[at : at + chunk], tokens[at : at + chunk]
        parts.append(checkpoint(score, *some, use_reentrant=False) if again else score(*some))
    return torch.cat(parts)


class _FrozenHead(torch.autograd.Function):
    """`token_logps` behind a head that does not learn: d log p(y) / d state = W[y] - sum_v p(v) W[v], one
    vector a token, is all that the backward pass needs (the idea of Liger's fused cross-entropy, arXiv
    2410.10989)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, head: torch.nn.Linear, chunk: int) -> Tensor:
        wide = torch.promote_types(states.dtype, torch.float32)
        logps, slope = states.new_empty(len(tokens), dtype=wide), None
        if ctx.needs_input_grad[0]:
            slope = torch.empty_like(states)
            ctx.save_for_backward(slope)
        for at in range(0, len(tokens), chunk):
            some, wanted = states[at : at + chunk], tokens[at : at + chunk, None]
            logits = _logits(head, some)
            top = logits.amax(1, keepdim=True)
            wanted_logits = logits.gather(1, wanted) - top
            p = logits.sub_(top).exp_()  # in the logits' own memory, and not yet divided by its sum
            total = p.sum(1, keepdim=True)
            logps[at : at + chunk] = (wanted_logits - total.log())[:, 0]
            if slope is None:
                continue
            p.scatter_add_(1, wanted, -total)
            slope[at : at + chunk] = (p.to(head.weight.dtype) @ head.weight) / -total
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient[:, None] * slope).to(slope.dtype), None, None, None


def _logits(head: Any, states: Tensor) -> Tensor:
    """[T, width] -> [T, vocabulary], float32 at least."""
    logits: Tensor = head(states)
    return logits if logits.dtype == torch.float64 else logits.float()
