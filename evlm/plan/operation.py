"""What kind of change a step of a plan orders, by its instruction's first words."""

from __future__ import annotations

import re
from typing import Literal

from .form import Plan

Operation = Literal["repaint", "remove", "add", "replace", "move"]
_PLEASE = r"\s*(?:please\s+)?"
_WORDS: tuple[tuple[Operation, str], ...] = (
    ("remove", r"(?:remove|delete|erase|take\s+away|get\s+rid\s+of)\b"),
    ("add", r"(?:add|insert|put|place|attach|include)\b"),
    ("replace", r"(?:replace|swap|exchange)\b"),
    (
        "replace",
        r"(?:turn|change|transform|make)\s+(?:the|this|that|his|her|its|their)\b.{1,80}?\binto\s+an?\b",
    ),
    ("move", r"(?:move|shift)\b"),
)
_KINDS = tuple((kind, re.compile(_PLEASE + words, re.IGNORECASE)) for kind, words in _WORDS)


def operation(plan: Plan) -> Operation:
    """ "repaint" keeps the shape of what is there; so does all that is not known, and all of a whole picture.

    Of a plan of several steps it is asked for each step."""
    if plan.scope == "global":
        return "repaint"
    return next((kind for kind, words in _KINDS if words.match(plan.instruction)), "repaint")
