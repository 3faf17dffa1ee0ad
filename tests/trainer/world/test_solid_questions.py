"""Questions about stills of solids: exact, of their split, in the plan's grammar, without a look into what is
held out."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from evlm.plan.mask_codec import decode_mask
from evlm.plan.trace import parse, render
from trainer.world.raytrace import SUPER, still, view
from trainer.world.rows import to_request
from trainer.world.solid import solid_scene_split, solid_split
from trainer.world.solid_edits import OPERATIONS
from trainer.world.solid_questions import CATEGORIES, ask_solid
from trainer.world.solid_stills import (
    HELD,
    LEAST,
    Stand,
    can_be_read,
    draw_still,
    random_scene,
    random_stand,
    seen,
)
from trainer.world.solid_traces import plan_of, write_solid_trace
from trainer.world.words import all_words


def test_a_still_is_the_views_picture_and_a_trainings_is_near_it() -> None:
    scene, stand = random_scene(random.Random(3), "train"), Stand(1.0, 0.4)
    exact = view(scene, stand.camera(64))
    picture, coverage = still(scene, stand.camera(64))
    assert np.array_equal(picture, exact.picture) and np.array_equal(coverage, exact.coverage)
    rough, shares = seen(scene, stand)
    assert set(np.unique(shares)) <= {0, 0.25, 0.5, 0.75, 1}
    assert np.abs(rough.astype(float) - picture).mean() < 2 and shares.shape == coverage.shape


@pytest.mark.parametrize("op", OPERATIONS)
def test_an_edit_of_a_still_is_of_its_split_and_changes_its_region_alone(op: str) -> None:
    rng = random.Random(op)
    for split in ("train", "test"):
        drawn = draw_still(rng, op, split, samples=2)
        before, after = drawn.pictures()
        region = drawn.region()
        looks = {solid_split(s.look) for s in (drawn.target, drawn.outcome) if s is not None}
        assert drawn.split == split == solid_scene_split(drawn.source) and looks <= {"train", split}
        assert (HELD[0] <= drawn.stand.elevation <= HELD[1]) == (split == "test")
        assert not np.array_equal(before, after) and before.shape == (1, 64, 64, 3)
        if region is None:
            assert op in ("weather", "ground", "sky")
        else:
            assert np.array_equal(before[0][~region], after[0][~region]) and region.sum() >= LEAST / 2
        wrong = replace(drawn, edit=replace(drawn.edit, result=drawn.source))  # nothing has changed
        assert not (split == "test" and can_be_read(wrong))


def test_most_edits_can_be_read_from_a_single_still() -> None:
    rng = random.Random(8)
    drawn = [draw_still(rng, op, "test") for op in ("recolour", "remove", "add")]
    assert {each.samples for each in drawn} == {SUPER} and sum(can_be_read(each) for each in drawn) >= 2


def test_a_training_sees_no_elevation_that_is_held_out() -> None:
    rng = random.Random(0)
    heights = [random_stand(rng, "train").elevation for _ in range(400)]
    assert not any(HELD[0] < height < HELD[1] for height in heights)
    assert min(heights) < 0.4 and max(heights) > 0.7


@pytest.mark.parametrize("category", CATEGORIES)
def test_traces_parse_to_the_edit_and_hold_every_solid(category: str) -> None:
    rng, known = random.Random(category), set(all_words())
    for op in OPERATIONS:
        asked = ask_solid(rng, "train", op, category)
        trace = write_solid_trace(rng, asked)
        plan = parse(render(trace), repair=False).plan
        assert plan == plan_of(asked.edit) and plan.instruction == asked.edit.instruction
        assert all(solid.shape in trace.thinking for solid in asked.edit.source.solids)
        assert f"{asked.edit.source.sky} sky" in trace.thinking
        if plan.mask_text is not None:
            mask, region = decode_mask(plan.mask_text, 64, 64) > 0, torch.from_numpy(asked.edit.region())
            assert float((mask & region).sum() / (mask | region).sum()) > 0.6
        assert set(plan.instruction.split()) <= known
        assert asked.k >= 1 and (category == "text") == (not any(ref.scene for ref in asked.refs))
        request = to_request(asked, 32)
        assert request.original.shape == (1, 32, 32, 3) and len(request.references) == len(asked.refs)
        assert len(asked.prompt.split()) <= 4


def test_a_question_is_a_function_of_its_seed() -> None:
    one, again = (ask_solid(random.Random(5), "train") for _ in range(2))
    assert one == again and one != ask_solid(random.Random(6), "train")
    assert write_solid_trace(random.Random(1), one) == write_solid_trace(random.Random(1), again)
    moved = replace(one.edit, stand=Stand(0.1, 0.7))
    assert not np.array_equal(moved.pictures()[0], one.edit.pictures()[0])
