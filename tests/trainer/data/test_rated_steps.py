"""A rated edit of several steps as a row: the place of each step goes through check and convert and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evlm.files.pictures import load_mask
from evlm.plan.trace import Plan, Trace
from evlm.ratings import rated_row
from evlm.records import RowWriter, read_rows
from trainer.__main__ import main
from trainer.data.convert import Conversion, convert
from trainer.data.files import Problem
from trainer.data.formats import FORMATS

STEPS = (
    Plan("make the hat red", ("hat",)),
    Plan("remove the dog", ("dog",)),
    Plan("make it snow", (), None, "global"),
)


def places() -> list[torch.Tensor | None]:
    """Of two frames each, one below the other; the last step's is the whole frame."""
    masks = torch.zeros(2, 2, 8, 8)
    masks[0, 0, :2], masks[0, 1, 1:3], masks[1, :, 5:] = 1, 0.7, 1
    return [*masks, None]


def rated(folder: Path) -> None:
    trace = Trace("a", "b", "c", Plan.of_steps(STEPS))
    frames = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    RowWriter(folder).append(*rated_row(trace, frames, frames.flip(1), "all", True, mask=places()))


def outlines(folder: Path) -> list[torch.Tensor | None]:
    (row,) = read_rows(folder)
    assert row.trace().plan == Plan.of_steps(STEPS) and row.mask is None, "one step takes the whole frame"
    paths = [step.get("mask") for step in row.steps]
    return [None if path is None else load_mask(folder / path)[0] for path in paths]


def test_each_step_keeps_the_union_of_its_frames(tmp_path: Path) -> None:
    rated(tmp_path)
    first, second, third = outlines(tmp_path)
    assert first is not None and second is not None and third is None
    assert [float(mask.sum()) for mask in (first, second)] == [24, 24]
    assert bool(first[:3].all()) and bool(second[5:].all())
    assert main(["data", "check", str(tmp_path)]) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_the_places_come_back_from_every_format(tmp_path: Path, form: str) -> None:
    rated(tmp_path / "rated")
    problems: list[Problem] = []
    there = Conversion("evlm", form, tmp_path / "rated", tmp_path / "there" / "rows.jsonl", copy=True)
    assert convert(there, problems.append)["rows"] == 1
    back = Conversion(form, "evlm", there.out, tmp_path / "back" / "rows.jsonl", copy=True)
    assert convert(back, problems.append)["rows"] == 1 and not problems
    for mine, again in zip(outlines(tmp_path / "rated"), outlines(tmp_path / "back"), strict=True):
        assert (mine is None and again is None) or torch.equal(mine, again)  # type: ignore[arg-type]
