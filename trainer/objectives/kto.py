"""KTO as EVLM's first version states it (arXiv 2412.10566v1, Eq. 3-5), and what RKTO shares with it:
log-ratios and eta0.

Every function takes tensors and gives tensors, in the dtype it is given. Log-probabilities are in nats and
summed over a response's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError

Scale = Literal["sum", "mean"]
Parts = dict[str, Tensor]
"""Everything that is worth a line in the log: detached scalars, and tensors [rows] or [rows, samples]."""


@dataclass(frozen=True)
class KTOConfig:
    """gamma: scale of the log-ratio inside the sigmoid. alpha_desired, alpha_undesired: weight of the rows of
    each label (the paper's alpha_P, alpha_N; its Table 3: ratio 1). log_ratio: "sum" over a response's
    tokens, or their "mean". lambda_sft: weight of an anchor, the desired rows' negative log-likelihood per
    token. Raises EVLMError."""

    gamma: float = 0.2
    alpha_desired: float = 1.0
    alpha_undesired: float = 1.0
    log_ratio: Scale = "sum"
    lambda_sft: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, above=("gamma",), from_zero=("alpha_desired", "alpha_undesired", "lambda_sft"))
        check_choice(self, "log_ratio", ("sum", "mean"))


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    lengths: Tensor,
    desired: Tensor,
    eta0: Tensor,
    config: KTOConfig,
    rows: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Parts]:
    """v1 Eq. 5: L = mean over rows of alpha_y - w, where w is `kto_value`. (loss [], parts).

    policy: float [B] with its graph, log rho(y_i | x_i) in nats.
    reference: float [B], likewise.
    lengths: int [B], tokens of y_i.
    desired: bool [B].
    eta0: float [], `eta0` of the whole effective batch.
    rows: int, of the whole effective batch, where this call sees a part of it; the parts' losses then add up
        to the whole's.
    weights: float [B], how far each row's label is to be trusted; 1 where None.
    """
    total = len(policy) if rows is None else rows
    s = log_ratio(policy, reference, lengths, config.log_ratio)
    w = kto_value(s, eta0, desired, config)
    alpha = torch.where(desired, w.new_tensor(config.alpha_desired), w.new_tensor(config.alpha_undesired))
    weight = torch.ones_like(w) if weights is None else weights.to(w.dtype)
    loss = (weight * (alpha - w)).sum() / total
    if config.lambda_sft:
        anchored = weight[desired] * policy[desired]
        loss = loss + config.lambda_sft * sft_anchor(anchored, lengths[desired], total)
    parts = {"loss": loss, "s": s, "eta0": eta0, "w": w, "length": lengths}
    return loss, {name: value.detach() for name, value in parts.items()}


def kto_value(s: Tensor, eta0: Tensor, desired: Tensor, config: KTOConfig) -> Tensor:
    """v1 Eq. 5: alpha_P sigma(gamma (s - eta0)) where desired, alpha_N sigma(gamma (eta0 - s)) elsewhere;
    [B]."""
    z = config.gamma * (s - eta0)
    return torch.where(
        desired, config.alpha_desired * torch.sigmoid(z), config.alpha_undesired * torch.sigmoid(-z)
    )


def log_ratio(policy: Tensor, reference: Tensor, lengths: Tensor, scale: Scale = "sum") -> Tensor:
    """s = log rho_phi(y|x) - log rho_ref(y|x) (v1 Eq. 3, v2 Eq. 7), per token with scale "mean". All [N]."""
    return per_token(policy - reference, lengths, scale)


def per_token(values: Tensor, lengths: Tensor, scale: Scale) -> Tensor:
    """Sequence sums as they are, or divided by their lengths."""
    return values if scale == "sum" else values / lengths.clamp(min=1).to(values.dtype)


def eta0(mismatched: Tensor) -> Tensor:
    """v1 Eq. 4, v2 Eq. 8: max(0, mean of s(y_j | x_i) over pairs i != j), detached, [].

    mismatched [N]: the log-ratios of the B(B-1) pairs (of all ranks), or of those that were drawn. Their
    mean is 1/(B(B-1)) times their sum; v1's 1/n over n(n-1) pairs is a slip. Nothing to compare with: 0.
    """
    if not mismatched.numel():
        return mismatched.new_zeros(())
    return mismatched.detach().mean().clamp(min=0)


def sft_anchor(policy: Tensor, lengths: Tensor, rows: int) -> Tensor:
    """Negative log-likelihood per token of each row of policy [N], summed and divided by `rows`; []."""
    return -per_token(policy, lengths, "mean").sum() / rows


def check_numbers(config: object, above: tuple[str, ...] = (), from_zero: tuple[str, ...] = ()) -> None:
    """Fields `above` must be finite and > 0, `from_zero` finite and >= 0. Raises EVLMError."""
    for names, lowest in ((above, "a number above 0"), (from_zero, "a number of 0 or more")):
        for name in names:
            value = getattr(config, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < float("inf") or (value == 0 and names is above):
                raise EVLMError(f"{name} {value!r:.40}: expected {lowest}")


def check_choice(config: object, name: str, known: tuple[str, ...]) -> None:
    """The field must be one of `known`. Raises EVLMError."""
    value = getattr(config, name)
    if value not in known:
        raise EVLMError(f"{name} {value!r:.40}: expected one of {', '.join(known)}")
