"""R_reflect, the reward of RKTO's reflection (EVLM, arXiv 2412.10566v2, Eq. 11), in a form that has a
gradient.

R_reflect = b1 * cosine(soft embedding of the reflection, embedding of y)
          + b2 * exp(-gamma * expected length / L0)
          + b3 * exp(-KL(p_int || p_ref))

p_int and p_ref are the mean next-token distributions over the intermediate segment and over the reflection.
A model can please all three without being right: see docs/rkto.md before raising lambda_ref.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .kto import Parts, check_choice, check_numbers

Cosine = Literal["unit", "raw"]


@dataclass(frozen=True)
class ReflectionConfig:
    """similarity, brevity, agreement: b1, b2, b3. gamma: how fast length costs. length0: L0, the tokens of
    a usual reflection. brevity_by: "expected" length, which has a gradient, or "literal", exp(-gamma *
    tokens), which has none. agreement_by: "exp" of -KL, or "clamp", max(0, 1 - KL). cosine: "unit", (1 +
    cos) / 2 in 0..1, or "raw". Raises EVLMError."""

    similarity: float = 0.5
    brevity: float = 0.2
    agreement: float = 0.3
    gamma: float = 0.2
    length0: float = 40.0
    brevity_by: Literal["expected", "literal"] = "expected"
    agreement_by: Literal["exp", "clamp"] = "exp"
    cosine: Cosine = "unit"

    def __post_init__(self) -> None:
        check_numbers(self, ("length0",), ("similarity", "brevity", "agreement", "gamma"))
        check_choice(self, "brevity_by", ("expected", "literal"))
        check_choice(self, "agreement_by", ("exp", "clamp"))
        check_choice(self, "cosine", ("unit", "raw"))


def reflection_reward(
    reflection: Tensor,
    in_reflection: Tensor,
    intermediate: Tensor,
    in_intermediate: Tensor,
    end: Tensor,
    table: Tensor,
    target: Tensor,
    config: ReflectionConfig,
) -> tuple[Tensor, Parts]:
    """Eq. 11's R_reflect [B] with its graph, and its parts, detached.

    reflection: float [B, T, V], next-token probabilities at the segment's positions, teacher-forced.
    in_reflection: bool [B, T], which of them are no padding.
    intermediate: float [B, S, V], likewise.
    in_intermediate: bool [B, S].
    end: int64 [B] or [], the token that ends a reflection.
    table: float [V, D], frozen input embeddings.
    target: float [B, D], `mean_embedding` of y.
    A row that lacks a segment earns nothing for it.
    """
    present = in_reflection.any(1).to(reflection.dtype)
    both = present * in_intermediate.any(1).to(reflection.dtype)
    soft = soft_embedding(reflection, in_reflection, table)
    similar = present * cosine(soft, target.detach(), config.cosine)
    ends = reflection.gather(2, end.expand(len(reflection))[:, None, None].expand(-1, reflection.shape[1], 1))
    length = expected_length(ends[..., 0], in_reflection)
    brief = present * brevity(length, in_reflection.sum(1), config)
    agree = both * agreement(
        segment_mean(intermediate, in_intermediate), segment_mean(reflection, in_reflection), config
    )
    reward = config.similarity * similar + config.brevity * brief + config.agreement * agree
    parts = {
        "reflection": reward,
        "reflection_similarity": similar,
        "reflection_brevity": brief,
        "reflection_agreement": agree,
        "reflection_length": length,
    }
    return reward, {name: value.detach() for name, value in parts.items()}


def soft_embedding(probabilities: Tensor, mask: Tensor, table: Tensor) -> Tensor:
    """Mean over t of sum_v p_t(v) E[v]: [B, T, V], bool [B, T], [V, D] -> [B, D]. The table is detached."""
    return segment_mean(probabilities, mask) @ table.detach().to(probabilities.dtype)


def mean_embedding(tokens: Tensor, mask: Tensor, table: Tensor) -> Tensor:
    """Mean frozen input embedding of y: int64 [B, T], bool [B, T], [V, D] -> [B, D], detached."""
    rows = table.detach()[tokens] * mask[..., None].to(table.dtype)
    return rows.sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(table.dtype)


def segment_mean(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Mean distribution over a segment: [B, T, V], bool [B, T] -> [B, V]; zeros where the segment is
    empty."""
    weights = mask.to(probabilities.dtype) / mask.sum(1, keepdim=True).clamp(min=1).to(probabilities.dtype)
    return torch.einsum("btv,bt->bv", probabilities, weights)


def expected_length(end: Tensor, mask: Tensor) -> Tensor:
    """sum_t prod_{u<t} (1 - p_u(end)), in tokens: end probabilities [B, T], bool [B, T] -> [B].

    The masked positions of a row come last. Cut at T, so a model that never ends has length T.
    """
    goes_on = torch.where(mask, 1 - end, torch.zeros_like(end))
    first = torch.ones_like(end[:, :1])
    reached = torch.cat([first, goes_on[:, :-1]], 1).cumprod(1)
    return (reached * mask.to(end.dtype)).sum(1)


def brevity(expected: Tensor, tokens: Tensor, config: ReflectionConfig) -> Tensor:
    """exp(-gamma E[len] / L0), or exp(-gamma len) as printed; [B]."""
    if config.brevity_by == "literal":
        return torch.exp(-config.gamma * tokens.to(expected.dtype))
    return torch.exp(-config.gamma * expected / config.length0)


def agreement(p: Tensor, q: Tensor, config: ReflectionConfig) -> Tensor:
    """exp(-KL(p || q)), or max(0, 1 - KL) (1 - KL as printed has no lower bound); [B, V], [B, V] -> [B]."""
    tiny = torch.finfo(p.dtype).tiny
    kl = (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(1)
    return torch.exp(-kl) if config.agreement_by == "exp" else (1 - kl).clamp(min=0)


def cosine(a: Tensor, b: Tensor, kind: Cosine = "unit") -> Tensor:
    """Cosine along the last axis; "unit" maps it from -1..1 to 0..1, so that a reward is never negative."""
    raw = torch.nn.functional.cosine_similarity(a, b.to(a.dtype), dim=-1, eps=1e-12)
    return raw if kind == "raw" else (1 + raw) / 2
