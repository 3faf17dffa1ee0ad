"""How many tokens a model may write into each part of a trace, where the engine writes its form."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import RequestError
from ..plan.form import PARTS


class Budgets(NamedTuple):
    """Tokens that the model may write into each part; what the form writes is not counted. The prose parts
    may have none, then they stay empty; `output` needs room for a plan."""

    thinking: int = 256
    intermediate: int = 96
    reflection: int = 128
    output: int = 160

    def check(self) -> None:
        """Raises RequestError for a budget out of range."""
        for part, budget in zip(PARTS, self, strict=True):
            least = LEAST_OUTPUT if part == "output" else 0
            if not least <= budget <= MOST:
                raise RequestError(f"budget of <{part}> {budget}: expected {least} to {MOST:,} tokens")

    def of(self, part: str) -> int:
        """Of one part; "think" stands for all of the prose."""
        return sum(self[:3]) if part == "think" else self[PARTS.index(part)]

    def within(self, total: int) -> Budgets:
        """As they are where their sum is at most `total`; else in like shares of it, `output` with what it
        needs."""
        if sum(self) <= total:
            return self
        output = min(self.output, max(LEAST_OUTPUT, total * self.output // sum(self)))
        left, prose = max(0, total - output), max(1, sum(self[:3]))
        thinking, intermediate, reflection = (min(each, each * left // prose) for each in self[:3])
        return Budgets(thinking, intermediate, reflection, output)


DEFAULT_BUDGETS = Budgets()
LEAST_OUTPUT = 48
"""Tokens of `<output>` in which a plan with its place fits."""

MOST = 8192
