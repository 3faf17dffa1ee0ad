"""The second stage: what each judge says to each instruction, and to some whose right verdict is known.

What several models wrote alike is asked once. Verdicts are kept as `evaluation.judges` keeps them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..evaluation.accuracy import Outcome
from ..evaluation.judges import Case, Judge, Judging, Panel, Verdict
from ..evaluation.questions import Question
from .recipe import Protocol

FILE = "verdicts.jsonl"


@dataclass(frozen=True)
class Planted:
    """A question with an instruction whose verdict is known: its own, or another question's."""

    question: Question
    instruction: str
    yes: bool


@dataclass(frozen=True)
class Said:
    """What one judge says in one mode. rows: model -> verdict of each question, None for a malformed answer,
    which is NO unasked. planted: beside `planted` of the questions."""

    judge: int
    mode: Judging
    rows: dict[str, list[Verdict | None]]
    planted: list[Verdict]


def planted(questions: Sequence[Question], share: float, seed: int) -> list[Planted]:
    """That share of the questions with their own instruction, as many others with another question's."""
    count = min(len(questions) // 2, round(share * len(questions)) or int(share > 0))
    rng = random.Random(f"planted {seed}")
    chosen = rng.sample(range(len(questions)), 2 * count)
    found = [Planted(questions[at], questions[at].instruction, True) for at in chosen[:count]]
    for at in chosen[count:]:
        others = sorted({each.instruction for each in questions} - {questions[at].instruction})
        if others:
            found.append(Planted(questions[at], rng.choice(others), False))
    return found


def cases(outcomes: dict[str, list[Outcome]], questions: Sequence[Question], mode: Judging) -> list[Case]:
    """What is asked, each once, in the order of the models."""
    found: dict[tuple[int, str], Case] = {}
    for row in outcomes.values():
        for at, (question, each) in enumerate(zip(questions, row, strict=True)):
            if not each.malformed:
                found.setdefault((at, each.instruction), Case(question, each.instruction, judging=mode))
    return list(found.values())


def panel(protocol: Protocol) -> Panel:
    """Its judges. Raises EndpointError, RecordError."""
    asking = protocol.asking
    judges = [Judge(each.endpoint, each.model) for each in protocol.judges]
    file = protocol.folder / FILE
    return Panel(judges, file, asking.workers, asking.tries, asking.pause, asking.timeout)


def judged(
    judges: Panel,
    modes: Sequence[Judging],
    questions: Sequence[Question],
    outcomes: dict[str, list[Outcome]],
    known: Sequence[Planted],
    report: Callable[[int], None] | None = None,
    ask: bool = True,
) -> list[Said]:
    """All verdicts; ask: False sends nothing, and takes those that there are. A question that a judge does
    not answer has one that was not `reached`. Raises EndpointError."""
    found = []
    for mode in modes:
        asked = cases(outcomes, questions, mode)
        sure = [Case(each.question, each.instruction, judging=mode) for each in known]
        every = _once([*asked, *sure])
        wanted = list(every.values())
        for judge, row in enumerate(judges.verdicts(wanted, report) if ask else judges.kept(wanted)):
            of = dict(zip(every, row, strict=True))
            rows = {
                name: [
                    None if each.malformed else of[question.id, each.instruction]
                    for question, each in zip(questions, outcomes[name], strict=True)
                ]
                for name in outcomes
            }
            said = [of[each.question.id, each.instruction] for each in known]
            found.append(Said(judge, mode, rows, said))
    return found


def count_open(
    protocol: Protocol, questions: Sequence[Question], outcomes: dict[str, list[Outcome]],
    known: Sequence[Planted],
) -> int:  # fmt: skip
    """How many verdicts are asked for in all."""
    count = 0
    for mode in protocol.modes:
        sure = [Case(each.question, each.instruction, judging=mode) for each in known]
        count += len(_once([*cases(outcomes, questions, mode), *sure]))
    return count * len(protocol.judges)


def _once(cases: Sequence[Case]) -> dict[tuple[str, str], Case]:
    return {(case.question.id, case.instruction): case for case in cases}
