"""RKTO (EVLM, arXiv 2412.10566v2, Eq. 7-12) as this project reads it: docs/rkto.md has the reasons.

    L = -(1/B)  sum_i  c_i R_i log rho(y_i | x_i)                                        Eq. 9, 12: term 1
        -(1/BK) sum_ik A_ik log rho(m^_ik | x_i, y^_ik)                                  Eq. 12: term 2
        + lambda_ref (1 - R_reflect)                                                     Eq. 11, 12: term 3
        + what is off unless asked for: lambda_u (undesired rows), lambda_sft (an anchor)

Term 1 is multiplied by lambda_likelihood, 1 in the paper; 0 leaves REINFORCE alone (the paper's I.4).

A step has two halves. `step_weights` fixes everything that has no gradient (eta0, c, R, A) for the whole
effective batch, all ranks together; `rkto_loss` is then called on the batch or on parts of it, whose losses
and gradients add up to the whole's. L is no measure of progress: read its parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError

from .kto import Parts, Scale, check_choice, check_numbers, log_ratio, per_token, sft_anchor
from .reflection import ReflectionConfig


@dataclass(frozen=True)
class RKTOConfig:
    """The objective's choices. Each default is the paper's as docs/rkto.md reads it, but for lambda_ref (0.2
    there): its term did nothing that could be measured. Raises EVLMError.

    tau: scale of z = s - eta0 inside softplus; 1 is the paper's letter. w_max: cap of w. gate: w below it is
        0 (the other reading of the paper's "softplus threshold": tau 1, gate 0.1).
    weight: "w" (Algorithm 1, line 9), or "exact", w'(z), whose gradient is that of Eq. 9.
    log_ratio: sequence log-probabilities as a "sum", or the "mean" of their tokens (term 1 and s alike).
    alpha: share of the similarity in R; 1 - alpha is the mask's. centred: R minus the other rows' mean.
    reinforce: policy gradient on the "mask" tokens, on "all" sampled tokens with the whole reward, or "none".
    baseline: leave-one-out over the whole "batch" of samples, or over the samples of the same "row".
    lambda_likelihood: weight of term 1; 0 leaves REINFORCE alone, which the paper's I.4 tries.
    lambda_ref: weight of the reflection, as a differentiable "loss" or as a scalar "reward" added to R.
    lambda_u, beta: weight and scale of lambda_u (1 - sigma(beta (eta0 - s))) on undesired rows; 0 ignores
        them.
    lambda_sft: weight of the desired rows' negative log-likelihood per token, an anchor.
    """

    tau: float = 0.1
    w_max: float = 10.0
    gate: float = 0.0
    weight: Literal["w", "exact"] = "w"
    log_ratio: Scale = "sum"
    alpha: float = 0.7
    centred: bool = False
    reinforce: Literal["mask", "all", "none"] = "mask"
    baseline: Literal["batch", "row"] = "batch"
    lambda_likelihood: float = 1.0
    lambda_ref: float = 0.0
    reflection_as: Literal["loss", "reward"] = "loss"
    reflection: ReflectionConfig = field(default_factory=ReflectionConfig)
    lambda_u: float = 0.0
    beta: float = 0.1
    lambda_sft: float = 0.0

    def __post_init__(self) -> None:
        weights = ("lambda_likelihood", "lambda_ref", "lambda_u", "lambda_sft")
        check_numbers(self, ("tau", "w_max", "beta"), ("gate", "alpha", *weights))
        if self.alpha > 1:
            raise EVLMError(
                f"alpha {self.alpha!r:.40}: expected 0 to 1, the similarity's share of the reward"
            )
        check_choice(self, "weight", ("w", "exact"))
        check_choice(self, "log_ratio", ("sum", "mean"))
        check_choice(self, "reinforce", ("mask", "all", "none"))
        check_choice(self, "baseline", ("batch", "row"))
        check_choice(self, "reflection_as", ("loss", "reward"))


@dataclass(frozen=True)
class StepWeights:
    """What each of B preferred rows and its K samples weigh in a step; nothing here has a gradient.

    s, w, c, reward (R_i of Eq. 10) [B]; eta0 []; advantage [B, K], c_i times the centred reward of a sample.
    similarity, iou [B, K]; has_mask bool [B]; trust [B], of the rows' labels.
    """

    s: Tensor
    eta0: Tensor
    w: Tensor
    c: Tensor
    reward: Tensor
    advantage: Tensor
    similarity: Tensor
    iou: Tensor
    has_mask: Tensor
    trust: Tensor

    @property
    def rows(self) -> int:
        return len(self.s)

    def part(self, rows: slice | Tensor) -> StepWeights:
        """The weights of some of the rows."""
        each = {name: value[rows] for name, value in vars(self).items() if name != "eta0"}
        return replace(self, **each)


def step_weights(
    policy: Tensor,
    reference: Tensor,
    lengths: Tensor,
    eta0: Tensor,
    similarity: Tensor,
    iou: Tensor,
    has_mask: Tensor,
    config: RKTOConfig,
    reflection: Tensor | None = None,
    trust: Tensor | None = None,
) -> StepWeights:
    """Everything of Eq. 7-12 that is held fixed, for the B preferred rows of the whole effective batch.

    policy, reference: float [B], log rho(y_i | x_i) in nats.
    lengths: int [B], tokens of y_i.
    eta0: float [], of the whole batch.
    similarity: float [B, K] in 0..1, cosine of e(y^_ik) and e(y_i), or another likeness.
    iou: float [B, K] in 0..1.
    has_mask: bool [B]; rows without a true mask are judged by similarity alone.
    reflection: float [B], R_reflect, needed where config.reflection_as is "reward" and lambda_ref above 0.
    trust: float [B], how far each row's label is to be trusted: a factor of c and the anchor; 1 if None.
    Raises EVLMError where R_reflect is missing.
    """
    s = log_ratio(policy, reference, lengths, config.log_ratio).detach()
    w, slope = weight(s, eta0, config)
    c = w if config.weight == "w" else slope
    trust = torch.ones_like(c) if trust is None else trust.to(c.dtype)
    c = c * trust
    each = sample_reward(similarity.detach(), iou.detach(), has_mask, config.alpha)
    reward = each.mean(1)
    if config.reflection_as == "reward" and config.lambda_ref:
        if reflection is None:
            raise EVLMError("reflection_as 'reward' needs the rows' R_reflect; got None")
        reward = reward + config.lambda_ref * reflection.detach()
    if config.centred:
        everywhere = torch.ones_like(reward, dtype=torch.bool)
        reward = reward - leave_one_out(reward[:, None], everywhere, "batch")[:, 0]
    return StepWeights(
        s,
        eta0.detach(),
        w,
        c,
        reward,
        advantage(each, iou.detach(), has_mask, c, config),
        similarity.detach(),
        iou.detach(),
        has_mask,
        trust,
    )


def rkto_loss(
    policy: Tensor,
    lengths: Tensor,
    weights: StepWeights,
    config: RKTOConfig,
    samples: Tensor | None = None,
    reflection: Tensor | None = None,
    undesired: Tensor | None = None,
    rows: int | None = None,
    undesired_rows: int | None = None,
) -> tuple[Tensor, Parts]:
    """(L [], parts): the sum of `rkto_terms` of the same arguments, and what is worth logging, detached."""
    terms = rkto_terms(policy, lengths, weights, config, samples, reflection, undesired, rows, undesired_rows)
    loss = torch.stack(list(terms.values())).sum()
    parts = {f"loss_{name}": value.detach() for name, value in terms.items()}
    if reflection is not None:
        parts["reflection"] = reflection.detach()
    return loss, {"loss": loss.detach(), **parts, **report(weights), "length": lengths.detach()}


TERMS = ("likelihood", "reinforce", "reflection", "undesired", "sft")  # that rkto_terms can give


def rkto_terms(
    policy: Tensor,
    lengths: Tensor,
    weights: StepWeights,
    config: RKTOConfig,
    samples: Tensor | None = None,
    reflection: Tensor | None = None,
    undesired: Tensor | None = None,
    rows: int | None = None,
    undesired_rows: int | None = None,
    undesired_trust: Tensor | None = None,
) -> Mapping[str, Tensor]:
    """L's terms with their graphs, weighted as they are summed, so that each one's gradient can be watched.

    policy: float [B], log rho(y_i | x_i) of the rows that `weights` belongs to.
    lengths: int [B], tokens of y_i.
    samples: float [B, K], log rho(m^_ik | x_i, y^_ik) over the mask tokens, the partial gradient that rkto.md
        names, or with reinforce "all" log rho(y^_ik, m^_ik | x_i) over the whole sample. None leaves the
        term out.
    reflection: float [B], R_reflect with its graph. None leaves the term out.
    undesired: float [U], log-ratios s of undesired rows with their graph.
    rows, undesired_rows: int, of the whole effective batch, where this call sees a part of it.
    undesired_trust: float [U], how far the undesired rows' labels are to be trusted; 1 where None.
    """
    total = weights.rows if rows is None else rows
    scored = per_token(policy, lengths, config.log_ratio)
    terms = {"likelihood": config.lambda_likelihood * likelihood(scored, weights, total)}
    if samples is not None and config.reinforce != "none":
        terms["reinforce"] = reinforce(samples, weights.advantage, total)
    if reflection is not None and config.lambda_ref and config.reflection_as == "loss":
        terms["reflection"] = config.lambda_ref * (1 - reflection).sum() / total
    if undesired is not None and config.lambda_u and len(undesired):
        count = len(undesired) if undesired_rows is None else undesired_rows
        away = undesirable_loss(undesired, weights.eta0, config.beta, undesired_trust)
        terms["undesired"] = config.lambda_u * away / count
    if config.lambda_sft:
        terms["sft"] = config.lambda_sft * sft_anchor(weights.trust * policy, lengths, total)
    return terms


# --- what is held fixed ---


def weight(s: Tensor, eta0: Tensor, config: RKTOConfig) -> tuple[Tensor, Tensor]:
    """Eq. 9's w(z) = clip(softplus(tau z), 0, w_max), z = s - eta0, and its slope w'(z); both [B], detached.

    The slope is tau sigma(tau z), and 0 where w is capped or gated away.
    """
    z = config.tau * (s - eta0).detach()
    w = torch.nn.functional.softplus(z)
    w = torch.where(w < config.gate, torch.zeros_like(w), w)
    free = (w > 0) & (w < config.w_max)
    return w.clamp(max=config.w_max), torch.where(free, config.tau * torch.sigmoid(z), torch.zeros_like(z))


def sample_reward(similarity: Tensor, iou: Tensor, has_mask: Tensor, alpha: float) -> Tensor:
    """Inside of Eq. 10: alpha * similarity + (1 - alpha) * IoU, the similarity alone without a true mask;
    [B, K].

    Its mean over the K samples is R_eff."""
    return torch.where(has_mask[:, None], alpha * similarity + (1 - alpha) * iou, similarity)


def advantage(reward: Tensor, iou: Tensor, has_mask: Tensor, c: Tensor, config: RKTOConfig) -> Tensor:
    """A_ik = (1 - alpha) c_i (IoU_ik - b_ik) of Eq. 12, with "all" c_i (reward_ik - b_ik); [B, K], detached.

    Rows without a true mask have no mask to learn: 0, and no part in the others' baseline."""
    if config.reinforce == "all":
        value, counts = reward, torch.ones_like(has_mask)
    else:
        value, counts = (1 - config.alpha) * iou, has_mask
    centred = value - leave_one_out(value, counts, config.baseline)
    return torch.where(counts[:, None], c[:, None] * centred, torch.zeros_like(centred)).detach()


def leave_one_out(values: Tensor, counts: Tensor, over: Literal["batch", "row"]) -> Tensor:
    """b_ik: mean of the *other* samples' values [B, K], of the rows that count (bool [B]); 0 without others.

    A mean that includes the sample itself would only rescale the advantage."""
    kept = torch.where(counts[:, None], values, torch.zeros_like(values))
    number = counts.to(values.dtype)[:, None] * values.shape[1]
    total = kept.sum(1, keepdim=True)
    if over == "batch":
        number, total = number.sum(), total.sum()
    return (total - kept) / (number - 1).clamp(min=1)


# --- the terms ---


def likelihood(policy: Tensor, weights: StepWeights, rows: int) -> Tensor:
    """Eq. 12, term 1, to be minimised: -(1/B) sum_i c_i R_i log rho(y_i | x_i); policy [B] -> []."""
    return -(weights.c * weights.reward * policy).sum() / rows


def reinforce(samples: Tensor, advantage: Tensor, rows: int) -> Tensor:
    """Eq. 12, term 2, to be minimised: -(1/BK) sum_ik A_ik log rho(sample); [B, K], [B, K] -> []."""
    return -(advantage * samples).sum() / (rows * samples.shape[1])


def undesirable_loss(s: Tensor, eta0: Tensor, beta: float, trust: Tensor | None = None) -> Tensor:
    """sum of 1 - sigma(beta (eta0 - s)) over undesired rows: v1's Eq. 5 for them, each times its trust; [U],
    [] -> []."""
    each = 1 - torch.sigmoid(beta * (eta0 - s))
    return each.sum() if trust is None else (trust.to(each.dtype) * each).sum()


def report(weights: StepWeights) -> Parts:
    """The weights for the log. J = mean w_i R_i (Eq. 9); weight_entropy in 0..1, 1 where all rows weigh the
    same."""
    j = (weights.w * weights.reward).mean() if weights.rows else weights.w.sum()
    iou = torch.where(weights.has_mask[:, None], weights.iou, torch.nan)
    return {
        "j": j,
        "log_j": j.clamp(min=torch.finfo(j.dtype).tiny).log(),
        "s": weights.s,
        "eta0": weights.eta0,
        "w": weights.w,
        "c": weights.c,
        "reward": weights.reward,
        "similarity": weights.similarity,
        "iou": iou,
        "advantage": weights.advantage,
        "weight_entropy": weight_entropy(weights.c),
    }


def weight_entropy(c: Tensor) -> Tensor:
    """Entropy of c / sum(c) over log B: 1 for equal weights, 0 where one row has them all; [B] -> []."""
    if len(c) < 2:
        return torch.ones_like(c.sum())
    p = c / c.sum().clamp(min=torch.finfo(c.dtype).tiny)
    return -torch.special.xlogy(p, p).sum() / math.log(len(c))
