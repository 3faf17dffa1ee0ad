"""Credit for what was sampled: K answers of the policy to each prompt, paid by a reward and held against one
another. A method is a sum of these terms, each with a weight of its own:

    policy    -(1/N) sum_ikt min(r A_ik, clip(r, 1 - e, 1 + e) A_ik),  r = exp(log p - log p_drawn)
    accepted  -(1/M) sum of log p over the tokens of samples that are right      rejection sampling
    sft       the row's own answer, negative log-likelihood a token              an anchor
    kl         (1/N) sum_ikt exp(d) - d - 1,  d = log p_ref - log p               to the reference

A_ik is the sample's reward less its group's mean (GRPO, arXiv 2402.03300; without the division by the
deviation, as arXiv 2503.20783 has it). A group whose samples all earn the same is silent: it has no gradient,
and no part in N. N counts tokens of the whole effective batch: a long answer weighs no less than a short
one. Where the draw had another temperature than 1, p is there that of the policy at this temperature, but for
the terms "accepted" and "sft".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError

from .kto import check_choice, check_numbers, sft_anchor

TERMS = ("policy", "accepted", "sft", "kl")


@dataclass(frozen=True)
class GroupConfig:
    """alpha: share of the likeness (`rewards.similarity`) in a sample's reward; the mask's IoU has the rest.
    mend: added where the reflection mended a wrong intermediate, taken away where it spoilt a right one.
    against: what a sample is held against: the row's own "answer", or the "truth" that a verifier knows, of
        prompts whose answers nobody learns from.
    scale: advantages divided by their group's standard deviation ("std"), or not ("none").
    clip: how far a token's ratio may leave 1 before it earns nothing more; reuse: steps on one draw.
    accept: likeness from which a sample is right, for the term "accepted".
    skip: a prompt is not drawn while the chance that its samples differ is estimated below this; 0 draws all.
    lambda_policy, lambda_accepted, lambda_sft, lambda_kl: the terms' weights.
    by_part: tokens up to the intermediate's end are paid by the sample's reward and, `mend` times, by whether
        the intermediate is right; those behind it by the reward beside the group's samples whose intermediate
        was likewise right or wrong (`advantages_by_part`). Raises EVLMError."""

    alpha: float = 0.7
    mend: float = 0.0
    against: Literal["answer", "truth"] = "answer"
    scale: Literal["none", "std"] = "none"
    clip: float = 0.2
    reuse: int = 1
    accept: float = 1.0
    skip: float = 0.0
    lambda_policy: float = 1.0
    lambda_accepted: float = 0.0
    lambda_sft: float = 0.0
    lambda_kl: float = 0.0
    by_part: bool = False

    def __post_init__(self) -> None:
        weights = ("lambda_policy", "lambda_accepted", "lambda_sft", "lambda_kl")
        check_numbers(self, ("clip",), ("alpha", "mend", "accept", "skip", *weights))
        check_choice(self, "against", ("answer", "truth"))
        if not isinstance(self.by_part, bool):
            raise EVLMError(f"by_part {self.by_part!r:.40}: expected true or false")
        check_choice(self, "scale", ("none", "std"))
        for name in ("alpha", "accept", "skip"):
            if getattr(self, name) > 1:
                raise EVLMError(f"{name} {getattr(self, name)!r:.40}: expected 0 to 1")
        if type(self.reuse) is not int or not 1 <= self.reuse <= 64:
            raise EVLMError(f"reuse {self.reuse!r:.40}: expected 1 to 64")
        if self.against == "truth" and self.lambda_sft:
            raise EVLMError("lambda_sft: against 'truth' no answer is learned from; leave it out")
        if not (self.lambda_policy or self.lambda_accepted or self.lambda_sft):
            raise EVLMError("lambda_policy, lambda_accepted and lambda_sft are all 0: nothing is learned")


def advantages(reward: Tensor, scale: Literal["none", "std"]) -> tuple[Tensor, Tensor]:
    """(A [P, K], which groups are silent bool [P]) of rewards [P, K], detached."""
    centred = (reward - reward.mean(1, keepdim=True)).detach()
    silent = (reward.amax(1) - reward.amin(1)).detach() < 1e-6
    if scale == "std":
        centred = centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    return torch.where(silent[:, None], torch.zeros_like(centred), centred), silent


def advantages_by_part(
    reward: Tensor, first: Tensor, mend: float, scale: Literal["none", "std"]
) -> tuple[Tensor, Tensor, Tensor]:
    """(A of the tokens up to the intermediate's end [P, K], A of those behind it [P, K], which groups are
    silent bool [P]) of rewards without what mending is paid, and of whether the intermediates are right.

    Paid on the whole sample, mending makes wrong intermediates worth writing: of two samples that end right
    the one that began wrong earns more. Here an intermediate earns by being right, and a reflection by what
    it makes of what it found: a sample whose intermediate nobody shares has no part in that."""
    head, quiet = advantages(reward + mend * first, scale)
    alike = (first[:, :, None] == first[:, None, :]).to(reward.dtype)
    means = (alike * reward[:, None, :]).sum(2) / alike.sum(2)
    tail = (reward - means).detach()
    tail = torch.where(tail.abs() < 1e-6, torch.zeros_like(tail), tail)
    if scale == "std":
        tail = tail / tail.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    return head, tail, quiet & (tail == 0).all(1)


def mended(first: Tensor, last: Tensor) -> Tensor:
    """What the reflection did: 1 where a wrong intermediate ends right, -1 where a right one ends wrong, else
    0; bool [P, K] each -> float."""
    return last.float() - first.float()


def clipped(now: Tensor, drawn: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(r A, clip(r) A) of each token (PPO, arXiv 1707.06347, Eq. 7): [T] each. drawn: log-probabilities
    when the samples were drawn."""
    ratio = (now - drawn.detach()).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def distance(now: Tensor, reference: Tensor) -> Tensor:
    """exp(d) - d - 1, d = log p_ref - log p: an estimate of the KL to the reference from each token [T],
    never negative (Schulman's third)."""
    d = reference.detach() - now
    return d.exp() - d - 1


@dataclass(frozen=True)
class Totals:
    """Of the whole effective batch, all ranks together. spoken: tokens of samples whose group is not silent;
    sampled: of all samples; accepted: of those that are right; rows: prompts with an answer of their own."""

    spoken: float
    sampled: float
    accepted: float
    rows: float


def group_terms(
    now: Tensor,
    drawn: Tensor,
    advantage: Tensor,
    accepted: Tensor,
    totals: Totals,
    config: GroupConfig,
    reference: Tensor | None = None,
    policy: Tensor | None = None,
    lengths: Tensor | None = None,
    plain: Tensor | None = None,
) -> Mapping[str, Tensor]:
    """The terms with their graphs, weighted as they are summed; of a part of a batch, parts add up to the
    whole.

    now: float [T], log p of every sampled token, sample after sample, at the temperature of the draw. drawn:
        likewise, when they were drawn.
    advantage: float [T], of the token's sample. accepted: bool [T], whether its sample is right.
    reference: float [T], of the frozen reference, needed with lambda_kl.
    policy, lengths: [R], log p of the rows' own answers, and their tokens, needed with lambda_sft.
    plain: `now` at a temperature of 1, for the term "accepted"; None where that is the draw's.
    """
    terms = {}
    if config.lambda_policy:
        gained = clipped(now, drawn, advantage, config.clip).sum()
        terms["policy"] = -config.lambda_policy * gained / max(1.0, totals.spoken)
    if config.lambda_accepted:
        likely = now if plain is None else plain
        right = torch.where(accepted, likely, torch.zeros_like(likely)).sum()
        terms["accepted"] = -config.lambda_accepted * right / max(1.0, totals.accepted)
    if config.lambda_sft and policy is not None and lengths is not None:
        terms["sft"] = config.lambda_sft * sft_anchor(policy, lengths, max(1, round(totals.rows)))
    if config.lambda_kl and reference is not None:
        far = distance(now, reference).sum()
        terms["kl"] = config.lambda_kl * far / max(1.0, totals.sampled)
    return terms


# --- which prompts are worth drawing ---


def mixed(right: float, drawn: float, k: int) -> float:
    """The chance that K samples are neither all right nor all wrong, where so many of so many earlier ones
    were right: 1 - p^K - (1 - p)^K at the posterior mean of p under a flat prior."""
    p = (right + 1) / (drawn + 2)
    return 1.0 - p**k - (1 - p) ** k
