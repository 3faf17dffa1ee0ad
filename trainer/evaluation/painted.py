"""What a plan makes of the picture, by the rest of the chain and the world's exact reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from evlm.errors import EVLMError
from evlm.plan.form import PARTS
from evlm.plan.trace import parse
from evlm.reason.reasoner import Reasoned

from ..world.question import Question as WorldQuestion
from ..world.reader import edit_right, scene_right
from ..world.whatif.question import WhatIf
from ..world.whatif.reader import Verdict, outcome_right
from .accuracy import Outcome
from .questions import Question


def paint(
    pipeline: Any,
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    report: Callable[[int], object] = lambda count: None,
    parts: Sequence[str] = PARTS,
) -> list[Outcome]:
    """The outcomes with `right` and `scene` of questions of the world; others stay as they are. pipeline:
    whose detector, segmenter and editor do what was planned. An answer without a plan, or with one that
    cannot be done, is wrong in both. parts: those of a trace that were asked for."""
    painted = []
    for question, outcome in zip(questions, outcomes, strict=True):
        if question.asked is not None:
            verdict = _painted(pipeline, question, question.asked, outcome, parts)
            outcome = replace(outcome, right=verdict.right, scene=verdict.scene)
        painted.append(outcome)
        report(1)
    return painted


def read(asked: WorldQuestion, frames: Any) -> Verdict:
    """The reader's verdict on the frames [F, H, W, 3] in 0..1, each of which must be right."""
    if isinstance(asked, WhatIf):
        each = [outcome_right(frame.numpy(), asked, at) for at, frame in enumerate(frames)]
        return Verdict(all(one.right for one in each), all(one.scene for one in each))
    right = [edit_right(frame.numpy(), asked.edit, at) for at, frame in enumerate(frames)]
    whole = [scene_right(frame.numpy(), asked.edit.result, at) for at, frame in enumerate(frames)]
    return Verdict(all(right), all(whole))


def load(models: Sequence[str]) -> Any:
    """A pipeline that is given its plans; models as `evlm edit --models` takes them. Raises ModelError."""
    from evlm.models.zoo import choose
    from evlm.pipeline import Pipeline

    return Pipeline.load(choose(list(models)), reasoner=_Silent())


class _Silent:
    """A reasoner that is never asked."""

    def reason(self, request: Any, sampling: Any = None, on_token: Any = None, repair: bool = True) -> Any:
        raise AssertionError("the plan was given")


def _painted(
    pipeline: Any, question: Question, asked: WorldQuestion, outcome: Outcome, parts: Sequence[str]
) -> Verdict:
    request = question.request()
    try:
        trace = parse(outcome.text, repair=False, parts=parts)
        planned = pipeline.plan(request, Reasoned(outcome.text, outcome.tokens, 0.0, trace=trace))
        edited = pipeline.paint(request, planned, anyway=True).edited
    except EVLMError:
        return Verdict(False, False)
    return read(asked, edited)
