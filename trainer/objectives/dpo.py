"""DPO (arXiv 2305.18290, Eq. 7) on pairs of answers to one question, a desired and an undesired one.

    m = beta (s(y_d | x) - s(y_u | x)),   s the log-ratio to the reference
    L = mean of  -(1 - epsilon) log sigma(m) - epsilon log sigma(-m)  + lambda_sft * anchor on y_d

epsilon is the chance that a pair stands the wrong way round ("conservative DPO", Mitchell 2023); the anchor
keeps the desired answer likely, which the margin alone does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from evlm.errors import EVLMError

from .kto import Parts, Scale, check_choice, check_numbers, log_ratio, per_token


@dataclass(frozen=True)
class DPOConfig:
    """beta: scale of the log-ratios' difference. log_ratio: "sum" over a response's tokens, or their "mean".
    epsilon: chance that a pair's labels are swapped, 0 to below .5. lambda_sft: weight of an anchor, the
    desired answers' negative log-likelihood per token. Raises EVLMError."""

    beta: float = 0.1
    log_ratio: Scale = "sum"
    epsilon: float = 0.0
    lambda_sft: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, ("beta",), ("epsilon", "lambda_sft"))
        check_choice(self, "log_ratio", ("sum", "mean"))
        if self.epsilon >= 0.5:
            raise EVLMError(f"epsilon {self.epsilon!r:.40}: expected 0 to below 0.5")


def dpo_loss(
    policy: Tensor,
    reference: Tensor,
    lengths: Tensor,
    config: DPOConfig,
    weights: Tensor | None = None,
    pairs: int | None = None,
) -> tuple[Tensor, Parts]:
    """(loss [], parts). policy [P, 2] with its graph, reference [P, 2]: log rho of the desired answer, then
    of the undesired one, in nats; lengths int [P, 2].

    weights: float [P], of each pair; 1 where None. pairs: of the whole effective batch, where this call sees
    a part of it; the parts' losses then add up to the whole's.
    """
    total = len(policy) if pairs is None else pairs
    s = log_ratio(policy, reference, lengths, config.log_ratio)
    margin = config.beta * (s[:, 0] - s[:, 1])
    each = -(1 - config.epsilon) * logsigmoid(margin) - config.epsilon * logsigmoid(-margin)
    anchor = -per_token(policy[:, 0], lengths[:, 0], "mean")
    weight = torch.ones_like(each) if weights is None else weights.to(each.dtype)
    loss = (weight * (each + config.lambda_sft * anchor)).sum() / total
    parts = {"loss": loss, "s": s, "margin": margin, "ordered": (margin > 0).to(margin.dtype)}
    return loss, {name: value.detach() for name, value in parts.items()}
