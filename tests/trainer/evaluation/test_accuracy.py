"""Evaluation: which questions are asked, what an answer is worth, and the table that comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.errors import ConfigError, RecordError
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace, render
from evlm.request import Request
from trainer.evaluation.accuracy import METRICS, Outcome, difference, evaluate, judge, summary
from trainer.evaluation.questions import Question, world_questions
from trainer.evaluation.results import csv_text, read_csv, table

HALF = torch.zeros(8, 8)
HALF[:, :4] = 1


def question(name: str = "q", edit: str = "recolour", category: str = "image", mask: bool = True) -> Question:
    request = Request(torch.zeros(1, 8, 8, 3), "red")
    truth = HALF if mask else None
    return Question(name, edit, category, "make the hat red", ("hat",), lambda: request, lambda: truth)


def text(
    instruction: str = "make the hat red", targets: tuple[str, ...] = ("hat",), mask: Tensor = HALF
) -> str:
    return render(Trace("t", "i", "r", Plan(instruction, targets, BoxSpans().encode(mask))))


def outcome(name: str, exact: bool = True, edit: str = "recolour", **fields: object) -> Outcome:
    values = {"iou": 0.5, "malformed": False, "tokens": 10, "category": "image", **fields}
    return Outcome(id=name, edit_type=edit, exact=exact, targets=exact, instruction="", text="", **values)  # type: ignore[arg-type]


# --- what an answer is worth ---


def test_a_right_answer() -> None:
    outcome = judge(question(), text(), tokens=7)
    assert (outcome.exact, outcome.targets, outcome.iou, outcome.malformed, outcome.tokens) == (
        True,
        True,
        1.0,
        False,
        7,
    )
    assert outcome.instruction == "make the hat red"


def test_parts_of_an_answer_are_judged_apart() -> None:
    other = judge(question(), text("make the hat blue"))
    assert (other.exact, other.targets, other.iou) == (False, True, 1.0)
    wrong = judge(question(), text(targets=("hat", "scarf"), mask=torch.ones(8, 8)))
    assert (wrong.exact, wrong.targets, wrong.iou) == (False, False, 0.5)
    assert judge(question(mask=False), text()).iou is None
    no_mask = text().replace("\nmask: box 0 0 500 1000 full", "")
    assert "mask" not in no_mask
    assert (judge(question(), no_mask).exact, judge(question(), no_mask).iou) == (True, 0.0)


@pytest.mark.parametrize("broken", ["", "make the hat red", "{}", None])
def test_what_is_no_exact_trace_is_worth_nothing(broken: str | None) -> None:
    """A repaired trace would hold the plan; it counts as malformed all the same."""
    outcome = judge(question(), text().replace("</reflection>", "") if broken is None else broken)
    assert (outcome.exact, outcome.targets, outcome.iou, outcome.malformed) == (False, False, 0.0, True)
    assert outcome.instruction == ""


@given(st.text(max_size=60) | st.text(alphabet="<>/\noutpu:instrcio", max_size=60))
@settings(max_examples=40)
def test_any_text_gets_an_outcome(answer: str) -> None:
    outcome = judge(question(), answer)
    assert outcome.text == answer and outcome.tokens == len(answer.split())
    assert outcome.malformed or not outcome.exact


def test_answers_come_in_parts_and_in_order() -> None:
    asked = [question(f"q{n}") for n in range(7)]
    sizes: list[int] = []
    told: list[int] = []

    def answer(requests: Sequence[Request]) -> list[str]:
        sizes.append(len(requests))
        assert all(isinstance(request, Request) for request in requests)
        return [text() if len(sizes) == 1 else "no"] * len(requests)

    outcomes = evaluate(answer, asked, tokens=len, report=told.append, together=3)
    assert sizes == told == [3, 3, 1]
    assert [each.id for each in outcomes] == [each.id for each in asked]
    assert [each.exact for each in outcomes] == [True] * 3 + [False] * 4
    assert [each.tokens for each in outcomes] == [len(text())] * 3 + [2] * 4


# --- the table ---


def test_a_table_by_hand() -> None:
    outcomes = [
        outcome("a", True, iou=1.0),
        outcome("b", False, iou=0.0, malformed=True, tokens=30),
        outcome("c", True, "weather", category="text", iou=None, tokens=20),
        outcome("d", True, "juggle", category="text", iou=0.5, tokens=20),
    ]
    lines = summary(outcomes)
    assert [(line.group, line.name, line.questions) for line in lines] == [
        ("all", "all", 4),
        ("edit type", "recolour", 2),
        ("edit type", "weather", 1),
        ("edit type", "juggle", 1),
        ("category", "image", 2),
        ("category", "text", 2),
    ]
    assert {name: value.mean for name, value in lines[0].values.items()} == {
        "exact": 0.75,
        "targets": 0.75,
        "iou": 0.5,
        "malformed": 0.25,
        "tokens": 20.0,
    }
    # Three of four: the mirror of one of four, by hand in test_statistics.
    assert lines[0].values["exact"][1:] == (0.25, 1.0)
    assert "iou" not in lines[2].values
    markdown = table(lines).splitlines()
    assert markdown[0] == "|  | questions | plan exact | targets right | mask IoU | malformed | tokens |"
    assert markdown[2].startswith("| all | 4 | 0.750 [0.250, 1.000] | 0.750 [0.250, 1.000] | 0.500 [0.000, ")
    assert "| weather | 1 | 1.000 | 1.000 | – | 0.000 | 20.0 |" in markdown
    rows = [line.split(",") for line in csv_text(lines).splitlines()]
    assert len(rows) == 7 and {len(row) for row in rows} == {3 + 3 * len(METRICS)}
    assert rows[1][:6] == ["all", "all", "4", "0.75", "0.25", "1"]
    assert rows[3][:9] == ["edit type", "weather", "1", "1", "", "", "1", "", ""]
    assert rows[3][9:12] == ["", "", ""]


def test_csv_is_read_back(tmp_path: Path) -> None:
    lines = summary([outcome(f"q{n}", n > 3, "weather" if n % 3 else "add", iou=None) for n in range(12)])
    file = tmp_path / "results.csv"
    file.write_text(csv_text(lines))
    assert table(read_csv(file)) == table(lines)
    for broken in ("", "group,name\nall,all\n", csv_text(lines).replace("12", "twelve", 1), "a\0b"):
        file.write_text(broken)
        with pytest.raises(RecordError, match="not the results of `python -m trainer eval`"):
            read_csv(file)


def test_no_outcomes_no_table() -> None:
    with pytest.raises(ConfigError, match="nothing was asked"):
        summary([])


def test_runs_with_several_seeds_are_averaged_a_question() -> None:
    one = [outcome(f"q{n}", n % 4 > 0) for n in range(20)]
    two = [outcome(f"q{n}", n % 5 > 0) for n in range(20)]
    lines = summary(one + two)
    assert lines[0].questions == 20
    assert lines[0].values["exact"].mean == pytest.approx((15 + 16) / 40)
    assert summary(one + one)[0].values["exact"] == summary(one)[0].values["exact"]


def test_a_difference_is_paired() -> None:
    hard = [outcome(f"q{n}", n % 3 > 0, iou=n / 40) for n in range(40)]
    better = [replace(each, exact=True, iou=(each.iou or 0) + 0.01) for each in hard]
    assert difference(hard, hard) == (0, 0, 0)
    assert difference(better, hard).mean == pytest.approx(14 / 40)
    assert difference(better, hard).excludes_zero
    gain = difference(better, hard, "iou")
    assert gain == pytest.approx((0.01, 0.01, 0.01))
    whole = [replace(each, iou=None) if n < 30 else each for n, each in enumerate(better)]
    base = [replace(each, iou=None) if n < 30 else each for n, each in enumerate(hard)]
    assert difference(whole, base, "iou").mean == pytest.approx(0.01)


@pytest.mark.parametrize(("change", "where"), [(slice(0, 3), 3), (slice(None, None, -1), 0)])
def test_a_difference_wants_the_same_questions(change: slice, where: int) -> None:
    some = [outcome(f"q{n}") for n in range(6)]
    with pytest.raises(ConfigError, match=f"differ from number {where} on"):
        difference(some, some[change])
    with pytest.raises(ConfigError, match="expected one of exact, targets"):
        difference(some, some, "beauty")


# --- questions of the world ---


@pytest.mark.slow
def test_the_batch_answers_as_the_reasoner_does_one_by_one() -> None:
    from evlm.models.zoo import resolve
    from evlm.reason.reasoner import Reasoner
    from trainer.evaluation.accuracy import load, one_by_one, token_counter

    asked = world_questions(20, 5)
    many, tokens = load("bundled")
    reasoner = Reasoner.load(resolve("bundled", "reasoner"))
    together = evaluate(many, asked, tokens)
    alone = evaluate(one_by_one(reasoner), asked, token_counter(reasoner.processor))
    assert [each.text for each in together] == [each.text for each in alone]
    assert difference(together, alone) == (0, 0, 0)
    assert sum(each.exact for each in together) >= 16
    generated = reasoner.generate(asked[0].request())
    assert together[0].tokens == generated.tokens - 1  # the end token is no part of the text
    assert not math.isnan(summary(together)[0].values["exact"].low)
