"""Evaluation: which questions are asked, what an answer is worth, and the table that comes of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_rows import ROW, draw_pictures, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import save_picture
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace, render
from evlm.records import Row
from evlm.request import Request
from trainer.evaluation.accuracy import (
    METRICS,
    Outcome,
    Question,
    dataset_questions,
    difference,
    evaluate,
    judge,
    stratified,
    stratum,
    summary,
    world_questions,
)
from trainer.evaluation.results import csv_text, read_csv, table
from trainer.world.edits import MIX
from trainer.world.questions import CATEGORIES

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


def test_a_question_is_a_function_of_split_seed_and_number() -> None:
    some, more = world_questions(6, 3), world_questions(9, 3)
    other = world_questions(6, 4)
    for a, b in zip(some, more, strict=False):
        assert (a.id, a.instruction, a.targets) == (b.id, b.instruction, b.targets)
        assert torch.equal(a.request().original, b.request().original)
    assert [a.instruction for a in some] != [b.instruction for b in other]
    assert len({each.id for each in more + other}) == 15
    for each in more:
        mask = each.mask()
        assert (mask is None) == (each.edit_type in ("weather", "ground", "restyle"))


@pytest.mark.parametrize("seed", range(3))
def test_the_worlds_strata_keep_their_shares_at_any_length(seed: int) -> None:
    types, categories, both = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for count in range(1, 1001):
        op, category = stratum("test", seed, count - 1)
        types[op] += 1
        categories[category] += 1
        both[op, category] += 1
        if count % 20 == 0:
            assert all(abs(types[op] - share * count) <= 3.5 for op, share in MIX.items())
            assert all(abs(categories[name] - count / 6) < 1 for name in CATEGORIES)
            assert all(abs(both[op, c] - MIX[op] * count / 6) <= 5 for op in MIX for c in CATEGORIES)


@pytest.mark.parametrize(("rows", "split"), [(0, "test"), (3, "tests"), (3, "../x")])
def test_questions_that_the_world_does_not_have(rows: int, split: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 or more, of train, validation, test"):
        world_questions(rows, 0, split)


# --- questions of a dataset ---


def dataset(folder: Path, rows: list[Row]) -> Path:
    write_rows(draw_pictures(folder) / "rows.jsonl", rows)
    return folder


def test_the_right_answer_is_what_most_people_wanted(tmp_path: Path) -> None:
    base = replace(ROW, split="test")
    rows = [
        replace(base, id="a", instruction="first", raters=(True, True, False)),
        replace(base, id="b", instruction="best", raters=(True, True, True)),
        replace(base, id="c", instruction="as good, later", raters=(True, True)),
        replace(base, id="d", instruction="unwanted", raters=(True,), label=False),
        replace(base, id="e", question="nobody wants", label=False),
        replace(base, id="f", question="of another split", split="train"),
        replace(base, id="g", question="never voted on", raters=()),
    ]
    questions = dataset_questions(dataset(tmp_path, rows), None, 0)
    assert {each.id: each.instruction for each in questions} == {
        "a": "best",
        "never voted on": ROW.instruction,
    }
    assert questions[0].request().prompt == "like this" and len(questions[0].request().references) == 2
    save_picture(tmp_path / "pictures" / "mask.png", HALF[None, ..., None].expand(1, 8, 8, 3))
    assert judge(questions[0], render(replace(rows[1], mask_text="box 0 0 500 1000 full").trace())).iou == 1.0


def test_a_dataset_that_has_too_little(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [replace(ROW, split="test")])
    assert len(dataset_questions(folder, 1, 0)) == 1
    with pytest.raises(ConfigError, match="1 questions of split 'test' have a desired row, expected 2"):
        dataset_questions(folder, 2, 0)
    with pytest.raises(ConfigError, match="0 questions of split 'train'"):
        dataset_questions(folder, None, 0, "train")
    with pytest.raises(ConfigError, match="expected 0"):
        dataset_questions(folder, 0, 0)


def test_a_bad_row_is_named_and_not_left_out(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [replace(ROW, split="test")])
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"id": "x"}) + "\n")
    with pytest.raises(RecordError, match="line 2"):
        dataset_questions(folder, None, 0)
    with pytest.raises(RecordError, match="no such file"):
        dataset_questions(tmp_path / "none", None, 0)


@given(st.lists(st.sampled_from(["a", "b", "c", "rare"]), min_size=1, max_size=80), st.integers(0, 5))
@settings(max_examples=40)
def test_a_stratified_order_keeps_shares_at_any_length(names: list[str], seed: int) -> None:
    strata = [(name,) for name in names]
    order = stratified(strata, seed)
    assert sorted(order) == list(range(len(names)))
    assert order == stratified(strata, seed)
    whole, seen = Counter(names), Counter[str]()
    for count, index in enumerate(order, 1):
        seen[names[index]] += 1
        # A stratum's own count is off by less than one, the whole line's by less than one for each stratum.
        slack = 1 + len(whole) * max(whole.values()) / len(names)
        assert all(abs(seen[name] - whole[name] * count / len(names)) <= slack for name in whole)


# --- a model ---


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
