"""SFT: token cross-entropy on desired answers."""

from __future__ import annotations

import torch

from ..config.recipe import Phase
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import base_of
from ..model.packing import row_states
from ..objectives.sft import sft_loss


def sft_step(learner: Learner, examples: list[Example], phase: Phase) -> dict[str, float]:
    """Cross-entropy per answer token of the whole batch; this rank's gradients are left in the parameters.

    examples: this rank's. The loss is the whole batch's."""
    parts = micro(examples, phase)
    batches = [learner.batch(part) for part in parts]
    ranks, device = learner.ranks, learner.device
    answer_tokens = sum(int((batch.labels != -100).sum()) for batch in batches)
    tokens = ranks.total(answer_tokens, device)
    base, loss = base_of(learner.model), 0.0
    for part, batch in zip(parts, batches, strict=True):
        batch = batch.to(device)
        labels = batch.labels[batch.attention_mask]  # a row's first token is never learned
        weights = None
        if any(example.weight != 1 for example in part):
            trust = torch.tensor([example.weight for example in part], device=device)
            weights = trust[:, None].expand(batch.labels.shape)[batch.attention_mask][None]
        states = row_states(base, batch)[None]
        summed, _ = sft_loss(states, labels[None], base.lm_head, weights=weights)
        (summed / tokens).backward()
        loss += float(summed.detach()) / tokens
    return {"loss": ranks.total(loss, device), "learned": int(tokens)}


def micro(examples: list[Example], phase: Phase) -> list[list[Example]]:
    """The examples in parts of at most phase.micro_batch."""
    size = phase.micro_batch or max(1, len(examples))
    return [examples[at : at + size] for at in range(0, len(examples), size)]
