"""Batches of the world's first rows: which of them a phase learns from, made once for all phases."""

from __future__ import annotations

import pytest

import trainer.learner.rows as learner_rows
from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import get_style
from trainer.config.recipe import Source
from trainer.learner.rows import WorldRows, open_rows
from trainer.world.rows import UNDESIRED, Recipe, rows

COUNT = 17


def batches(desired: bool) -> WorldRows:
    source = Source(world=True, seed=905, rows=COUNT)
    return WorldRows(source, 4, 0, desired, get_style("short"), get_codec("box-spans-8"))


def test_a_video_is_learned_as_it_is_asked() -> None:
    """With as many frames as the model's evlm.json allows."""
    style, codec = get_style("short"), get_codec("box-spans-8")
    opened = open_rows([Source(world=True)], 12, 0, True, style, codec, max_frames=2)
    frames = [len(clip.frames) for example in opened.batch(0) for clip in example.chat.videos]
    assert frames and set(frames) == {2}


def test_a_phase_of_desired_rows_learns_from_those_and_another_from_all() -> None:
    labels = [row.label for row, _ in rows(Recipe(905, undesired=UNDESIRED), 0, COUNT)]
    some, everyone = batches(True), batches(False)
    assert list(some.numbers) == [n for n, label in enumerate(labels) if label]
    assert some.count == sum(labels) < COUNT == everyone.count
    assert all(example.desired for step in range(3) for example in some.batch(step))
    assert {example.desired for step in range(5) for example in everyone.batch(step)} == {True, False}


def test_the_next_phase_does_not_make_every_row_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(batches(True).numbers)

    def never(*_: object) -> None:
        raise AssertionError("a row was made again")

    monkeypatch.setattr(learner_rows, "_world_row", never)
    assert list(batches(True).numbers) == before
    assert len(batches(False).numbers) == COUNT, "all of them: none needs to be looked at"


def test_an_epoch_is_put_into_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world, drawn = batches(False), []
    shuffle = learner_rows.random.Random.sample
    monkeypatch.setattr(learner_rows, "_world_row", lambda recipe, number: (number, None))
    monkeypatch.setattr(world, "_example", lambda row, question, step: row)
    monkeypatch.setattr(
        learner_rows.random.Random, "sample", lambda self, *of: drawn.append(1) or shuffle(self, *of)
    )
    steps = [world.batch(step) for step in range(9)]
    assert len(drawn) == 3 and sorted([each for step in steps for each in step][:COUNT]) == list(range(COUNT))
    assert world.batch(2) == steps[2], "a step says the same whatever came before it"
