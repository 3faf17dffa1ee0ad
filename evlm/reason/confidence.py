"""How sure a model was of its plan, from the probabilities of the tokens that it wrote.

A plan is thought out before it is written, so that its own lines are nearly certain, right or wrong: what was
in doubt is a word's first mention, where the model looked. So the words of instruction and targets count
wherever the text has them, and the place with them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ..plan.form import Plan


class Written(NamedTuple):
    """A token's text, and the natural logarithm of the probability that the model gave it; None where the
    form wrote it."""

    text: str
    log: float | None


def confidence(plan: Plan, written: Sequence[Written], temperature: float | None = None) -> float | None:
    """0..1; None where no token of the plan was the model's.

    The product of the tokens' probabilities, to the power of 1 / temperature. temperature: what makes it the
    share of right plans, fitted for a model (`evlm.json`). Without it the geometric mean, which tells a
    model's plans apart and is no share of anything.
    """
    spans = _spans(plan, _ESCAPE.sub("  ", "".join(each.text for each in written)))
    logs, at = [], 0
    for token, end in zip(written, accumulate(len(each.text) for each in written), strict=True):
        begin = end - len(token.text)
        while at < len(spans) and spans[at][1] <= begin:
            at += 1
        if token.log is not None and at < len(spans) and spans[at][0] < end:
            logs.append(token.log)
    if not logs:
        return None
    total = sum(logs) / (temperature or len(logs))
    return math.exp(total)


def _spans(plan: Plan, text: str) -> list[tuple[int, int]]:
    """Where the plan's words and its places stand in the text, by their beginnings."""
    words = {
        word for step in plan.steps for part in (step.instruction, *step.targets) for word in _words(part)
    }
    found = [match.span() for match in _WORD.finditer(text) if match[0].lower() in words]
    for mask in (step.mask_text for step in plan.steps):
        place = text.rfind(mask) if mask else -1
        if mask and place >= 0:
            found.append((place, place + len(mask)))
    found += [match.span(1) for match in _JSON_BOX.finditer(text)]
    return sorted(found)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\[nrt]")  # in JSON: no letter of theirs begins a word
_JSON_BOX = re.compile(r'"box"\s{0,9}:\s{0,9}(\[[^\]]{0,200}\])')  # the place, in an endpoint's schema
