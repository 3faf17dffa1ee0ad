"""Weaves: every one is told from every other by the reader; no word names one; splits hold all values."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from trainer.world.scene import TEXTURES
from trainer.world.words import all_words
from trainer.world.woven import (
    ANGLES,
    PERIODS,
    SECOND,
    WEAVES,
    WovenEdit,
    draw_woven,
    read_weave,
    render_woven,
    woven_right,
)


def drawn(count: int, split: str = "train") -> list[WovenEdit]:
    rng = random.Random(f"woven {split}")
    return [draw_woven(rng, split) for _ in range(count)]  # type: ignore[arg-type]


def test_seventy_two_of_them_are_split_by_a_latin_design() -> None:
    assert len(WEAVES) == len(set(WEAVES)) == 72
    counts = Counter(each.split for each in WEAVES)
    assert counts["test"] == counts["validation"] == 8
    train = [each for each in WEAVES if each.split == "train"]
    assert {each.angle for each in train} == set(ANGLES) and {each.period for each in train} == set(PERIODS)
    assert {each.second for each in train} == set(SECOND)
    for split in ("train", "validation", "test"):
        assert {each.split for each in drawn(20, split)} == {split}


def test_no_word_names_one() -> None:
    known = set(all_words())
    assert not known & {*SECOND, "woven", "weave"} and not set(TEXTURES) & set(SECOND)


@pytest.mark.parametrize("count", [8, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_results_are_read_and_sources_are_not(split: str, count: int) -> None:
    for edit in drawn(count, split):
        before, after = edit.pictures()
        assert woven_right(after[0], edit), edit
        assert woven_right(after[0] / 255.0, edit)
        assert read_weave(before[0], edit) is None
        outside = ~edit.region()
        assert (before[0][outside] == after[0][outside]).all()
        wrong = random.Random(1).choice([each for each in WEAVES if each != edit.weave])
        other = render_woven(edit.source, {edit.target.cell: wrong})
        assert read_weave(other, edit) == wrong


def test_a_noisy_picture_is_read_too() -> None:
    rng = np.random.default_rng(0)
    edits = drawn(24)
    noisy = [np.clip(e.pictures()[1][0] / 255.0 + rng.normal(0, 0.08, (64, 64, 3)), 0, 1) for e in edits]
    assert sum(woven_right(p, e) for p, e in zip(noisy, edits, strict=True)) >= 23


def test_the_reference_shares_neither_shape_nor_colour() -> None:
    for edit in drawn(30):
        (thing,) = edit.reference.things
        assert thing.shape != edit.target.shape and thing.colour != edit.target.colour
        assert edit.shown().shape == (1, 64, 64, 3)
    same = drawn(1)[0]
    others = [replace(same, weave=each).shown() for each in WEAVES[:5]]
    assert len({each.tobytes() for each in others}) == 5


def test_pictures_are_the_same_bytes_everywhere() -> None:
    import hashlib

    digest = hashlib.sha256(
        b"".join(edit.pictures()[1].tobytes() + edit.shown().tobytes() for edit in drawn(8))
    )
    assert digest.hexdigest()[:16] == GOLDEN


GOLDEN = "27a32edf9b5630e4"
