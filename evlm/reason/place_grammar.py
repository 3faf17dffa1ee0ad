"""How the value of a plan's mask line may go on, judged by its characters: the mask codec's text, or one
rectangle in the model's own words, which is all that a model can give that was never tuned on the codec."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..plan.boxes_text import boxes_text
from ..plan.native_boxes import OWN, WHOLE, BoxForm, Size


@dataclass(frozen=True)
class PlaceGrammar:
    """grid: rows and columns of the codec's cells; None: a rectangle, of which only the numbers are written.
    form: in which the model writes it; size: of the picture as the model sees it, where it writes pixels.

    lead: what the form writes before the value; ending: behind it. alphabet: the value's characters; ends:
    those with which a token begins that goes on behind the value.
    """

    grid: int | None = None
    form: BoxForm = OWN
    size: Size | None = None

    @property
    def optional(self) -> bool:
        """Whether the model says for itself that there is one; else it has to where the edit is local."""
        return self.grid is not None

    def lead(self, label: str) -> str:
        """label: of what is to change."""
        return "\nmask:" if self.grid else "\nmask: " + self.form.lead.replace("{label}", label)

    @property
    def ending(self) -> str:
        return "" if self.grid else self.form.end

    @property
    def alphabet(self) -> str:
        return " 0123456789" + ("+-.boxfulrwsne" if self.grid else "".join(self.form.between))

    @property
    def ends(self) -> str:
        return "\n<" + (" " if self.grid or self.form is OWN else " " + self.form.end[0])

    def said(self, value: str) -> str | None:
        """The mask line of a whole value that was written in a form of the model's own; None: as it is."""
        if self.grid or self.form is OWN:
            return None
        box = self.form.thousandths(self._numbers(value), self.size)
        assert box is not None, "a whole value is a box that is not empty"
        return f"\nmask: {boxes_text([box])}"

    def note(self, value: str) -> str:
        """Of what was written in other numbers than it is said; "" where they are the same."""
        if self.grid or not self.form.pixels or self.size is None:
            return ""
        height, width = self.size
        numbers = [round(each) for each in self._numbers(value)]
        return (
            f"the model's own box is {numbers}, in pixels of the original as it sees it, {width} x {height}"
        )

    def may_begin(self, text: str) -> bool:
        """Whether a value can begin with these characters, and only needs more."""
        if not self.grid:
            return self._fits_rectangle(text, whole=False)
        words = self._words(text)
        return words is not None and self._fits(words, whole=False)

    def is_whole(self, text: str) -> bool:
        if not self.grid:
            return self._fits_rectangle(text, whole=True)
        words = self._words(text)
        return words is not None and self._fits(words, whole=True)

    def _numbers(self, value: str) -> tuple[float, ...]:
        return tuple(float(each) for each in re.findall("[0-9]+", value))

    def _fits_rectangle(self, text: str, whole: bool) -> bool:
        """Whether the text is the beginning of the form's four numbers (whole: all of them)."""
        limits, low = self.form.limits(self.size), [0, 0]
        for at, before in enumerate(self.form.between):
            if len(text) < len(before):
                return not whole and before.startswith(text)
            if not text.startswith(before):
                return False
            number, text = _split_number(text[len(before) :])
            ended = whole or bool(text)
            high = limits[at % 2]
            lowest, highest = (0, high - 1) if at < 2 else (low[at - 2] + 1, high)
            if not (_is_number if ended else _may_be_number)(number, lowest, highest):
                return False
            if not text:
                return at == 3 if whole else True
            if at < 2:
                low[at] = int(number)
        return False  # something stands behind the fourth

    def _words(self, text: str) -> list[str] | None:
        """The words behind "box"; None for a text that begins like no value. A value begins with a space."""
        if not text.startswith(" "):
            return [] if not text else None
        words = text[1:].split(" ")
        if words[0] == "none" and len(words) == 1:
            return _NONE
        if len(words) == 1:
            return [] if "box".startswith(words[0]) or "none".startswith(words[0]) else None
        return words[1:] if words[0] == "box" else None

    def _fits(self, words: list[str], whole: bool) -> bool:
        """Whether all words fit, the last one as far as it goes (whole: to its end)."""
        assert self.grid is not None
        if words is _NONE:
            return True
        numbers, rest = words[:4], words[4:]
        low = [0, 0]
        for at, word in enumerate(numbers):
            ended = whole or at < len(words) - 1
            lowest, highest = (0, WHOLE - 1) if at < 2 else (low[at - 2] + 1, WHOLE)
            if not (_is_number if ended else _may_be_number)(word, lowest, highest):
                return False
            if at < 2 and ended:
                low[at] = int(word)
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


def _split_number(text: str) -> tuple[str, str]:
    """(the digits that a text begins with, what follows them)."""
    rest = text.lstrip("0123456789")
    return text[: len(text) - len(rest)], rest


def _is_number(text: str, low: int, high: int) -> bool:
    return text.isascii() and text.isdigit() and str(int(text)) == text and low <= int(text) <= high


def _may_be_number(text: str, low: int, high: int) -> bool:
    """Whether a number from low to high begins with this text, written without leading zeros."""
    if not text:
        return low <= high
    digits = len(str(high))
    if not (text.isascii() and text.isdigit()) or len(text) > digits or str(int(text)) != text:
        return False
    value = int(text)
    longer = (10**n for n in range(1 if value == 0 else digits + 1 - len(text)))
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
