"""Questions of the world and of datasets: drawn by their seed, stratified, with the right answer."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_rows import ROW, draw_pictures, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import save_picture
from evlm.plan.form import COMPOUND
from evlm.plan.trace import render
from evlm.records import Row
from trainer.evaluation.accuracy import judge
from trainer.evaluation.questions import dataset_questions, stratified, stratum, world_questions
from trainer.world.edits import MIX
from trainer.world.mix import Mix
from trainer.world.questions import CATEGORIES
from trainer.world.traces import write_trace


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
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    save_picture(tmp_path / "pictures" / "mask.png", half[None, ..., None].expand(1, 8, 8, 3))
    assert judge(questions[0], render(replace(rows[1], mask_text="box 0 0 500 1000 full").trace())).iou == 1.0


@pytest.mark.parametrize("mix", [Mix(doubles=1.0), Mix(conflicts=1.0), Mix(whatif=1.0), Mix(0.3, 0.3, 0.3)])
def test_a_mix_is_asked_as_it_is_learned(mix: Mix) -> None:
    """And what the teacher would answer is right."""
    questions = world_questions(6, 4, "validation", mix=mix)
    assert [each.id for each in questions] == [
        each.id for each in world_questions(6, 4, "validation", mix=mix)
    ]
    assert not {each.id for each in questions} & {each.id for each in world_questions(6, 4, "validation")}
    if mix.doubles == 1:
        assert all(len(each.instruction.split(COMPOUND)) == 2 for each in questions)
    for question in questions:
        assert question.request().original.shape[0] in (1, 4) and question.edit_type
        asked = question.request.args[0]  # type: ignore[attr-defined]
        text = render(write_trace(random.Random(1), asked))
        outcome = judge(question, text)
        assert outcome.exact and (outcome.iou is None or outcome.iou > 0.3)


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
