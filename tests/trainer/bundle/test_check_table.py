"""The measured table: lines that came later than the numbers wait until they are measured."""

from __future__ import annotations

from trainer.bundle.check import bars, table
from trainer.bundle.check_reasoner import KINDS, of_kind


def test_lines_that_were_not_measured_are_left_out_and_others_held_to_their_bar() -> None:
    double = next(bar for bar in bars() if bar.names == ("exact, double",))
    measured = {"reasoner": {"exact": 0.99}}
    assert not double.known(measured) and double.title not in table(measured)
    measured["reasoner"]["exact, double"] = 0.5
    assert double.known(measured) and f"| {double.title} | 0.5 (missed) |" in table(measured)


def test_each_kind_has_its_line_and_questions_of_the_test_split() -> None:
    names = {name for bar in bars() for name in bar.names}
    for kind in KINDS:
        assert f"exact, {kind}" in names
        first, again = of_kind(kind, 3, 5), of_kind(kind, 2, 5)
        assert first[:2] == again and {question.edit.split for question in first} == {"test"}
