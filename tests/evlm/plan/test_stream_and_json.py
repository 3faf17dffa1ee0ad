"""The trace while it is being written, and the plan as JSON."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trace_texts import ANY, PLANS, TRACES

from evlm.errors import TraceError
from evlm.plan.trace import Plan, TraceStream, plan_from_json, plan_to_json, render

# --- streaming ---


@settings(max_examples=40, deadline=None)
@given(TRACES, st.data())
def test_the_stream_gives_the_parts_however_the_text_is_cut(trace, data):
    text = render(trace)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    stream, parts = TraceStream(), {}
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        for part, piece in stream.feed(text[start:end]):
            assert piece
            parts[part] = parts.get(part, "") + piece
    for part in ("thinking", "intermediate", "reflection"):
        assert parts.get(part, "") == getattr(trace, part)
    assert parts["output"].startswith("instruction:") and "" not in parts
    assert stream.text == text
    assert stream.finish(repair=False) == trace


def test_the_stream_shows_text_at_once_and_holds_back_only_what_may_be_a_tag():
    stream = TraceStream()
    assert stream.feed("Hi <thinking>\nA sta") == [("", "Hi"), ("thinking", "A sta")]
    assert stream.feed("r <") == [("thinking", "r")]
    assert stream.feed("3 <") == [("thinking", " <3")]
    assert stream.feed("/thinking") == []
    assert stream.feed(">") == []
    assert stream.feed("<output>x") == [("output", "x")]
    with pytest.raises(TraceError):
        stream.finish(repair=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(ANY, max_size=10))
def test_feeding_anything_loses_no_letter_and_raises_nothing(pieces):
    stream = TraceStream()
    for piece in pieces:
        stream.feed(piece)
    assert stream.text == "".join(pieces)
    with contextlib.suppress(TraceError):
        stream.finish()


# --- the plan's own forms ---


@settings(max_examples=40, deadline=None)
@given(PLANS, st.lists(ANY, max_size=2))
def test_a_plan_survives_json(plan, repairs):
    noted = replace(plan, repairs=tuple(repairs))
    again = plan_from_json(plan_to_json(noted))
    assert again == noted and again.repairs == noted.repairs
    json.loads(plan_to_json(noted).encode())


def test_trust_is_written_only_where_an_older_version_would_not_assume_it():
    plan = Plan("make it red", ("hat",), "box 1 2 3 4 full")
    assert (
        "trust" not in json.loads(plan_to_json(plan)) and plan_from_json(plan_to_json(plan)).trust == "tuned"
    )
    base = Plan("make it red", ("hat",), "box 1 2 3 4 full", trust="base")
    assert plan_from_json(plan_to_json(base)).trust == "base"
    assert base == plan, "what is planned is the same"
    for trust in ("sure", None, 1, ["base"]):
        with pytest.raises(TraceError, match="expected 'tuned' or 'base'"):
            plan_from_json(json.dumps({"version": 1, "instruction": "x", "trust": trust}))


KEYS = ("version", "instruction", "targets", "scope", "mask", "repairs", "steps")


@settings(max_examples=40, deadline=None)
@given(
    ANY
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | ANY,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["version", *["instruction", "targets", "scope", "mask", "repairs", "steps"]]
                ),
                inner,
            )
        ),
        max_leaves=8,
    ).map(json.dumps)
)
@example("[" * 100_000)
@example('{"version": 1, "instruction": ' + "9" * 5000 + "}")
@example('{"version": 2, "instruction": "x"}')
@example('{"version": 1, "instruction": "x", "scope": ["local"]}')
def test_plan_from_json_is_total(text):
    try:
        assert plan_from_json(text).instruction
    except TraceError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((" \n",), "instruction"),
        ((None,), "instruction"),
        (("x", "one label"), "targets"),
        (("x", (1,)), "targets"),
        (("x", (), 5), "mask"),
        (("x", (), None, "everywhere"), "scope"),
        (("x", (), None, []), "scope"),
    ],
)
def test_a_plan_checks_its_values(arguments, part):
    with pytest.raises(TraceError) as caught:
        Plan(*arguments)
    assert caught.value.part == part
