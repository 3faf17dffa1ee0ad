"""Plans of several edits: how they are written and read, mended, and what they say together."""

from __future__ import annotations

import json

import pytest
import torch

from evlm.errors import TraceError
from evlm.plan import Plan, Trace, parse, plan_from_json, plan_to_json, render
from evlm.plan.step_masks import plan_mask, plan_mask_iou

HAT = Plan("make the hat blue", ("hat",), "box 0 0 500 500 full")
COAT = Plan("make the coat green", ("coat", "belt"), "box 500 500 1000 1000 full")
RAIN = Plan("make it rain", (), None, "global")
BOTH = Plan.of_steps([HAT, COAT])
TEXT = """<thinking>

</thinking>
<intermediate>

</intermediate>
<reflection>

</reflection>
<output>
instruction: make the hat blue
targets: hat
scope: local
mask: box 0 0 500 500 full
instruction: make the coat green
targets: coat; belt
scope: local
mask: box 500 500 1000 1000 full
</output>"""
OUTPUT = TEXT[TEXT.index("instruction") : TEXT.index("</output>")]


def test_the_steps_stand_one_behind_the_other():
    assert render(Trace("", "", "", BOTH)) == TEXT
    assert parse(TEXT, repair=False).plan.steps == (HAT, COAT)


def test_a_plan_of_one_is_its_own_step():
    assert HAT.steps == (HAT,) and not HAT.several
    assert Plan.of_steps([HAT]) == HAT


def test_together_they_are_one_sentence_without_a_mask():
    assert BOTH.instruction == "make the hat blue ; then make the coat green"
    assert (BOTH.targets, BOTH.mask_text, BOTH.scope) == (("hat", "coat", "belt"), None, "local")
    assert Plan.of_steps([HAT, RAIN]).scope == "global"
    assert BOTH.as_one(instruction="make all blue").steps[0].targets == ("hat", "coat", "belt")


def test_steps_have_the_trust_of_their_plan():
    base = Plan("a", trust="base")
    assert {step.trust for step in Plan.of_steps([base, RAIN]).steps} == {"base"}
    assert {step.trust for step in plan_from_json(plan_to_json(Plan.of_steps([base, RAIN]))).steps} == {
        "base"
    }


def test_a_plan_changes_nothing_where_no_step_does():
    nothing = Plan("no change needed", scope="global")
    assert Plan.of_steps([nothing, nothing]).changes_nothing
    assert not Plan.of_steps([nothing, HAT]).changes_nothing


@pytest.mark.parametrize("steps", [[], [HAT] * 5, [BOTH, HAT]])
def test_other_numbers_of_steps_and_steps_of_steps_are_refused(steps):
    with pytest.raises(TraceError, match="step"):
        Plan.of_steps(steps)


def test_a_plan_that_speaks_for_other_steps_is_refused():
    with pytest.raises(TraceError, match="something else"):
        Plan("make the hat blue", ("hat",), several=(HAT, COAT))


def test_the_exact_form_has_at_most_four():
    text = TEXT.replace("</output>", OUTPUT * 2 + "</output>")
    with pytest.raises(TraceError, match="at most 4 steps"):
        parse(text, repair=False)


def test_the_exact_form_begins_no_step_before_the_last_is_whole():
    text = TEXT.replace("scope: local\nmask: box 0 0 500 500 full\n", "")
    with pytest.raises(TraceError, match="once each"):
        parse(text, repair=False)


def test_an_older_version_reads_the_json_as_one_edit():
    data = json.loads(plan_to_json(BOTH))
    del data["steps"]
    assert plan_from_json(json.dumps(data)) == BOTH.as_one()


# --- what untuned models write ---


@pytest.mark.parametrize(
    "text",
    [
        OUTPUT,
        f"**Plan**\n{OUTPUT.replace('instruction', '- Instruction')}",
        "Step 1\n" + OUTPUT.replace("instruction: make the coat", "Step 2\ninstruction: make the coat"),
        json.dumps({"steps": [json.loads(plan_to_json(step)) for step in BOTH.steps]}),
        json.dumps([json.loads(plan_to_json(step)) for step in BOTH.steps]),
        json.dumps({"thinking": "x", "output": {"edits": [json.loads(plan_to_json(s)) for s in BOTH.steps]}}),
    ],
)
def test_several_steps_in_other_forms(text):
    plan = parse(text).plan
    assert plan.steps == (HAT, COAT)
    assert plan.repairs


def test_what_is_told_again_is_no_second_step():
    again = OUTPUT[: OUTPUT.index("instruction: make the coat")].replace("blue", "a deep blue")
    plan = parse(OUTPUT + again).plan
    assert plan.steps == (HAT, COAT)
    assert "a step that came twice: the first one counts" in plan.repairs


def test_a_further_instruction_without_a_target_is_no_step():
    plan = parse(OUTPUT + "instruction: enjoy your new picture\n").plan
    assert plan.steps == (HAT, COAT)
    assert "a further instruction without a target left out" in plan.repairs


def test_more_than_four_steps_are_cut():
    more = [Plan(f"make thing {n} blue", (f"thing {n}",)) for n in range(6)]
    lines = "".join(f"instruction: {p.instruction}\ntargets: {p.targets[0]}\nscope: local\n" for p in more)
    for text in (
        lines,
        json.dumps([{"instruction": p.instruction, "targets": list(p.targets)} for p in more]),
    ):
        plan = parse(text).plan
        assert plan.steps == tuple(more[:4])
        assert "more than 4 steps: the first ones count" in plan.repairs


def test_an_answer_that_is_cut_off_in_its_second_step_is_no_plan():
    cut = TEXT[: TEXT.index("; belt")]
    with pytest.raises(TraceError, match="cut off"):
        parse(cut, finished=False)


# --- masks ---


def test_the_steps_masks_are_one():
    mask = plan_mask(BOTH, 4, 4)
    expected = torch.zeros(4, 4)
    expected[:2, :2] = expected[2:, 2:] = 1
    assert torch.equal(mask, expected)
    assert plan_mask_iou(BOTH, expected[None]) == 1.0
    assert plan_mask_iou(Plan.of_steps([HAT, RAIN]), expected) == 0.5
    assert plan_mask(RAIN, 4, 4) is None and plan_mask_iou(Plan.of_steps([RAIN, RAIN]), expected) == 0.0
    assert plan_mask_iou(Plan.of_steps([HAT, Plan("x", ("y",), "box nonsense")]), expected) == 0.0
    assert plan_mask_iou(None, expected) == 0.0
