"""The trace: what is rendered is parsed back; any text gives a trace or one TraceError; repairs are named."""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trace_texts import ANY, EXACT, EXAMPLE, NASTY, TRACES

from evlm.errors import TraceError
from evlm.plan.trace import Plan, Trace, TraceStream, parse, render


def test_the_exact_form_is_what_the_contract_says():
    assert render(EXAMPLE) == EXACT
    assert parse(EXACT, repair=False) == EXAMPLE
    whole = Trace("", "", "", Plan("make it snow", (), None, "global"))
    assert render(whole).endswith(
        "<output>\ninstruction: make it snow\ntargets: none\nscope: global\n</output>"
    )


@settings(max_examples=40, deadline=None)
@given(TRACES, st.booleans())
@example(Trace("<thinking>", "\\", "\\n", Plan("a\nb\\", ("none",), "", "global")), True)
@example(Trace("", "", "", Plan("x", ("NONE ", ";", "\\;"), "none")), False)
def test_parse_undoes_render(trace, repair):
    parsed = parse(render(trace), repair=repair)
    assert parsed == trace
    assert parsed.plan.repairs == ()


@settings(max_examples=40, deadline=None)
@given(ANY | st.text(max_size=300) | st.lists(NASTY, max_size=10).map("\n".join), st.booleans())
def test_parse_is_total_on_any_text(text, repair):
    check_total(text, repair)


def test_parse_is_total_on_mutated_traces():
    """Each mutation of a good trace is a trace or one TraceError; the exact form is never mended."""
    rng = random.Random(0)
    kept = 0
    for _ in range(1500):
        text = EXACT
        for _ in range(rng.randint(1, 4)):
            text = mutate(text, rng)
        kept += check_total(text, True)
        check_total(text, False)
    assert kept > 1000  # most small damages are mended


def mutate(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((1, 1, 5, 30)))
    pieces = [
        "",
        text[start:end] * 2,
        text[start:end].upper(),
        "<",
        "\n",
        "</output>",
        "{",
        "```",
        "\\",
        ":",
        "\x00",
    ]
    return text[:start] + rng.choice(pieces) + text[end:]


def check_total(text: str, repair: bool) -> bool:
    try:
        trace = parse(text, repair=repair)
    except TraceError as error:
        assert 0 <= error.offset <= len(text)
        assert error.part and error.reason and error.reason in str(error)
        return False
    assert trace.plan.instruction
    assert parse(render(trace), repair=False) == trace
    if not repair:
        assert parse(text).plan.repairs == ()
    else:
        assert bool(trace.plan.repairs) != is_exact(text)  # whatever was not exact was mended, and is named
    return True


def is_exact(text: str) -> bool:
    try:
        parse(text, repair=False)
    except TraceError:
        return False
    return True


HOSTILE = [
    "<",
    "\\",
    "{",
    '{"a":',
    "<think",
    "<thinking>",
    "</output>",
    "```\n",
    "[",
    " ",
    "\n",
    "a: b\n",
    "#",
    "\\<",
]
HOSTILE += [
    "instruction:\n",
    "instruction: x\ny\n",
    "<output>{",
    "thinking\n",
    '{"instruction": "x"}',
    "targets: [",
    "'",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_parse_and_stream_are_linear_on_hostile_text(piece):
    text = piece * (160_000 // len(piece))
    began = time.process_time()
    check_total_once(text)
    stream = TraceStream()
    for start in range(0, len(text), 7):
        stream.feed(text[start : start + 7])
    assert time.process_time() - began < 5  # quadratic would take half a minute


def check_total_once(text: str) -> None:
    with contextlib.suppress(TraceError):
        parse(text)


@pytest.mark.parametrize("text", [None, b"<thinking>", 3, ["x"]])
def test_what_is_not_text_is_a_trace_error(text):
    with pytest.raises(TraceError, match="expected text"):
        parse(text)


@pytest.mark.parametrize(
    ("old", "new", "part", "reason"),
    [
        ("<thinking>", "", "thinking", "expected <thinking>, found </thinking>"),
        ("</reflection>\n", "", "reflection", "expected </reflection>, found <output>"),
        ("</output>", "", "output", "</output> is missing"),
        ("</output>", "</output> done", "trace", "text after"),
        ("<intermediate>", "so <intermediate>", "intermediate", "text before"),
        ("instruction: make the red circle blue\n", "", "instruction", "is missing"),
        ("make the red circle blue", "", "instruction", "empty"),
        ("scope: local", "scope: LOCAL", "scope", "expected 'local' or 'global', got 'LOCAL'"),
        ("scope: local\n", "", "scope", "is missing"),
        ("targets: red", "target: red", "output", "expected a line of"),
        ("scope: local\n", "scope: local\nscope: local\n", "scope", "once each"),
    ],
)
def test_strict_mode_says_what_was_wrong_and_where(old, new, part, reason):
    text = EXACT.replace(old, new, 1)
    with pytest.raises(TraceError, match=reason) as caught:
        parse(text, repair=False)
    assert caught.value.part == part
    assert 0 <= caught.value.offset <= len(text)


def test_the_offset_points_at_the_trouble():
    text = EXACT.replace("scope: local", "scope: here")
    with pytest.raises(TraceError) as caught:
        parse(text, repair=False)
    assert text[caught.value.offset :].startswith("scope: here")


def test_a_malformed_mask_stays_text():
    text = EXACT.replace("box 1 2 3 4 full", "box somewhere on the left")
    assert parse(text, repair=False).plan.mask_text == "box somewhere on the left"


JSON_PLAN = {
    "instruction": "make the red circle blue",
    "targets": ["red circle", "small star"],
    "scope": "local",
}


@pytest.mark.parametrize(
    ("text", "repair"),
    [
        (EXACT.replace("</thinking>\n", ""), "</thinking> was missing"),
        (EXACT.replace("<reflection>\n", ""), "<reflection> was missing"),
        (EXACT.replace("</output>", ""), "</output> was missing"),
        (EXACT.replace("output>", "OUTPUT >"), "tag spelling mended"),
        (EXACT.replace("thinking>", "think>"), "tag spelling mended"),
        ("```xml\n" + EXACT + "\n```", "code fence removed"),
        ("Sure! Here is my plan:\n" + EXACT, "text before the parts left out"),
        (EXACT + "\nLet me know!", "text after the parts left out"),
        (EXACT.replace("instruction:", "**Instruction:**"), "field spelling mended"),
        (EXACT.replace("scope: local", "Scope = Local edit"), "scope 'local edit' read as local"),
        (EXACT.replace("scope: local\n", ""), "scope was missing: local"),
        (EXACT.replace("scope: local\n", "").replace("targets:", "scope: local\ntargets:"),
         "order of the fields mended"),
        (EXACT.replace("red circle; small star", '["red circle", "small star"]') + ".",
         "list of targets mended"),
        (EXACT.replace("instruction: make the red circle blue", "instruction: make the\nred circle blue"),
         "instruction over several lines joined"),
        (EXACT[: EXACT.index("<output>")] + json.dumps(JSON_PLAN | {"mask": [1, 2, 3, 4]}),
         "four numbers read as a box"),
        (EXACT[: EXACT.index("instruction")] + "```json\n"
         + json.dumps(JSON_PLAN | {"mask": "box 1 2 3 4 full"}, indent=1) + "\n```\n</output>",
         "JSON read as the plan"),
        (EXACT + "\n" + EXACT, "<output> came twice: the last one counts"),
    ],
)  # fmt: skip
def test_repairs_give_the_same_trace_and_are_named(text, repair):
    with pytest.raises(TraceError):
        parse(text, repair=False)
    trace = parse(text)
    assert trace == EXAMPLE
    assert repair in trace.plan.repairs


def test_a_whole_trace_as_json():
    prose = {part: getattr(EXAMPLE, part) for part in ("thinking", "intermediate", "reflection")}
    for data in (
        prose | {"output": JSON_PLAN | {"mask": "box 1 2 3 4 full"}},
        {
            key.upper(): value
            for key, value in (prose | JSON_PLAN | {"mask_text": "box 1 2 3 4 full"}).items()
        },
    ):
        assert parse("Here you go: " + json.dumps(data)) == EXAMPLE


def test_headings_instead_of_tags():
    text = "## Thinking\nA star.\n\n**Output:**\nInstruction: remove the star\nTargets: star\n"
    trace = parse(text)
    assert (trace.thinking, trace.plan) == ("A star.", Plan("remove the star", ("star",)))
    assert {"headings read as tags", "<reflection> is missing: taken as empty"} <= set(trace.plan.repairs)


def test_fields_alone_are_a_plan():
    trace = parse("instruction: make it snow")
    assert trace.plan == Plan("make it snow", (), None, "global")
    assert "<output> was missing" in trace.plan.repairs


def test_a_missing_instruction_comes_from_the_intermediate_one():
    text = EXACT.replace("instruction: make the red circle blue\n", "")
    trace = parse(text)
    assert trace.plan.instruction == EXAMPLE.intermediate
    assert "instruction was missing: taken from <intermediate>" in trace.plan.repairs


@pytest.mark.parametrize(
    "text", ["", "   \n", "I cannot help with that.", "<output>\n</output>", "{}", "[1, 2]"]
)
def test_where_there_is_no_plan_there_is_an_error(text):
    with pytest.raises(TraceError):
        parse(text)


def test_a_trace_error_survives_a_process_border():
    error = pickle.loads(pickle.dumps(TraceError("output", 3, "gone")))
    assert (error.part, error.offset, error.reason, str(error)) == (
        "output",
        3,
        "gone",
        "output at character 3: gone",
    )
