"""KTO: rows of both labels, against the frozen reference and the batch's eta0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.recipe import Phase
from ..estimators.eta0 import score_pairs
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import sequence_logps
from ..model.prompts import split
from ..model.reference import ReferencePolicy
from ..objectives.kto import eta0, kto_loss


def kto_step(
    learner: Learner, reference: ReferencePolicy, examples: list[Example], phase: Phase, at: int
) -> dict[str, float]:
    """KTO on the whole batch: the reference and eta0 first, without a graph, then the gradient part by
    part.

    examples: this rank's; at: the run's step, from which chance is drawn. The numbers are the whole
    batch's."""
    model, ranks = learner.model, learner.ranks
    prompts, responses = split(learner.batch(examples), learner.merge)
    other_responses, of_lower_ranks = ranks.others(responses, learner.device)
    seen = score_pairs(
        model,
        reference,
        prompts,
        responses,
        phase.eta0,
        at,
        phase.kto.log_ratio,
        other_responses=other_responses,
        of_lower_ranks=of_lower_ranks,
        score_own=False,
    )
    baseline = eta0(ranks.gather(seen.mismatched))
    lengths = torch.tensor([len(each) for each in responses], device=seen.policy.device)
    desired = torch.tensor([example.desired for example in examples], device=seen.policy.device)
    total = int(ranks.total(len(examples), learner.device))
    trust = torch.tensor([example.weight for example in examples], device=seen.policy.device)
    loss, ratios = 0.0, []
    for index in learner.together(prompts, responses, phase.micro_batch):
        rows = torch.tensor(index)
        some = [responses[i] for i in index]
        policy = sequence_logps(model, prompts.take(index), some, range(len(index)), "packed")
        part, parts = kto_loss(
            policy,
            seen.reference[rows],
            lengths[rows],
            desired[rows],
            baseline,
            phase.kto,
            total,
            trust[rows],
        )
        part.backward()
        loss += float(part.detach())
        ratios.append(parts["s"])
    s, desired = ranks.gather(torch.cat(ratios)), ranks.gather(desired)
    return {
        "loss": ranks.total(loss, learner.device),
        "eta0": float(baseline),
        "desired": float(desired.float().mean()),
        **by_label(s, desired),
    }


def by_label(s: Tensor, desired: Tensor) -> dict[str, float]:
    """Mean log-ratio of the desired and of the undesired rows, where there are any."""
    groups = (("s_desired", desired), ("s_undesired", ~desired))
    return {name: float(s[which].mean()) for name, which in groups if bool(which.any())}
