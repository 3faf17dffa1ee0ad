"""How the value of a plan's mask line may go on, judged by its characters: the mask codec's text, or its
rectangle alone, which is all that a model can give that was never tuned on the codec."""

from __future__ import annotations

import re
from dataclasses import dataclass

HIGHEST = 1000  # of a coordinate: thousandths of the picture's side


@dataclass(frozen=True)
class PlaceGrammar:
    """grid: rows and columns of the codec's cells; None: a rectangle, of which only the numbers are written.

    lead: what the form writes before the value; ending: behind it. alphabet: the value's characters.
    """

    grid: int | None = None

    @property
    def optional(self) -> bool:
        """Whether the model says for itself that there is one; else it has to where the edit is local."""
        return self.grid is not None

    @property
    def lead(self) -> str:
        return "\nmask:" if self.grid else "\nmask: box"

    @property
    def ending(self) -> str:
        return "" if self.grid else " full"

    @property
    def alphabet(self) -> str:
        return " 0123456789" + ("+-.boxfulrwsne" if self.grid else "")

    def may_begin(self, text: str) -> bool:
        """Whether a value can begin with these characters, and only needs more."""
        words = self._words(text)
        return words is not None and self._fits(words, whole=False)

    def is_whole(self, text: str) -> bool:
        words = self._words(text)
        return words is not None and self._fits(words, whole=True)

    def _words(self, text: str) -> list[str] | None:
        """The words behind "box"; None for a text that begins like no value. A value begins with a space."""
        if not text.startswith(" "):
            return [] if not text else None
        words = text[1:].split(" ")
        if not self.grid:
            return words
        if words[0] == "none" and len(words) == 1:
            return _NONE
        if len(words) == 1:
            return [] if "box".startswith(words[0]) or "none".startswith(words[0]) else None
        return words[1:] if words[0] == "box" else None

    def _fits(self, words: list[str], whole: bool) -> bool:
        """Whether all words fit, the last one as far as it goes (whole: to its end)."""
        if words is _NONE:
            return True
        numbers, rest = words[:4], words[4:]
        low = [0, 0]
        for at, word in enumerate(numbers):
            ended = whole or at < len(words) - 1
            lowest, highest = (0, HIGHEST - 1) if at < 2 else (low[at - 2] + 1, HIGHEST)
            if not (_is_number if ended else _may_be_number)(word, lowest, highest):
                return False
            if at < 2 and ended:
                low[at] = int(word)
        if not self.grid:
            return not rest and (len(numbers) == 4 or not whole)
        if not rest:
            return not whole
        kind, rows = rest[0], rest[1:]
        if not rows:
            return kind == "full" or (not whole and any(each.startswith(kind) for each in ("full", "rows")))
        if kind != "rows" or len(rows) > self.grid or (whole and len(rows) < self.grid):
            return False
        return all(_is_row(row, self.grid) for row in rows[:-1]) and (
            _is_row(rows[-1], self.grid) if whole else _may_be_row(rows[-1], self.grid)
        )


_NONE = ["none"]
_SPAN = re.compile(r"([0-9]{1,2})-([0-9]{1,2})")
_SPAN_BEGUN = re.compile(r"([0-9]{0,2})(?:(?<=[0-9])(-)([0-9]{0,2}))?")


def _is_number(text: str, low: int, high: int) -> bool:
    return text.isascii() and text.isdigit() and str(int(text)) == text and low <= int(text) <= high


def _may_be_number(text: str, low: int, high: int) -> bool:
    """Whether a number from low to high begins with this text, written without leading zeros."""
    if not text:
        return low <= high
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or str(int(text)) != text:
        return False
    value = int(text)
    longer = (10**n for n in range(1 if value == 0 else 5 - len(text)))
    return any(value * each <= high and low < (value + 1) * each for each in longer)


def _is_row(text: str, grid: int) -> bool:
    """Spans from left to right that do not touch, or "." for none."""
    if text == ".":
        return True
    free = 0
    for span in text.split("+"):
        ends = _SPAN.fullmatch(span)
        if not ends or not (
            _is_number(ends[1], free, grid - 1) and _is_number(ends[2], int(ends[1]), grid - 1)
        ):
            return False
        free = int(ends[2]) + 2
    return True


def _may_be_row(text: str, grid: int) -> bool:
    if text in ("", "."):
        return True
    before, plus, last = text.rpartition("+")
    if (plus and not _is_row(before, grid)) or before == ".":
        return False
    free = int(before.rpartition("-")[2]) + 2 if before else 0
    begun = _SPAN_BEGUN.fullmatch(last)
    if begun is None:
        return False
    if begun[2] is None:
        return _may_be_number(begun[1], free, grid - 1)
    return _is_number(begun[1], free, grid - 1) and _may_be_number(begun[3], int(begun[1]), grid - 1)
