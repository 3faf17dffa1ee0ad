"""Rows of double questions: plans of two steps, each with its true mask; what cannot be mixed is said."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import load_mask
from evlm.plan.trace import parse, render
from evlm.reason.messages import SHORT
from evlm.records import read_rows
from trainer.config.recipe import Source
from trainer.learner.rows import WorldRows
from trainer.world.chain import Chain
from trainer.world.cli import write_rows
from trainer.world.doubles import ask_double
from trainer.world.mix import Mix
from trainer.world.rows import Recipe, edit_from_json, edit_to_json, question_at
from trainer.world.scene import Scene, Thing
from trainer.world.traces import CODEC, FAULTS, describe, plan_of, write_trace, write_undesired

DOUBLES = Recipe(seed=2, size=48, mix=Mix(doubles=1.0))


def test_a_dataset_of_doubles_reads_back_with_steps_and_their_masks(tmp_path: Path) -> None:
    write_rows(tmp_path, DOUBLES, 24)
    for row in read_rows(tmp_path):
        question = question_at(DOUBLES, int(row.question.rsplit("-", 1)[1]))
        edit = question.edit
        assert isinstance(edit, Chain) and row.edit_type == "double" and len(row.steps) == 2
        assert edit_from_json(json.loads(json.dumps(row.meta["edit"]))) == edit
        plan = row.trace().plan
        if row.meta["fault"] is None:
            assert plan == plan_of(edit, question.frames, 48) and plan.targets == edit.targets
        for step, said in zip(edit.steps, row.steps, strict=True):
            region = step.region(48, question.frames)
            assert region is not None
            assert torch.equal(load_mask(tmp_path / said["mask"])[0], torch.from_numpy(region).float())
        union = row.true_mask(tmp_path)
        whole = edit.region(48, question.frames)
        assert union is not None and whole is not None
        assert torch.equal(union[0], torch.from_numpy(whole).float())


def test_a_trace_of_two_steps_is_in_the_exact_form_and_a_fault_does_something_else() -> None:
    for seed in range(20):
        question = ask_double(random.Random(seed), "train")
        trace = write_trace(random.Random(seed), question)
        assert parse(render(trace), repair=False) == trace
        assert len(trace.plan.several) == 2 and question.hint in trace.thinking
        for fault in FAULTS:
            wrong = write_undesired(random.Random(seed), question, fault)
            if fault == "too long":
                assert wrong.plan == trace.plan and len(wrong.thinking) > 2 * len(trace.thinking)
            else:
                assert wrong.plan != trace.plan and len(wrong.plan.steps) == 2, fault
            if fault in ("wrong target", "wrong attribute", "ignores reference"):
                same = [a == b for a, b in zip(wrong.plan.steps, trace.plan.steps, strict=True)]
                assert same.count(False) == 1  # one of the two is done as it was asked


def test_the_second_picture_has_a_mark_of_its_own() -> None:
    things = (Thing("star", "red", "plain", "small", 0), Thing("ring", "blue", "dotted", "small", 1))
    other = Thing("ring", "red", "striped", "large", 5)
    assert describe(Scene(things), beside=things[0], also=other) == (
        "small red = + plain = star = top left , small blue dotted ring + top ; grey , clear"
    )


def test_a_recipe_mixes_doubles_in_its_share_and_keeps_the_others() -> None:
    plain, mixed = Recipe(seed=5), Recipe(seed=5, mix=Mix(0.25, 0.25))
    assert plain.name != mixed.name
    same = [question_at(plain, i) == question_at(mixed, i) for i in range(60)]
    assert 18 <= same.count(True) <= 42
    rows = WorldRows(Source(world=True, seed=5, doubles=0.5), 8, 0, True, SHORT, CODEC)
    answers = [example.answer for step in range(3) for example in rows.batch(step)]
    assert 4 <= sum(answer.count("instruction:") == 2 for answer in answers) <= 20


def test_what_cannot_be_mixed_is_said() -> None:
    with pytest.raises(RecordError, match="leave it out"):
        Recipe(op="move", mix=Mix(0.5))
    with pytest.raises(RecordError, match="cannot disagree"):
        Recipe(category="text", mix=Mix(conflicts=0.5))
    with pytest.raises(ConfigError, match="of the world"):
        Source(path="somewhere", doubles=0.1)
    edit = ask_double(random.Random(1), "train").edit
    data = edit_to_json(edit)
    for bad in (
        {**data, "steps": data["steps"][::-1]},
        {**data, "steps": [data]},
        {**data, "steps": data["steps"] * 3},
        {**data, "steps": 7},
        {**data, "op": None, "steps": [None]},
    ):
        with pytest.raises(RecordError, match="not the scene graph"):
            edit_from_json(bad)
