"""Double questions: two edits of different things; each clause has one reading, each step its truth."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
from world_oracle import solve

from evlm.plan.form import COMPOUND, MOST_STEPS
from trainer.world.chain import Chain, chain, onto
from trainer.world.doubles import ask_double, both
from trainer.world.edits import add, change_weather, move, recolour, remove, swap_thing
from trainer.world.question import CATEGORIES, Question
from trainer.world.reader import edit_right, scene_right
from trainer.world.render import render
from trainer.world.scene import SPLITS, Scene, Thing, composition_split, random_scene, scene_split

RED = Thing("circle", "red", "plain", "large", 0)
BLUE = Thing("star", "blue", "striped", "small", 4, 2, 1)
SCENE = Scene((RED, BLUE), "sand")


@cache
def asked(category: str, split: str = "train", count: int = 12) -> tuple[Question, ...]:
    rng = random.Random(f"{category} {split}")
    return tuple(ask_double(rng, split, category) for _ in range(count))  # type: ignore[arg-type]


def chain_of(question: Question) -> Chain:
    assert isinstance(question.edit, Chain)
    return question.edit


def readings(question: Question) -> list[str]:
    """What each clause orders: the n-th "this" of the prompt is the n-th reference."""
    refs, orders = list(question.refs), []
    for clause in question.prompt.split(" and "):
        shown = refs.pop(0) if "this" in clause.split() else None
        if shown is not None and not shown.scenes:
            orders.append(solve(question.edit.source, shown.text, ()))
        else:
            orders.append(solve(question.edit.source, clause, () if shown is None else (shown,)))
    assert not refs
    return orders


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_clause_has_the_answer_that_a_reader_of_the_rules_finds(category: str) -> None:
    for question in asked(category):
        steps = chain_of(question).steps
        assert readings(question) == [step.instruction for step in steps], question.prompt
        assert question.edit.instruction == COMPOUND.join(step.instruction for step in steps)
        assert question.edit.targets == tuple(label for step in steps for label in step.targets)
        kinds = [ref.kind for ref in question.refs]
        wanted = category.split("-")[0].split("+")
        assert question.category == category and set(kinds) <= set(wanted)
        assert ("text" in kinds) == (category.endswith("+text"))


@pytest.mark.parametrize("split", SPLITS)
def test_all_compositions_and_the_scene_belong_to_the_split(split: str) -> None:
    for question in asked("image", split):
        edit = chain_of(question)
        assert scene_split(edit.source) == split
        things = [t for step in edit.steps for t in (step.target, step.outcome) if t]
        assert {composition_split(t.look) for t in things} <= {"train", split}
        assert split == "train" or any(composition_split(t.look) == split for t in things)


@pytest.mark.parametrize("category", ["image", "image->video", "text"])
def test_both_results_are_read_and_half_a_chain_is_wrong(category: str) -> None:
    for question in asked(category):
        edit = chain_of(question)
        before, after = edit.pictures(64, question.frames)
        region = edit.region(64, question.frames)
        assert region is not None and np.array_equal(before[:, ~region], after[:, ~region])
        for frame in range(question.frames):
            assert edit_right(after[frame], edit, frame)
            assert not edit_right(before[frame], edit, frame)
            assert not edit_right(edit.steps[0].pictures(64, question.frames)[1][frame], edit, frame)


def test_two_edits_of_one_thing_or_one_place_are_no_double() -> None:
    here = Thing("ring", "pink", "plain", "small", 1)
    assert both(recolour(SCENE, RED, "green"), remove(SCENE, RED)) is None
    assert both(add(SCENE, here), move(SCENE, RED, "right")) is None  # one cell
    assert both(recolour(SCENE, BLUE, "green"), swap_thing(SCENE, RED, ("star", "green", "striped"))) is None
    assert (
        both(swap_thing(SCENE, RED, BLUE.look), remove(SCENE, BLUE)) is None
    )  # "remove the blue star": which?
    found = both(add(SCENE, here), remove(SCENE, BLUE))
    assert found is not None and found.result.things == (RED, here)


def test_a_chain_begins_where_the_last_step_ended() -> None:
    first, other = recolour(SCENE, RED, "green"), remove(SCENE, BLUE)
    with pytest.raises(ValueError, match="does not begin"):
        chain("double", SCENE, (first, other))
    step = first
    steps = [first]
    for colour in ("blue", "red", "green", "pink")[:MOST_STEPS]:
        assert step.outcome is not None
        step = recolour(step.result, step.outcome, colour)
        steps.append(step)
    assert len(chain("double", SCENE, steps[:4]).steps) == MOST_STEPS
    with pytest.raises(ValueError, match="at most 4"):
        chain("double", SCENE, steps)
    with pytest.raises(ValueError, match="cell is taken"):
        onto(move(SCENE, RED, "right"), add(SCENE, Thing("ring", "pink", "plain", "small", 1)).result)
    with pytest.raises(ValueError, match="has no red circle"):
        onto(recolour(SCENE, RED, "green"), remove(SCENE, RED).result)
    with pytest.raises(ValueError, match="no edit of one thing"):
        onto(change_weather(SCENE, "rain"), SCENE)


def test_no_step_leaves_the_picture_and_a_whole_step_takes_it_all() -> None:
    kept = chain("double", SCENE, ())
    assert kept.instruction == "keep the picture as it is" and kept.targets == () and kept.region() is None
    before, after = kept.pictures()
    assert np.array_equal(before, after) and edit_right(after[0], kept)
    assert not edit_right(render(remove(SCENE, RED).result), kept)
    rain = change_weather(SCENE, "rain")
    wet = chain("double", SCENE, (rain, onto(remove(SCENE, RED), rain.result)))
    assert wet.scope == "global" and wet.region() is None
    assert edit_right(wet.pictures()[1][0], wet) and not edit_right(wet.pictures()[0][0], wet)


def test_a_whole_scene_is_read_to_its_last_free_cell() -> None:
    assert scene_right(render(SCENE), SCENE)
    rng = random.Random(7)
    for _ in range(8):
        scene = random_scene(rng, sign=rng.choice((None, "green")))
        assert scene_right(render(scene), scene)
    for other in (
        remove(SCENE, RED).result,
        change_weather(SCENE, "fog").result,
        add(SCENE, Thing("ring", "pink", "plain", "small", 8, 2, 2)).result,
    ):
        assert not scene_right(render(other), SCENE)
