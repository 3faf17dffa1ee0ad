"""Whether a plan's place decides is kept where its trace is carried as text; other texts stay as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evlm.errors import TraceError
from evlm.plan.form import parse_exact
from evlm.plan.trace import Plan, Trace, parse, render, with_trust

PLAN = Plan("make the hat red", ("hat",), "box 0 0 500 500 full")
TRACE = Trace("a", "b", "c", PLAN)
BASE = replace(TRACE, plan=replace(PLAN, trust="base"))
TWO = Plan.of_steps([replace(PLAN, trust="base"), Plan("remove the dog", ("dog",))])


def test_base_comes_back_and_tuned_is_written_as_ever() -> None:
    text = with_trust(render(BASE), BASE.plan)
    assert text == render(TRACE) + "\ntrust: base" and render(BASE) == render(TRACE)
    assert with_trust(render(TRACE), PLAN) == render(TRACE)
    again = parse(text, repair=False)
    assert again == BASE and again.plan.trust == "base" and again.plan.repairs == ()
    assert parse(render(BASE)).plan.trust == "tuned", "absent: tuned"
    assert with_trust(text, BASE.plan) == text and with_trust(text, PLAN) == render(TRACE)


def test_it_is_of_all_steps() -> None:
    plan = parse(with_trust(render(replace(TRACE, plan=TWO)), TWO)).plan
    assert [step.trust for step in plan.steps] == ["base", "base"]


@pytest.mark.parametrize(
    "text",
    [
        "instruction: make it red\ntargets: hat\nscope: local",
        '{"instruction": "make it red", "targets": ["hat"], "scope": "local"}',
        "<think>a\ntrust: tuned\n</think><output>\ninstruction: make it red\ntargets: hat\nscope: local",
    ],
)
def test_any_text_can_say_it_and_it_is_no_repair(text: str) -> None:
    plain, said = parse(text).plan, parse(f"{text}\ntrust: base\n").plan
    assert (plain.trust, said.trust) == ("tuned", "base")
    assert said == plain and said.repairs == plain.repairs


def test_elsewhere_and_in_the_exact_form_it_is_no_field() -> None:
    with pytest.raises(TraceError):
        parse_exact(render(TRACE) + "\ntrust: base")
    inside = render(TRACE).replace("</output>", "trust: base\n</output>")
    with pytest.raises(TraceError):
        parse(inside, repair=False)
    many = render(TRACE) + "\ntrust: base" * 3_000
    assert parse(many).plan.trust == "base"
