"""The exact reader: true results are right, sources are wrong, and a little noise changes nothing."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from trainer.world.edits import OPERATIONS, Edit, random_edit
from trainer.world.reader import LOOKS, edit_right, read_place, read_whole
from trainer.world.render import render
from trainer.world.scene import GROUNDS, STYLES, WEATHERS, random_scene


def edits(op: str, count: int, seed: int = 0, moving: bool = False) -> list[Edit]:
    rng = random.Random(f"{op} {seed}")
    read: list[Edit] = []
    while len(read) < count:
        sign = rng.choice((None, None, None, "green"))
        edit = random_edit(rng, op, random_scene(rng, sign=sign, moving=moving))
        if edit is not None:
            read.append(edit)
    return read


@pytest.mark.parametrize("count", [12, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", OPERATIONS)
def test_true_results_are_right_and_sources_are_wrong(op: str, count: int) -> None:
    for edit in edits(op, count):
        before, after = edit.pictures()
        assert edit_right(after[0], edit), edit.instruction
        assert not edit_right(before[0], edit), edit.instruction


@pytest.mark.parametrize("count", [6, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", OPERATIONS)
def test_noise_and_a_slight_blur_change_no_verdict(op: str, count: int) -> None:
    rng = np.random.default_rng(0)
    for edit in edits(op, count, seed=1):
        before, after = (p[0] / 255 for p in edit.pictures())
        noise = rng.normal(0, 0.03, after.shape)
        assert edit_right(np.clip(after + noise, 0, 1), edit)
        assert not edit_right(np.clip(before + noise, 0, 1), edit)


def test_moving_scenes_are_read_in_every_frame() -> None:
    for op in ("recolour", "replace", "remove", "weather"):
        for edit in edits(op, 5, moving=True):
            before, after = edit.pictures(frames=4)
            for frame in range(4):
                assert edit_right(after[frame], edit, frame)
                assert not edit_right(before[frame], edit, frame)


def test_every_thing_of_a_scene_is_read_at_any_size() -> None:
    rng = random.Random(5)
    for size in (48, 64, 128):
        for _ in range(4):
            scene = random_scene(rng)
            picture = render(scene, size)
            assert [read_place(picture, scene, t) for t in scene.things] == [t.look for t in scene.things]
            bare = render(replace(scene, things=()), size)
            assert all(read_place(bare, scene, t) is None for t in scene.things)


def test_another_look_in_the_place_is_wrong() -> None:
    """One wrong attribute is enough: what an editor does that misses by one."""
    rng = random.Random(6)
    for edit in edits("replace", 30, seed=2):
        assert edit.outcome is not None
        which = rng.randrange(3)
        options = sorted({look[which] for look in LOOKS} - {edit.outcome.look[which]})
        look = [*edit.outcome.look]
        look[which] = rng.choice(options)
        shape, colour, texture = look
        wrong = replace(edit.outcome, shape=shape, colour=colour, texture=texture)
        assert not edit_right(render(edit.result.swap(edit.outcome, wrong)), edit)


def test_whole_picture_values() -> None:
    scene = random_scene(random.Random(7), weather="clear")
    for what, values in (("weather", WEATHERS), ("ground", GROUNDS), ("style", STYLES)):
        for value in values:
            assert read_whole(render(replace(scene, **{what: value})), scene, what) == value


def test_what_cannot_be_read_says_so() -> None:
    scene = random_scene(random.Random(8))
    with pytest.raises(ValueError, match=r"expected \[S, S, 3\]"):
        read_whole(np.zeros((4, 64, 64, 3), np.uint8), scene, "weather")
    with pytest.raises(ValueError, match="cannot read 'mood'"):
        read_whole(render(scene), scene, "mood")
