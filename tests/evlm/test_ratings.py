"""A rated edit as a row: the same rating is the same row, and its references say its category."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evlm.plan.trace import Plan, Trace
from evlm.ratings import merged, rated_row
from evlm.records import RowWriter, read_rows, row_data
from evlm.request import Reference

TRACE = Trace("a", "b", "c", Plan("make the car red", ("car",), None, "local"))


def test_the_same_rating_is_the_same_row_and_another_is_not() -> None:
    original, edited = torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3)
    row, pictures = rated_row(TRACE, original, edited, "red", True)
    assert (row, list(pictures)) == (lambda r, p: (r, list(p)))(
        *rated_row(TRACE, original, edited, "red", True)
    )
    assert len(pictures) == 2 and row.label and row.raters == (True,) and row.meta == {}
    bad = rated_row(TRACE, original, edited, "red", False, "why")[0]
    assert bad.id != row.id and bad.question == row.question and bad.meta == {"note": "why"}
    assert rated_row(TRACE, original, edited, "blue", True)[0].question != row.question


def test_the_id_of_a_rating_is_the_one_that_earlier_versions_gave() -> None:
    plan = Plan("make the car red", ("car",), None, "local", ("scope was missing: local",))
    row = rated_row(Trace("a", "b", "c", plan), torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3), "red", True)[
        0
    ]
    assert row.id == "rated-d012d5f2a60aafccf4e56d7c-2d2596841ad3d0170e6217f7"  # of 0.1.0
    assert "steps" not in row_data(row)


def test_a_rated_plan_of_several_steps_keeps_them(tmp_path: Path) -> None:
    steps = (Plan("make the car red", ("car",), "box 0 0 500 500 full"), Plan("make it rain", scope="global"))
    trace = Trace("a", "b", "c", Plan.of_steps(steps))
    picture = torch.zeros(1, 8, 8, 3)
    given = rated_row(trace, picture, picture, "p", True)
    RowWriter(tmp_path).append(*given)
    (row,) = read_rows(tmp_path)
    assert row == given[0] and row.trace() == trace
    other = Trace("a", "b", "c", Plan.of_steps([steps[0].as_one(mask_text="box 0 0 400 500 full"), steps[1]]))
    assert rated_row(other, picture, picture, "p", True)[0].id != row.id


@pytest.mark.parametrize(
    ("frames", "kinds", "category"),
    [(1, (), "text"), (1, ("text",), "text"), (1, ("image", "text"), "image+text"),
     (1, ("depth",), "image"), (2, ("video", "image"), "video->video"), (2, (), "text->video")],
)  # fmt: skip
def test_the_references_say_the_category(frames: int, kinds: tuple[str, ...], category: str) -> None:
    still = torch.zeros(1, 4, 4, 3)
    references = [
        Reference("text", text="x") if kind == "text" else Reference(kind, still)  # type: ignore[arg-type]
        for kind in kinds
    ]
    original = torch.zeros(frames, 4, 4, 3)
    assert rated_row(TRACE, original, original, "p", True, references=references)[0].category == category


def test_a_row_with_everything_is_written_and_read(tmp_path: Path) -> None:
    mask = torch.zeros(2, 8, 8)
    mask[0, :2], mask[1, 6:] = 1, 0.4  # the second frame's is below one half
    references = (Reference("image", torch.rand(1, 5, 7, 3), note="this"),)
    given = rated_row(
        TRACE, torch.rand(2, 8, 8, 3), torch.rand(2, 8, 8, 3), "p", False, "n", mask, references
    )
    RowWriter(tmp_path).append(*given)
    (row,) = read_rows(tmp_path)
    assert row == given[0] and row.true_mask(tmp_path).sum() == 16  # type: ignore[union-attr]
    assert row.request(tmp_path).references[0].note == "this"


def test_a_later_verdict_stands_in_place_of_the_earlier_one_and_a_mask_stays(tmp_path: Path) -> None:
    """(A3) Good and bad of one edit teach nothing, and a mask that comes later was lost."""
    picture, mask = torch.zeros(1, 8, 8, 3), torch.zeros(8, 8)
    mask[:4] = 1
    writer = RowWriter(tmp_path)

    def rate(good: bool, note: str = "", mask: torch.Tensor | None = None, prompt: str = "p") -> bool:
        row, pictures = rated_row(TRACE, picture, picture + 0.5, prompt, good, note, mask)
        there = list(read_rows(tmp_path)) if (tmp_path / "rows.jsonl").exists() else []
        new, gone = merged(row, there)
        if new is not None:
            writer.replace(gone, new, pictures)
        return new is not None

    assert rate(True, prompt="another question") and rate(True)
    other = (tmp_path / "rows.jsonl").read_bytes().splitlines()[0]
    assert not rate(True)
    assert rate(True, mask=mask) and not rate(True, mask=mask) and not rate(True)
    first, row = read_rows(tmp_path)
    assert row.label and row.true_mask(tmp_path).sum() == 32  # type: ignore[union-attr]
    assert rate(False, "no")
    first, row = read_rows(tmp_path)
    assert not row.label and row.meta == {"note": "no"} and row.raters == (False,)
    assert row.true_mask(tmp_path).sum() == 32  # type: ignore[union-attr]
    assert first.prompt == "another question"
    assert (tmp_path / "rows.jsonl").read_bytes().splitlines()[0] == other


def test_both_verdicts_of_an_older_file_give_way(tmp_path: Path) -> None:
    picture = torch.zeros(1, 8, 8, 3)
    for good in (True, False):
        RowWriter(tmp_path).append(*rated_row(TRACE, picture, picture, "p", good))
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"half": ')  # a writer that was killed
    row, pictures = rated_row(TRACE, picture, picture, "p", True)
    new, gone = merged(row, list(read_rows(tmp_path, on_problem=lambda error: None)))
    assert new == row and len(gone) == 2
    RowWriter(tmp_path).replace(gone, row, pictures)
    assert [each.label for each in read_rows(tmp_path, on_problem=lambda error: None)] == [True]
    assert b'{"half": \n' in (tmp_path / "rows.jsonl").read_bytes()
