"""R_reflect (Eq. 11) of a trained model on questions that it was not asked in training: the same for every
arm, also for one whose loss has no such term (lambda_ref 0, SFT, KTO)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from evlm.plan.trace import render

from ..config.recipe import Phase
from ..evaluation.questions import Question
from ..learner.rows import Example
from ..model.logprobs import response_states
from ..model.prompts import split
from ..model.spans import find_spans
from ..steps.rkto import Batch, reflect
from ..world.traces import write_trace

_TOGETHER = 8  # traces: next-token probabilities of two parts are held for each


def reflection_of(learner: Any, questions: Sequence[Question]) -> float | None:
    """The mean over the questions' right traces, teacher-forced, with the paper's betas; None where no
    question is the world's."""
    rewards: list[float] = []
    known = [each for each in questions if each.asked is not None]
    tokenizer, phase = learner.processor.tokenizer, Phase("rkto", steps=1)
    for at in range(0, len(known), _TOGETHER):
        examples = [
            Example(learner.chat(each.request()), _right(each), True) for each in known[at : at + _TOGETHER]
        ]
        prompts, answers = split(learner.batch(examples), learner.merge)
        rows = list(range(len(examples)))
        written = [find_spans(tokenizer, each.tolist()) for each in answers]
        batch = Batch(prompts, answers, len(rows), [], 0, written, [], torch.ones(len(rows)))
        with torch.no_grad():
            flat = response_states(learner.model, prompts, answers, rows, learner.how)
            states = flat.split([len(each) for each in answers])
            rewards += reflect(learner, batch, rows, states, phase).tolist()
    return sum(rewards) / len(rewards) if rewards else None


def _right(question: Question) -> str:
    """The trace that is right, always the same one."""
    assert question.asked is not None
    return render(write_trace(random.Random(f"{question.id} trace"), question.asked))
