"""How the reasoner answers hypothetical questions: by rule, by scenario, of wordings that no training had, of
nulls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ..world.question import Question
from ..world.whatif.ask import PLANNED, ask_what_if
from ..world.whatif.question import WhatIf
from ..world.whatif.rules import SCENARIOS

ALL = "what if"
UNSEEN, NULL, HELD_OUT = (f"{ALL}, {what}" for what in ("unseen wording", "null", "held-out kind"))


class Judged(Protocol):
    """A question and whether its plan is exactly right."""

    @property
    def question(self) -> Question: ...
    @property
    def right(self) -> bool: ...


def by_rule(rule: str) -> str:
    return f"{ALL}, {rule}"


def what_if_sets(rows: int, seed: int) -> dict[str, list[Question]]:
    """So many held-out questions of each rule that a plan can say; row i depends on (rule, seed, i) alone."""

    def drawn(rule: str, number: int) -> Question:
        return ask_what_if(random.Random(f"{rule} test {seed} {number}"), "test", rule)

    return {by_rule(rule): [drawn(rule, number) for number in range(rows)] for rule in PLANNED}


def what_if_shares(answers: Mapping[str, Sequence[Judged]]) -> dict[str, float]:
    """Shares in 0..1 of the answers to `what_if_sets`, by name: all, each rule and scenario, unseen wordings,
    nulls, kinds that were held out. "chance": what guessing an outcome of the right kind would give. A name
    is missing where nothing of it was asked."""
    rules = {rule: answers[by_rule(rule)] for rule in PLANNED}
    asked = [(each, _cause(each)) for some in rules.values() for each in some]

    def of(fits: Callable[[WhatIf], bool]) -> list[Judged]:
        return [each for each, cause in asked if fits(cause)]

    groups = {ALL: of(lambda cause: True)} | {by_rule(rule): list(some) for rule, some in rules.items()}
    for name in SCENARIOS:
        groups[by_rule(name)] = of(lambda cause, name=name: cause.scenario == name)  # type: ignore[misc]
    groups |= {UNSEEN: of(lambda cause: cause.unseen), NULL: of(lambda cause: cause.null)}
    groups[HELD_OUT] = of(lambda cause: cause.held_out)
    shares = {f"exact, {name}": _mean(each.right for each in some) for name, some in groups.items() if some}
    return {**shares, f"{ALL}, chance": _mean(1 / cause.k for _, cause in asked)}


def _cause(answer: Judged) -> WhatIf:
    assert isinstance(answer.question, WhatIf)
    return answer.question


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
