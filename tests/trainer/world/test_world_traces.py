"""Traces: the right ones in the exact form, the others wrong in a known way, the raters at a known rate."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch

from evlm.errors import MaskTextError
from evlm.plan.mask_codec import decode_mask, is_rectangle, mask_iou
from evlm.plan.trace import parse, render
from trainer.world.edits import OPERATIONS, Edit
from trainer.world.questions import CATEGORIES, Question, ask
from trainer.world.scene import CELLS, Scene, Thing
from trainer.world.traces import (
    FAULTS,
    RATER_ERRORS,
    Fault,
    describe,
    plan_of,
    rate,
    write_trace,
    write_undesired,
)

KINDS = list(product(CATEGORIES, OPERATIONS))


@cache
def questions(count: int = 6) -> tuple[Question, ...]:
    """Some of every kind."""
    return tuple(ask(random.Random(f"{c} {op} {i}"), "train", op, c) for c, op in KINDS for i in range(count))


def truth(question: Question) -> torch.Tensor | None:
    region = question.edit.region(64, question.frames)
    return None if region is None else torch.from_numpy(region)


def test_a_trace_in_text_is_read_back_as_it_was_without_repair() -> None:
    for i, question in enumerate(questions()):
        trace = write_trace(random.Random(i), question)
        assert parse(render(trace), repair=False) == trace
        for fault in FAULTS:
            wrong = write_undesired(random.Random(i), question, fault)
            assert parse(render(wrong), repair=False) == wrong


def test_the_plan_orders_the_edit_and_its_mask_fits_the_region() -> None:
    overlaps = []
    for question in questions():
        edit, plan, region = question.edit, plan_of(question.edit, question.frames), truth(question)
        assert (plan.instruction, plan.targets, plan.scope) == (edit.instruction, edit.targets, edit.scope)
        if region is None:
            assert plan.mask_text is None
            continue
        assert plan.mask_text is not None
        mask = decode_mask(plan.mask_text, 64, 64)
        if edit.roomy:
            assert is_rectangle(plan.mask_text) and mask_iou(mask, region) == 1
        else:
            overlaps.append(mask_iou(mask, region))
    assert min(overlaps) > 0.6 and sum(overlaps) / len(overlaps) > 0.85


def test_the_thinking_tells_what_the_references_show() -> None:
    for i, question in enumerate(questions()):
        trace = write_trace(random.Random(i), question)
        assert question.hint in trace.thinking
        told = trace.thinking.replace(" =", "").replace(" *", "").replace(" plain", "")
        assert all(f"{t.size} {t.label} {CELLS[t.cell]}" in told for t in question.edit.source.things)
        pictured = [n for n, ref in enumerate(question.refs, 1) if ref.scenes]
        assert all(f"reference {n} : " in trace.thinking for n in pictured)


def test_the_original_is_held_against_what_was_shown_and_said() -> None:
    things = tuple(
        Thing(shape, colour, texture, "small", cell)
        for cell, (shape, colour, texture) in enumerate(
            [("star", "red", "plain"), ("ring", "blue", "dotted"), ("star", "pink", "dotted")]
        )
    )
    words = describe(Scene(things), beside=things[2], spoken={"red", "ring", "left"})
    assert words == (
        "small red * plain star = top left , small blue dotted = ring * top , "
        "small pink = dotted = star = top right ; grey , clear"
    )


def test_one_intermediate_in_seven_slips_and_the_reflection_mends_it() -> None:
    slips, count = 0, 0
    for seed, question in product(range(4), questions()):
        trace = write_trace(random.Random(f"{seed} {count}"), question)
        assert trace.plan.instruction == question.edit.instruction
        count += 1
        if trace.intermediate != question.edit.instruction:
            slips += 1
            assert trace.reflection.endswith(f"so {question.edit.instruction}")
            assert question.hint in trace.reflection
        else:
            assert question.edit.instruction not in trace.reflection
    assert abs(slips / count - 0.15) < 0.04


def test_the_wording_varies() -> None:
    question = questions()[0]
    assert len({render(write_trace(random.Random(i), question)) for i in range(40)}) >= 6


def could_take(edit: Edit) -> bool:
    """Whether another thing of the scene could take the edit's value without looking like a third."""
    key = "colour" if edit.op == "recolour" else "texture"
    old = {t.look for t in edit.source.things}
    return any(
        replace(t, **{key: edit.value}).look not in old for t in edit.source.things if t is not edit.target
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_an_undesired_trace_is_wrong_in_the_way_it_says(fault: Fault) -> None:
    for i, question in enumerate(questions()):
        edit, right = question.edit, plan_of(question.edit, question.frames)
        wrong = write_undesired(random.Random(i), question, fault)
        desired = write_trace(random.Random(i), question)
        if fault == "too long":
            assert wrong.plan == right
            assert len(render(wrong)) > 1.8 * len(render(desired))
        elif fault == "malformed":
            assert not wrong.reflection and wrong.plan.instruction == right.instruction
            with pytest.raises(MaskTextError):
                decode_mask(wrong.plan.mask_text or "", 64, 64)
        elif fault == "mask off":
            assert wrong.plan.instruction == right.instruction and wrong.plan.mask_text is not None
            region = truth(question)
            if region is None:
                assert wrong.plan.scope == "local"  # of an edit of the whole picture
            else:
                assert mask_iou(decode_mask(wrong.plan.mask_text, 64, 64), region) < 0.35
        else:
            assert wrong.plan != right and wrong.plan.instruction != right.instruction
            assert wrong.plan.instruction.split()[0] == right.instruction.split()[0]  # the same kind of edit
            assert wrong.plan.scope == right.scope
            if fault == "ignores reference":
                assert "reference 1" not in wrong.thinking and "no reference is needed" in wrong.thinking
            elif edit.op in ("recolour", "retexture"):
                another = wrong.plan.targets != right.targets
                other_value = not wrong.plan.instruction.endswith(f" {edit.value}")
                if fault == "wrong attribute":
                    assert other_value and not another
                else:
                    assert (another and not other_value) or not could_take(edit)


def test_three_raters_err_at_their_known_rates_and_the_majority_labels() -> None:
    rng, count = random.Random(0), 12_000
    for desired in (True, False):
        ratings = [rate(rng, desired) for _ in range(count)]
        assert all(label == (sum(votes) >= 2) for label, votes in ratings)
        for rater, error in enumerate(RATER_ERRORS):
            assert abs(sum(votes[rater] != desired for _, votes in ratings) / count - error) < 0.012
        assert abs(sum(label != desired for label, _ in ratings) / count - 0.033) < 0.006
