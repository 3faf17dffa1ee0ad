"""eta0 of a whole batch (v1 Eq. 4, v2 Eq. 8): which mismatched pairs are scored, and scoring them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError

from ..model.logprobs import sequence_logps
from ..model.merged_lora import merged
from ..model.prompts import Prompts
from ..model.reference import ReferencePolicy
from ..objectives.kto import Scale, eta0, log_ratio


@dataclass(frozen=True)
class Eta0Config:
    """over: "pairs", all B(B-1), exact; "shifts", response i + d behind prompt i for `shifts` random
    distances d, whose mean has the same expectation; "onpolicy", samples behind their own prompts, an
    estimate of the KL itself; "none", no pair at all, eta0 is 0. Raises EVLMError."""

    over: Literal["pairs", "shifts", "onpolicy", "none"] = "pairs"
    shifts: int = 4

    def __post_init__(self) -> None:
        if self.over not in ("pairs", "shifts", "onpolicy", "none"):
            raise EVLMError(f"eta0 over {self.over!r:.40}: expected pairs, shifts, onpolicy or none")
        if type(self.shifts) is not int or self.shifts < 1:
            raise EVLMError(f"shifts {self.shifts!r:.40}: expected a whole number of at least 1")


@dataclass(frozen=True)
class PairScores:
    """policy, reference [B]: log rho(y_i | x_i) of a batch's own pairs (policy [0] where they were not asked
    for); mismatched [N]: log-ratios that eta0 is the mean of (to be gathered over ranks before it is taken);
    eta0 []: of this rank's. Nothing has a graph."""

    policy: Tensor
    reference: Tensor
    mismatched: Tensor
    eta0: Tensor


def score_pairs(
    model: Any,
    reference: ReferencePolicy,
    prompts: Prompts,
    responses: Sequence[Tensor],
    config: Eta0Config,
    seed: int = 0,
    scale: Scale = "sum",
    samples: Sequence[Tensor] = (),
    sample_owner: Sequence[int] = (),
    other_responses: Sequence[Tensor] = (),
    of_lower_ranks: int = 0,
    score_own: bool = True,
) -> PairScores:
    """Scores each response behind its own prompt, and the mismatched pairs, in one pass of policy and
    reference.

    responses: int64 [n] each; responses[i] belongs to prompts[i].
    seed: of the step, for "shifts".
    scale: of a log-ratio.
    samples, sample_owner: the policy's own responses and whose prompts they answer, for "onpolicy".
    other_responses: the other ranks', `of_lower_ranks` of them those of lower ranks: pairs and shifts are
        then of the whole effective batch, and `mismatched` of all ranks together is what one process would
        have had.
    score_own: score the own pairs under the policy as well; without, where a pass with a graph will do it,
        `policy` is empty.
    Dropout is off.
    """
    rows = len(prompts)
    if len(responses) != rows:
        raise EVLMError(f"{len(responses)} responses for {rows} prompts: expected one each")
    texts, owner, recur = list(responses), list(range(rows)), rows
    if config.over == "onpolicy":
        if not samples and not other_responses:
            raise EVLMError("eta0 over 'onpolicy' needs the policy's own samples; got none")
        texts += samples
        owner += sample_owner
    elif config.over != "none":
        everyone = [*other_responses[:of_lower_ranks], *responses, *other_responses[of_lower_ranks:]]
        pairs = pair_indices(len(everyone), config.over, config.shifts, seed)
        here = [(i - of_lower_ranks, j) for i, j in pairs if of_lower_ranks <= i < of_lower_ranks + rows]
        texts += [everyone[j] for _, j in here]
        owner += [i for i, _ in here]
        recur = len(texts)
    first = 0 if score_own else rows
    with merged(model):
        policy = sequence_logps(model, prompts, texts[first:], owner[first:], "cached")
    ref_logps = reference.logps(model, prompts, texts[:recur], owner[:recur])
    if recur < len(texts):
        fresh = reference.logps(model, prompts, texts[recur:], owner[recur:], keep=False)
        ref_logps = torch.cat([ref_logps, fresh])
    lengths = torch.tensor([len(t) for t in texts[rows:]], device=policy.device)
    mismatched = log_ratio(policy[rows - first :], ref_logps[rows:], lengths, scale)
    return PairScores(policy[: rows - first], ref_logps[:rows], mismatched, eta0(mismatched))


def pair_indices(
    rows: int, over: Literal["pairs", "shifts"] = "pairs", shifts: int = 4, seed: int = 0
) -> list[tuple[int, int]]:
    """Mismatched (i, j): response j behind prompt i, i != j; with "shifts" j = i + d mod B, d drawn by
    `seed`."""
    if over == "pairs":
        return [(i, j) for i in range(rows) for j in range(rows) if i != j]
    possible = range(1, rows)
    distances = random.Random(f"shifts {seed}").sample(possible, min(shifts, len(possible)))
    return [(i, (i + d) % rows) for d in distances for i in range(rows)]
