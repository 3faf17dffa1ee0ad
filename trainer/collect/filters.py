"""Which taught answers are no rows: what is empty, too long, gives away that the teacher saw the edit, names
no target, or is said too often. Each has a name, and goes to work/dropped.jsonl with its reason."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from evlm.plan.form import PROSE

from .recipe import Filters

_LEAKS = re.compile(
    r"\b(?:edited|target|desired) (?:image|picture|photo|photograph|version)\b"
    r"|\bfor (?:my|your) eyes only\b|\bas if i had not seen\b",
    re.IGNORECASE,
)


class Problem(NamedTuple):
    """name: of the filter. reason: what it found."""

    name: str
    reason: str


class TextFilter:
    """Asked about every answer in the order of the rows, for it counts what was said before."""

    def __init__(self, limits: Filters) -> None:
        self.limits = limits
        self._said: Counter[tuple[str, str]] = Counter()

    def problem(self, edit_type: str, trace: dict[str, Any]) -> Problem | None:
        """What is wrong with an answer, None where nothing is. trace: the row's parts by their names."""
        found = self._format(trace) or _leak(trace) or _unnamed(trace)
        if found is not None:
            return found
        said = (edit_type, " ".join(re.findall(r"\w+", trace["instruction"].casefold())))
        self._said[said] += 1
        if self._said[said] > self.limits.same_instruction:
            return Problem("near text", f"said {self.limits.same_instruction} times before: {said[1]!r:.80}")
        return None

    def _format(self, trace: dict[str, Any]) -> Problem | None:
        limits = self.limits
        for name in PROSE:
            if not trace[name].strip():
                return Problem("format", f"{name} is empty")
        words = len(trace["reflection"].split())
        if words > limits.reflection_words:
            return Problem("format", f"a reflection of {words} words, at most {limits.reflection_words}")
        words = len(trace["instruction"].split())
        if not limits.instruction_least <= words <= limits.instruction_most:
            wanted = f"{limits.instruction_least} to {limits.instruction_most}"
            return Problem("format", f"an instruction of {words} words, expected {wanted}")
        return None


def _leak(trace: dict[str, Any]) -> Problem | None:
    for name in (*PROSE, "instruction"):
        if found := _LEAKS.search(trace[name]):
            return Problem("words", f"{name} says {found[0]!r}, which the reasoner will not have seen")
    return None


def _unnamed(trace: dict[str, Any]) -> Problem | None:
    """A target of which the instruction says no word."""
    said = _stems(trace["instruction"])
    for target in trace["targets"]:
        words = _stems(target)
        if words and not words & said:
            return Problem("words", f"the instruction does not name its target {target!r:.60}")
    return None


def _stems(text: str) -> set[str]:
    """The words of a text, and all that may be their singular: a word and its plural share one."""
    words = set(re.findall(r"\w+", text.casefold()))
    return words.union(
        word.removesuffix(end) + singular
        for end, singular in (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))
        for word in words
        if len(word) > len(end) + 1 and word.endswith(end)
    )
