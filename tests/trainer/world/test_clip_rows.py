"""Rows of clips: what is written is what the world draws, and the reader judges it from the row alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evlm.errors import RecordError
from evlm.plan.mask_codec import mask_iou
from evlm.records import load_paths, read_rows, row_data
from trainer.__main__ import main
from trainer.world.clip_reader import all_right, frames_right
from trainer.world.clip_rows import clip_at, clip_of, clip_rows, mask_of_runs, runs
from trainer.world.render import silhouette
from trainer.world.rows import Recipe
from trainer.world.traces import CODEC


@settings(max_examples=30, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_runs_give_back_their_mask(mask: np.ndarray) -> None:
    lengths = runs(mask)
    assert np.array_equal(mask_of_runs(lengths, *mask.shape), mask)
    assert all(n > 0 for n in lengths[1:])


def test_runs_that_do_not_fill_a_mask_are_refused() -> None:
    assert runs(np.array([[False, True], [True, False]])) == [1, 2, 1] and runs(np.ones((2, 2), bool)) == [
        0,
        4,
    ]
    with pytest.raises(RecordError, match="runs of 5 pixels for a mask of 2 x 2"):
        mask_of_runs([2, 3], 2, 2)
    with pytest.raises(RecordError, match="whole numbers"):
        mask_of_runs([5, -1], 2, 2)


def test_rows_on_disk_are_the_clips_and_are_judged_from_the_row(tmp_path: Path) -> None:
    command = ["world", str(tmp_path), "--clips", "4", "--split", "test", "--seed", "3", "--size", "48"]
    assert main(command) == 0
    read = list(read_rows(tmp_path))
    assert len(read) == 4 and main(command) == 0 and len(list(read_rows(tmp_path))) == 4
    recipe = Recipe(3, "test", 48)
    wanted = [row for row, _ in clip_rows(recipe, 0, 4)]
    assert [json.dumps(row_data(row)) for row in read] == [json.dumps(row_data(row)) for row in wanted]
    for row in read:
        assert row.split == "test" and row.fps == 24 and len(row.original) == len(row.edited) == 16
        request = row.request(tmp_path)
        assert request.original.shape == (16, 48, 48, 3)
        clip = clip_of(row)
        before, _ = clip.pictures(48)
        assert torch.equal(request.original, torch.from_numpy(before).float() / 255)
        edited = load_paths(tmp_path, row.edited)
        assert all_right(edited.numpy(), clip) and True not in frames_right(request.original.numpy(), clip)
        regions = clip.regions(48)
        if regions is not None:
            kept = [mask_of_runs(each, *row.meta["masks"]["size"]) for each in row.meta["masks"]["region"]]
            assert np.array_equal(np.stack(kept), regions)
        if clip.edit.target is not None:
            seen = [mask_of_runs(each, 48, 48) for each in row.meta["masks"]["visible"]]
            assert np.array_equal(np.stack(seen), clip.film.masks(clip.edit.target, 48)[0])


def test_the_plan_is_that_of_the_first_frame() -> None:
    """The mask of a plan is the thing where it begins, not all places that it comes to."""
    recipe = replace(Recipe(5, "train"), op="recolour", undesired=0.0)
    moved = 0
    for number in range(6):
        row, pictures = next(clip_rows(recipe, number, number + 1))
        target = clip_of(row).edit.target
        assert target is not None and row.mask is not None and row.mask_text is not None
        first = torch.from_numpy(silhouette(target)).float()
        assert torch.equal(pictures[row.mask], first)
        assert mask_iou(CODEC.decode(row.mask_text, 64, 64), first) > 0.6
        moved += int(row.meta["masks"]["visible"][0] != row.meta["masks"]["visible"][15])
    assert moved >= 3


def test_splits_are_those_of_the_stills() -> None:
    for split in ("train", "validation", "test"):
        for number in range(5):
            question, clip = clip_at(Recipe(1, split), number)
            assert question.edit.split == split and clip.edit is question.edit


def test_undesired_rows_share_the_clip_and_pass_the_checks(tmp_path: Path) -> None:
    made = list(clip_rows(Recipe(2, "train", undesired=2.0), 0, 3))
    assert len({row.question for row, _ in made}) == 1 and len({row.id for row, _ in made}) == 3
    assert (
        made[0][0].meta["fault"] is None
        and made[1][0].meta["fault"]
        and made[1][0].original == made[0][0].original
    )


def test_a_damaged_clip_is_refused_and_named() -> None:
    row, _ = next(clip_rows(Recipe(2, "train"), 0, 1))
    clip = row.meta["clip"]
    for broken in (
        {**clip, "frames": 10**9},
        {**clip, "paths": clip["paths"][1:]},
        {**clip, "cut": 3},
        {**clip, "paths": [{**path, "kind": "teleport"} for path in clip["paths"]]},
        {key: value for key, value in clip.items() if key != "pan"},
        "nothing",
    ):
        with pytest.raises(RecordError, match="no clip of the world"):
            clip_of(replace(row, meta={**row.meta, "clip": broken}))


def test_flags_that_no_clip_can_follow_are_refused(tmp_path: Path) -> None:
    for flags in (["--doubles", "0.5"], ["--op", "move"], ["--category", "text"]):
        assert main(["world", str(tmp_path / "x"), "--clips", "2", *flags]) != 0
    assert not (tmp_path / "x").exists()
