"""SFT: token cross-entropy on desired answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.recipe import Phase
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import base_of, response_states
from ..model.prompts import split
from ..objectives.sft import answer_loss


def sft_step(learner: Learner, examples: list[Example], phase: Phase) -> dict[str, float]:
    """Cross-entropy per answer token of the whole batch; this rank's gradients are left in the parameters.

    examples: this rank's. The loss is the whole batch's."""
    parts = micro(examples, phase)
    batches = [learner.batch(part) for part in parts]
    ranks, device = learner.ranks, learner.device
    answer_tokens = sum(int((batch.labels != -100).sum()) for batch in batches)
    tokens = ranks.total(answer_tokens, device)
    head, loss = base_of(learner.model).lm_head, 0.0
    for part, batch in zip(parts, batches, strict=True):
        prompts, responses = split(batch, learner.merge)
        for rows in learner.together(prompts, responses):
            some = [responses[row] for row in rows]
            states = response_states(learner.model, prompts.take(rows), some, range(len(rows)))
            weights = trust_of([part[row] for row in rows], some, device)
            summed = answer_loss(states, torch.cat(some), head, weights=weights)
            (summed / tokens).backward()
            loss += float(summed.detach()) / tokens
    return {"loss": ranks.total(loss, device), "learned": int(tokens)}


def trust_of(examples: list[Example], responses: Sequence[Tensor], device: torch.device) -> Tensor | None:
    """Of each token of the examples' answers, how far it is to be trusted; None where all are whole."""
    if all(example.weight == 1 for example in examples):
        return None
    each = [torch.full((len(r),), e.weight) for e, r in zip(examples, responses, strict=True)]
    return torch.cat(each).to(device)


def micro(examples: list[Example], phase: Phase) -> list[list[Example]]:
    """The examples in parts of at most phase.micro_batch."""
    size = phase.micro_batch or max(1, len(examples))
    return [examples[at : at + size] for at in range(0, len(examples), size)]
