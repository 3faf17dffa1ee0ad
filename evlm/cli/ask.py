"""`--ask-below`: a plan of which the model is not sure is shown, and painted where somebody says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..plan.form import plan_lines

if TYPE_CHECKING:
    from ..pipeline import Planned
    from ..plan.form import Plan
    from .terminal import Terminal

UNKNOWN = (
    "--ask-below has no effect: nothing is known of how sure this model is (a server without logprobs, say)"
)


class Ask:
    """Gives `Pipeline.run` the reason why nothing is to be painted (`confirm`), or "".

    below: 0..1, of `Plan.confidence`. answer: reads a line; None where nobody is there to be asked.
    """

    def __init__(self, below: float, terminal: Terminal, answer: Callable[[], str] | None) -> None:
        self.below, self.terminal, self.answer = below, terminal, answer

    def __call__(self, planned: Planned) -> str:
        return self.about(planned.trace.plan)

    def about(self, plan: Plan) -> str:
        """As the call, of a plan whose places are no matter."""
        if not self.below or plan.changes_nothing:
            return ""
        if plan.confidence is None:
            self.terminal.note(UNKNOWN)
            return ""
        if plan.confidence >= self.below:
            return ""
        said = f"the model is sure of this plan by {plan.confidence:.4g}, and --ask-below is {self.below:g}"
        for line in plan_lines(plan):
            self.terminal.line(f"{'':10}{line}")
        if self.answer is None:
            return said
        self.terminal.line(f"{'ask':8}  {said}: paint it? y or n")
        return "" if self.answer().strip().lower() in ("y", "yes") else said


def at_terminal(below: float, terminal: Terminal) -> Ask:
    """Asks where a person sees what is written and can type."""
    return Ask(below, terminal, sys.stdin.readline if terminal.live and sys.stdin.isatty() else None)


def remedy(held: str) -> str:
    """What somebody can do about the reason why nothing was painted."""
    return "lower --ask-below" if "--ask-below" in held else "add --anyway"
