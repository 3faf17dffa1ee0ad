"""DPO: a desired and an undesired answer to each question, behind one prompt, against the reference."""

from __future__ import annotations

import torch

from ..config.recipe import Phase
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import sequence_logps
from ..model.prompts import split
from ..model.reference import ReferencePolicy
from ..objectives.dpo import dpo_loss


def dpo_step(
    learner: Learner, reference: ReferencePolicy, examples: list[Example], phase: Phase
) -> dict[str, float]:
    """DPO on the whole batch: the reference first, without a graph, then the gradient part by part.

    examples: this rank's, a pair's desired answer and then its other one. The numbers are the whole
    batch's."""
    model, ranks, device = learner.model, learner.ranks, learner.device
    both, responses = split(learner.batch(examples), learner.merge)
    prompts = both.take(range(0, len(examples), 2))
    pairs = len(prompts)
    theirs = reference.logps(model, prompts, responses, [n // 2 for n in range(len(responses))]).view(-1, 2)
    lengths = torch.tensor([len(each) for each in responses], device=device).view(-1, 2)
    trust = torch.tensor([example.weight for example in examples], device=device).view(-1, 2).prod(1)
    total = int(ranks.total(pairs, device))
    loss, found = 0.0, []
    for rows in torch.arange(pairs).split(phase.micro_batch or pairs):
        index = rows.tolist()
        some = [responses[2 * i + answer] for i in index for answer in (0, 1)]
        owner = [n // 2 for n in range(len(some))]
        policy = sequence_logps(model, prompts.take(index), some, owner, learner.how).view(-1, 2)
        part, parts = dpo_loss(policy, theirs[rows], lengths[rows], phase.dpo, trust[rows], total)
        part.backward()
        loss += float(part.detach())
        found.append(torch.cat([parts["s"], parts["margin"][:, None], parts["ordered"][:, None]], 1))
    means = ranks.gather(torch.cat(found)).mean(0)
    names = ("s_desired", "s_undesired", "margin", "ordered")
    return {
        "loss": ranks.total(loss, device),
        **{name: float(value) for name, value in zip(names, means, strict=True)},
    }
