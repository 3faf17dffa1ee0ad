"""Rows: what is written is what was asked, any part of a dataset is the same wherever it is made."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.errors import RecordError
from evlm.files.pictures import load_picture
from evlm.records import RowWriter, load_paths, read_rows
from trainer.__main__ import main
from trainer.world.cli import draw_questions, write_rows
from trainer.world.edits import OPERATIONS, Edit
from trainer.world.questions import CATEGORIES, ask
from trainer.world.rows import (
    UNDESIRED,
    Recipe,
    completion_row,
    edit_from_json,
    edit_to_json,
    pictures_of,
    place_of,
    question_at,
    rows,
    to_request,
)
from trainer.world.scene import SPLITS, scene_hash
from trainer.world.traces import FAULTS, plan_of


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_row_gives_back_its_question_from_the_dataset_folder(tmp_path: Path) -> None:
    recipe = Recipe(seed=4, size=32)
    write_rows(tmp_path, recipe, 60)
    written = list(read_rows(tmp_path))
    assert len(written) == 60 and {row.category for row in written} == set(CATEGORIES)
    for index, row in enumerate(written):
        number, completion = place_of(index, UNDESIRED)
        question = question_at(recipe, number)
        edit = question.edit
        assert (row.edit_type, row.category, row.prompt) == (edit.op, question.category, question.prompt)
        assert row.question.endswith(f"-{number:06d}") and row.id == f"{row.question}-{completion}"

        asked, read = to_request(question, 32), row.request(tmp_path)
        assert torch.equal(asked.original, read.original) and asked.prompt == read.prompt
        assert [(r.kind, r.text) for r in asked.references] == [(r.kind, r.text) for r in read.references]
        for a, b in zip(asked.references, read.references, strict=True):
            assert (a.frames is None and b.frames is None) or torch.equal(a.frames, b.frames)  # type: ignore[arg-type]

        after = torch.from_numpy(edit.pictures(32, question.frames)[1]).float() / 255
        assert torch.equal(load_paths(tmp_path, row.edited), after)
        mask, region = row.true_mask(tmp_path), edit.region(32, question.frames)
        assert (mask is None) == (region is None)
        if mask is not None and region is not None:
            assert torch.equal(mask[0], torch.from_numpy(region).float())

        assert edit_from_json(row.meta["edit"]) == edit and row.meta["scene"] == scene_hash(edit.source)
        assert (row.meta["k"], row.meta["form"]) == (question.k, question.form)
        assert (row.meta["fault"] is None) == (completion == 0)
        plan = row.trace().plan
        if completion == 0:
            assert plan == plan_of(edit, question.frames, 32)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_rows(tmp_path / name, Recipe(seed=seed, size=32), 20)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert not set(content(tmp_path / "a").values()) & {
        data for name, data in content(tmp_path / "c").items() if name == "rows.jsonl"
    }


def test_any_part_of_a_dataset_is_the_same_wherever_it_is_made() -> None:
    recipe = Recipe(seed=9, size=32)
    whole = [row for row, _ in rows(recipe, 0, 24)]
    for start, stop in ((0, 1), (5, 9), (6, 7), (17, 24)):
        assert [row for row, _ in rows(recipe, start, stop)] == whole[start:stop]
    for _, pictures in rows(recipe, 11, 13):
        assert all(p.min() >= 0 and p.max() <= 1 and p.shape[:2] == (32, 32) for p in pictures.values())


@pytest.mark.parametrize("split", SPLITS)
def test_splits_and_seeds_share_no_question_and_a_size_changes_no_question(split: Any) -> None:
    here = {scene_hash(question_at(Recipe(seed=1, split=split), i).edit.source) for i in range(12)}
    there = {scene_hash(question_at(Recipe(seed=2, split=split), i).edit.source) for i in range(12)}
    assert not here & there
    assert question_at(Recipe(split=split), 3) == question_at(Recipe(split=split, size=128, undesired=3), 3)


def test_raters_like_58_percent_of_the_rows_by_default() -> None:
    recipe, count = Recipe(seed=3, size=32), 1200
    places = [place_of(index, recipe.undesired) for index in range(count)]
    questions = [question_at(recipe, number) for number in range(places[-1][0] + 1)]
    rows = [completion_row(recipe, number, questions[number], completion) for number, completion in places]
    desired = sum(row.meta["fault"] is None for row in rows) / count
    assert desired == pytest.approx(1 / (1 + UNDESIRED), abs=0.002)
    assert sum(row.label for row in rows) / count == pytest.approx(0.58, abs=0.02)
    assert {row.meta["fault"] for row in rows} == {None, *FAULTS}
    assert all(row.label == (sum(row.raters) >= 2) for row in rows)
    assert len({row.id for row in rows}) == count


def test_a_question_has_each_fault_once_at_most() -> None:
    every = [row for row, _ in rows(Recipe(undesired=6, size=32), 0, 14)]
    assert [row.meta["fault"] for row in every].count(None) == 2
    assert {row.meta["fault"] for row in every[1:7]} == set(FAULTS)
    assert all(row.meta["fault"] is None for row, _ in rows(Recipe(undesired=0, size=32), 0, 10))


@given(st.integers(0, 10**9), st.floats(0, 6))
def test_rows_are_numbered_without_gaps(index: int, undesired: float) -> None:
    number, completion = place_of(index, undesired)
    following = place_of(index + 1, undesired)
    assert 0 <= completion <= 6
    assert following in ((number, completion + 1), (number + 1, 0))


@pytest.mark.parametrize("op", OPERATIONS)
def test_an_edit_is_built_again_from_its_json(op: str) -> None:
    for i, category in enumerate(CATEGORIES):
        edit = ask(random.Random(i), "train", op, category).edit
        again = edit_from_json(json.loads(json.dumps(edit_to_json(edit))))
        assert again == edit and again.instruction == edit.instruction


def some_edit() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        json.dumps(edit_to_json(ask(random.Random(1), "train", "replace", "image").edit))
    )
    return data


def mutants() -> st.SearchStrategy[tuple[list[Any], Any]]:
    """(path to a value, what to put there)."""
    paths: list[list[Any]] = []

    def walk(value: Any, path: list[Any]) -> None:
        paths.append(path)
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(inner, [*path, key])

    walk(some_edit(), [])
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({})
    )
    return st.tuples(
        st.sampled_from(paths[1:]), st.one_of(junk, st.just("remove"), st.just([{}]), st.just({"shape": []}))
    )


@settings(max_examples=40)
@given(mutants())
def test_a_damaged_scene_graph_is_an_edit_or_one_clear_error(mutant: tuple[list[Any], Any]) -> None:
    data = some_edit()
    inner = data
    path, value = mutant
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        assert isinstance(edit_from_json(data), Edit)
    except RecordError as error:
        assert "not the scene graph" in str(error)


@pytest.mark.parametrize("data", [None, [], {}, "edit", {"op": "add"}, {**some_edit(), "more": 1}])
def test_what_is_no_scene_graph_is_refused(data: Any) -> None:
    with pytest.raises(RecordError, match="not the scene graph of an edit"):
        edit_from_json(data)


def test_a_recipe_says_what_does_not_fit() -> None:
    for wrong, reason in (
        ({"split": "exam"}, "split 'exam': expected one of train"),
        ({"op": "melt"}, "op 'melt': expected one of recolour"),
        ({"category": "smell"}, "category 'smell'"),
        ({"undesired": 7}, "expected 0 to 6 rows"),
        ({"undesired": float("nan")}, "expected 0 to 6 rows"),
        ({"size": 8}, "expected 16 to 1024 pixels"),
    ):
        with pytest.raises(RecordError, match=reason):
            Recipe(**wrong)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="row -1"):
        place_of(-1, 0.7)


def test_recipes_of_other_pictures_never_meet_in_one_folder() -> None:
    base = Recipe()
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"split": "test"}, {"size": 32}, {"op": "add"}, {"category": "image->video"},
        {"category": "text"},
    ]  # fmt: skip
    others = [replace(base, **change) for change in changes]
    assert len({r.name for r in (base, *others)}) == 7
    question = question_at(others[4], 0)
    paths = list(pictures_of(others[4], 0, question))
    assert all(set(path) <= set("abcdefghijklmnopqrstuvwxyz0123456789-/.") for path in paths)


def test_the_command_writes_what_is_missing_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    flags = ["world", str(out), "--seed", "7", "--size", "32", "--rows"]
    assert main([*flags, "10"]) == 0
    first = content(out)
    assert main([*flags, "16", "--split", "train"]) == 0
    assert "6 rows written" in capsys.readouterr().out
    assert len(list(read_rows(out))) == 16
    later = content(out)
    assert later["rows.jsonl"].startswith(first.pop("rows.jsonl"))
    assert first.items() <= later.items()
    assert main([*flags, "16", "--split", "test", "--op", "remove", "--undesired", "0"]) == 0
    added = [row for row in read_rows(out) if row.split == "test"]
    assert len(added) == 16 and {row.edit_type for row in added} == {"remove"}


def test_the_command_draws_a_sheet(tmp_path: Path) -> None:
    assert main(["world", str(tmp_path / "d"), "--rows", "0", "--sheet"]) == 0
    assert load_picture(tmp_path / "d" / "sheet.png").shape[2] > 2000
    draw_questions(tmp_path / "look" / "at.png", Recipe(seed=1), count=3)
    assert load_picture(tmp_path / "look" / "at.png").shape[1] > 600


def test_the_command_refuses_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", str(tmp_path), "--undesired", "9"]) == 2
    assert "expected 0 to 6 rows" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["world", str(tmp_path), "--rows", "-3"])
    assert "expected 0 or more" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_dataset_is_not_added_to(tmp_path: Path) -> None:
    RowWriter(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"half a row"\n')
    with pytest.raises(RecordError, match="line 1"):
        write_rows(tmp_path, Recipe(size=32), 3)
    assert (tmp_path / "rows.jsonl").read_text() == '{"half a row"\n'
