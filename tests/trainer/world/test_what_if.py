"""Hypothetical questions: each rule by hand on small scenes; results are read, sources not."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evlm.errors import RecordError
from evlm.plan.trace import parse, render
from evlm.records import read_rows
from trainer.world.chain import KEEP, Chain
from trainer.world.cli import write_rows
from trainer.world.edits import move_to, random_move_to
from trainer.world.mix import Mix
from trainer.world.reader import edit_right
from trainer.world.rows import Recipe, edit_from_json, edit_to_json
from trainer.world.scene import Scene, Thing, random_scene
from trainer.world.traces import FAULTS, plan_of, write_trace, write_undesired
from trainer.world.whatif.ask import MORE, NULL_RULES, PLANNED, WORDS, ask_what_if
from trainer.world.whatif.question import WhatIf
from trainer.world.whatif.reader import outcome_right
from trainer.world.whatif.rules import RULES, SCENARIOS


def thing(cell: int, shape: str = "star", colour: str = "green", size: str = "small") -> Thing:
    return Thing(shape, colour, "plain", size, cell)


def orders(rule: str, *things: Thing, ground: str = "grey", weather: str = "clear") -> set[str]:
    """All that a rule says of a scene, whatever it draws."""
    scene = Scene(things, ground, weather)
    found = [RULES[rule](scene, random.Random(seed)) for seed in range(40)]
    return {each.edit.instruction if each is not None else "-" for each in found}


@cache
def asked(rule: str, split: str, null: bool = False, count: int = 6) -> tuple[WhatIf, ...]:
    rng = random.Random(f"{rule} {split} {null}")
    return tuple(ask_what_if(rng, split, rule, null) for _ in range(count))  # type: ignore[arg-type]


def test_what_falls_sinks_and_tips() -> None:
    assert orders("fall", thing(1)) == {"move the green star to the bottom"}
    assert orders("fall", thing(4)) == {"move the green star down"}
    assert orders("fall", thing(1), thing(4, "ring")) == {KEEP, "move the green ring down"}
    big = thing(0, "ring", size="large")
    assert orders("sink", big, thing(4)) == {"change the ground to sea ; then remove the green ring"}
    assert orders("sink", big, ground="sea") == orders("sink", thing(4)) == {"-"}
    tip = {"move the green star up ; then move the green ring down"}
    assert orders("balance", thing(4, "ring", size="large"), thing(5)) == tip
    assert orders("balance", thing(7, "ring", size="large"), thing(8)) == {KEEP}  # the bottom row has no room
    assert orders("balance", thing(3, size="large"), thing(5, "ring", size="large")) == {KEEP}


def test_what_time_does() -> None:
    assert orders("clock", thing(0), weather="snow") == {
        KEEP,
        "change the weather to night",
        "change the weather to clear",
    }
    assert orders("clock", thing(0), weather="night") == {KEEP, "change the weather to clear"}
    assert orders("fade", thing(0, colour="red")) == {"make the red star pink"}
    assert orders("fade", thing(0, colour="green")) == {KEEP}
    assert orders("fade", thing(0, colour="red"), thing(1, colour="pink")) == {"-", KEEP}
    moving = Scene((replace(thing(0), vx=0.5, vy=-0.25),))
    found = RULES["drift"](moving, random.Random(0))
    assert found is not None and (found.edit.result.things[0].dx, found.edit.result.things[0].dy) == (2, -1)
    assert orders("drift", thing(0)) == {"-"}


def test_what_a_cause_brings_about() -> None:
    assert orders("push", thing(4, "square")) == {"move the green square right", "move the green square left"}
    assert orders("push", thing(3, "circle")) == {"move the green circle to the right", KEEP}  # it rolls
    row = (thing(3, "square"), thing(4, "cross"))
    assert orders("push", *row) == {"move the green cross right", KEEP}  # the square passes it on
    assert orders("mix", thing(0, colour="red"), thing(1, "ring", "blue")) == {
        "make the green star purple".replace("green", "red"),
        "make the blue ring purple",
    }
    assert orders("mix", thing(0, colour="red"), thing(1, "ring", "pink")) == {"-"}
    tower = (thing(1, "ring"), thing(4, "heart"), thing(7, "cross"))
    both = "remove the green cross ; then move the green heart down ; then move the green ring down"
    assert orders("support", *tower) == {both, "remove the green heart ; then move the green ring down"}
    assert orders("support", thing(0), thing(8)) == {"-"}
    assert orders("flood", thing(0), weather="rain") == {"change the ground to sea"}
    assert orders("flood", thing(0), weather="rain", ground="sea") == {KEEP}
    assert orders("flood", thing(0)) == {"-"}


def test_what_a_story_goes_on_with() -> None:
    assert orders("march", thing(4)) == {"move the green star right", "move the green star left"}
    # in reading order, on to the next row
    assert orders("march", thing(2)) == {"move the green star to the left", "move the green star left"}
    found = RULES["cycle"](Scene((thing(0),)), random.Random(3))
    assert found is not None
    first = found.panels[0].things[0].colour
    assert found.edit.instruction == f"make the green star {first}" and len(set(found.panels)) == 2
    things = (thing(0, "ring"), thing(3, "heart"), thing(5, "cross"))
    assert orders("vanish", *things) == {"remove the green cross"}
    assert orders("day", thing(0)) == {"change the weather to night"}
    assert orders("day", thing(0), weather="night") == {"change the weather to clear"}


@pytest.mark.parametrize("rule", RULES)
def test_results_are_right_to_the_last_cell_and_sources_are_wrong(rule: str) -> None:
    for question in asked(rule, "train", count=3):
        before, after = question.edit.pictures(64)
        assert outcome_right(after[0], question) == (True, True), question.edit.instruction
        assert outcome_right(before[0], question) == (False, False), question.edit.instruction
        assert isinstance(question.edit, Chain)
        for step in question.edit.steps[:-1]:
            assert not edit_right(step.pictures()[1][0], question.edit)


@pytest.mark.parametrize("rule", NULL_RULES)
def test_of_a_null_the_source_is_right_and_a_change_wrong(rule: str) -> None:
    rng = random.Random(rule)
    for question in asked(rule, "test", null=True, count=3):
        before, after = question.edit.pictures(64)
        assert np.array_equal(before, after) and question.null
        assert question.edit.instruction == KEEP and question.edit.targets == ()
        assert outcome_right(before[0], question) == (True, True)
        moved = random_move_to(rng, question.edit.source)
        assert outcome_right(moved.pictures()[1][0], question) == (False, False)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_wordings_and_kinds_that_only_the_test_asks(split: str) -> None:
    questions = [q for rule in PLANNED for q in asked(rule, split, count=6)]
    assert all(question.edit.split == split for question in questions)
    assert any(question.unseen for question in questions) == (split == "test")
    assert any(question.held_out for question in questions) == (split == "test")


def test_training_has_many_wordings_and_none_of_the_tests() -> None:
    """The test's own sentence is new, its words are not: nothing else could teach them."""
    assert set(MORE) == set(WORDS)
    kept = {text for name in WORDS for text in (*WORDS[name][:2], *MORE[name])}
    for name, (first, _, unseen) in WORDS.items():
        gaps = {text.count("{}") for text in (*WORDS[name], *MORE[name])}
        assert gaps == {first.count("{}")} and unseen not in kept
    told = {word for text in kept for word in text.split()}
    assert not {word for wordings in WORDS.values() for word in wordings[2].split()} - told
    asked = {ask_what_if(random.Random(seed), "train", "flood").prompt for seed in range(60)}
    assert asked == {*WORDS["flood"][:2], *MORE["flood"]}


def test_scenarios_are_asked_alike_and_every_rule_of_them() -> None:
    rng = random.Random(8)
    questions = [ask_what_if(rng, "train") for _ in range(120)]
    counts = Counter(question.scenario for question in questions)
    assert set(counts) == set(SCENARIOS) and min(counts.values()) > 14
    assert {question.form for question in questions} == set(PLANNED)
    assert 3 < sum(question.null for question in questions) < 36
    for question in questions:
        assert len(question.refs) == (2 if question.scenario == "story" else 0)
        assert question.refs or question.category == "text"
    assert {name.split()[0] for name in WORDS} == set(RULES)
    with pytest.raises(ValueError, match="expected one of"):
        ask_what_if(rng, "train", "flight")
    with pytest.raises(ValueError, match="null"):
        ask_what_if(rng, "train", "vanish", null=True)


def test_traces_state_the_fact_and_undesired_ones_do_something_else() -> None:
    rng = random.Random(2)
    for rule in PLANNED:
        for question in asked(rule, "train", count=2):
            trace = write_trace(rng, question)
            assert parse(render(trace), repair=False) == trace and question.facts[0] in trace.thinking
            assert (
                trace.plan == plan_of(question.edit) and trace.plan.instruction == question.edit.instruction
            )
            for fault in FAULTS:
                wrong = write_undesired(rng, question, fault)
                assert (wrong.plan == trace.plan) == (fault == "too long")


def test_rows_of_causes_are_read_back(tmp_path: Path) -> None:
    recipe = Recipe(seed=4, size=32, mix=Mix(whatif=1.0))
    write_rows(tmp_path, recipe, 16)
    for row in read_rows(tmp_path):
        assert row.source == "whatif" and row.meta["rule"] in SCENARIOS[row.meta["scenario"]]
        edit = edit_from_json(json.loads(json.dumps(row.meta["edit"])))
        assert isinstance(edit, Chain) and row.meta["steps"] == [step.instruction for step in edit.steps]
        assert row.meta["null"] == (not edit.steps)
        if row.meta["fault"] is None:
            assert row.trace().plan == plan_of(edit, 1, 32)
            assert len(row.steps) == (len(edit.steps) if len(edit.steps) > 1 else 0)
    with pytest.raises(RecordError, match="leave it out"):
        Recipe(category="text", mix=Mix(whatif=0.5))


def test_a_move_to_a_named_cell_is_exact_and_reads_back() -> None:
    rng = random.Random(1)
    for _ in range(6):
        edit = random_move_to(rng, random_scene(rng))
        assert edit.target is not None and edit.outcome is not None and edit.outcome.look == edit.target.look
        before, after = edit.pictures()
        assert edit_right(after[0], edit) and not edit_right(before[0], edit)
        assert edit_from_json(json.loads(json.dumps(edit_to_json(edit)))) == edit
    one = move_to(Scene((thing(0),)), thing(0), 8)
    assert one.instruction == "move the green star to the bottom right" and one.value == "to the bottom right"


@pytest.mark.slow  # forty of each rule, held out: the generator's bar
@pytest.mark.parametrize("rule", RULES)
def test_the_bar_of_the_generator(rule: str) -> None:
    for question in asked(rule, "test", count=40):
        before, after = question.edit.pictures(64)
        if not question.null:
            assert outcome_right(after[0], question) == (True, True)
            assert not outcome_right(before[0], question).scene
