"""A trace as one JSON object, and its way back into text while it arrives."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_texts import ANY, FILLED

from evlm.errors import TraceError
from evlm.plan.form import MOST_STEPS
from evlm.plan.mask_codec import decode_mask
from evlm.plan.trace import TraceStream, parse, render
from evlm.reason.json_form import SCHEMA, JsonReader

BOXES = st.none() | st.lists(st.integers(0, 1000), min_size=4, max_size=4)
OUTPUTS = st.builds(
    lambda *values: dict(zip(("instruction", "targets", "scope", "box"), values, strict=True)),
    FILLED,
    st.lists(ANY, max_size=4),
    st.sampled_from(["local", "global"]),
    BOXES,
)
ANSWERS = st.builds(
    lambda *values: dict(zip(("thinking", "intermediate", "reflection", "output"), values, strict=True)),
    ANY,
    ANY,
    ANY,
    st.lists(OUTPUTS, min_size=1, max_size=4).map(lambda steps: {"steps": steps}),
)
OUTPUT = {"instruction": "make the hat red", "targets": ["hat"], "scope": "local", "box": [10, 20, 300, 400]}
ANSWER = {"thinking": "a hat", "intermediate": "paint it", "reflection": "yes", "output": {"steps": [OUTPUT]}}


def with_steps(*steps: Any) -> str:
    return json.dumps({**ANSWER, "output": {"steps": steps}})


def read(text: str, sizes: list[int] | None = None, whole: bool = True) -> tuple[str, JsonReader]:
    """(all that was shown, the reader) of a text that arrives in pieces of these sizes, over and over."""
    reader, at, shown, turn = JsonReader(), 0, "", 0
    while at < len(text):
        size = max(1, sizes[turn % len(sizes)]) if sizes else len(text)
        shown += reader.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    return shown + reader.finish(whole), reader


def as_text(text: str) -> str:
    """As it comes back: halves of characters are no text, and white space around carries no meaning."""
    return "".join("\ufffd" if "\ud800" <= letter < "\ue000" else letter for letter in text).strip()


@settings(deadline=None, max_examples=30)
@given(
    ANSWERS, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans(), st.sampled_from([None, 1])
)
def test_any_answer_of_the_schema_is_the_exact_form(
    answer: dict[str, Any], sizes: list[int], ascii_only: bool, indent: int | None
) -> None:
    written = json.dumps(answer, ensure_ascii=ascii_only, indent=indent)
    if not ascii_only:  # bare halves of characters cannot be sent
        written = "".join("\ufffd" if "\ud800" <= letter < "\ue000" else letter for letter in written)
    shown, reader = read(written, sizes)
    assert reader.in_form and shown == reader.text
    first, *others = answer["output"]["steps"]
    if not as_text(first["instruction"]):
        return
    try:
        trace = parse(shown, repair=False)
    except TraceError as error:
        assert "refuses" in str(error), shown
        return
    for part in ("thinking", "intermediate", "reflection"):
        assert getattr(trace, part) == as_text(answer[part])
    meant = [first, *(each for each in others if as_text(each["instruction"]))]
    for step, output in zip(trace.plan.steps, meant, strict=True):
        assert step.instruction == as_text(output["instruction"]) and step.scope == output["scope"]
        labels = tuple(label for each in output["targets"] if (label := as_text(each)))
        assert step.targets == labels or (len(labels) == 1 and labels[0].lower() in ("none", "null", "-"))
        assert (step.mask_text is None) == (output["box"] is None or output["scope"] == "global")
    stream = TraceStream()
    heard = [event for each in shown for event in stream.feed(each)]
    assert "".join(each.text for each in heard if each.part == "thinking") == trace.thinking


@settings(deadline=None, max_examples=30)
@given(
    st.one_of(ANY, ANSWERS.map(json.dumps)), ANY, st.integers(0, 400), st.lists(st.integers(1, 9), min_size=1)
)
def test_any_text_passes_however_it_is_cut(text: str, other: str, cut: int, sizes: list[int]) -> None:
    """Nothing raises, nothing is lost, and how it arrives makes no difference."""
    mixed = text[:cut] + other + text[cut:]
    shown, reader = read(mixed, sizes)
    assert read(mixed)[1].text == reader.text
    assert reader.in_form or reader.text == mixed or "</" in mixed
    if reader.text != mixed:
        assert reader.text == shown


@pytest.mark.parametrize(
    "before",
    ["", " \n\t", "```json\n", "```\n", "<think>\nI {ponder}\n</think>\n\n", "it is red</think>"],
)
def test_thoughts_and_a_fence_may_stand_around_it(before: str) -> None:
    after = "\n```\n" if "`" in before else "\n"
    shown, reader = read(before + json.dumps(ANSWER, indent=2) + after, [3])
    assert reader.in_form
    trace = parse(shown)
    assert trace.plan.instruction == "make the hat red" and trace.plan.mask_text == "box 10 20 300 400 full"
    assert trace.thinking == "a hat"


@pytest.mark.parametrize(
    "text",
    [
        "<thinking>a</thinking>",
        "Sorry, no.",
        '{"instruction": "make the hat red", "targets": ["hat"], "scope": "local"}',
        '[{"bbox_2d": [1, 2, 3, 4], "label": "hat"}]',
        '{"thinking": 3}',
        '{"think ing": "a"}',
        "{",
        "",
        "   ",
        '{"thinking": "a", "output": {"instruction": "make the hat red"}, "reflection": "b"}',
        json.dumps({**ANSWER, "output": OUTPUT}),
        with_steps({**OUTPUT, "targets": [{"label": "hat", "bbox": [1, 2, 3, 4]}]}),
        with_steps({**OUTPUT, "box": [1, 2, 3]}),
        with_steps({**OUTPUT, "scope": "here"}),
        with_steps({**OUTPUT, "more": 1}),
        with_steps(OUTPUT, {**OUTPUT, "instruction": 3}),
        with_steps(OUTPUT, "and a dog"),
        with_steps(*[OUTPUT] * 5),
        json.dumps({**ANSWER, "output": {"steps": [OUTPUT], "more": 1}}),
        json.dumps(ANSWER) + json.dumps(ANSWER),
        json.dumps(ANSWER)[:-1],
    ],
)
def test_what_is_not_of_the_form_stays_as_it_came(text: str) -> None:
    shown, reader = read(text, [2])
    assert reader.text == text and not reader.in_form
    assert shown.endswith(text[-9:]), "nothing is left unheard"


def test_other_json_is_read_as_before() -> None:
    """One edit without steps, and steps that are not quite of the schema."""
    boxed = {**OUTPUT, "targets": [{"label": "cap", "bbox": [1, 2, 30, 40]}]}
    for text, count in ((json.dumps({**ANSWER, "output": boxed}), 1), (with_steps(boxed, OUTPUT), 2)):
        trace = parse(read(text)[1].text)
        assert trace.plan.steps[0].targets == ("cap",) and trace.thinking == "a hat"
        assert "JSON read as the plan" in trace.plan.repairs and len(trace.plan.steps) == count


def test_several_edits_are_the_lines_of_each() -> None:
    rain = {"instruction": "make it \ud83d rain\n", "targets": [], "scope": "global", "box": None}
    shown, reader = read(with_steps(OUTPUT, rain, {**rain, "instruction": " "}), [5])
    assert reader.in_form and shown.endswith(
        "instruction: make the hat red\ntargets: hat\nscope: local\nmask: box 10 20 300 400 full\n"
        "instruction: make it \ufffd rain\ntargets: none\nscope: global\n</output>"
    ), "an edit without words is none"
    assert len(parse(shown, repair=False).plan.steps) == 2


@pytest.mark.parametrize(
    ("box", "scope", "mask"),
    [
        (None, "local", None),
        ([10, 20, 300, 400], "global", None),
        ([300, 400, 10, 20], "local", "box 10 20 300 400 full"),
        ([0, 0, 1000, 1000], "local", "box 0 0 1000 1000 full"),
        ([10, 20, 3000, 400], "local", "box 10 20 3000 400 full"),
        ([5, 5, 5, 5], "local", "box 5 5 5 5 full"),
        ([-1, 2, 3, 4], "local", "box -1 2 3 4 full"),
    ],
)
def test_boxes(box: Any, scope: str, mask: str | None) -> None:
    text = with_steps({**OUTPUT, "box": box, "scope": scope})
    plan = parse(read(text)[0], repair=False).plan
    assert plan.mask_text == mask and plan.scope == scope
    if mask is not None and max(box) <= 1000 and min(box) >= 0 and len(set(box)) > 1:
        assert decode_mask(mask, 50, 50).any()


def test_an_answer_that_was_cut_off_is_a_trace_that_was_cut_off() -> None:
    text = json.dumps(ANSWER)
    for end in range(len(text) - 3):
        shown, reader = read(text[:end], [4], whole=False)
        assert reader.text == shown
        with pytest.raises(TraceError):
            parse(shown, finished=False)


def test_it_streams() -> None:
    """Each part is there as soon as its string is, and its first words before its last."""
    text = json.dumps({**ANSWER, "thinking": "one two three", "reflection": "four five"})
    reader = JsonReader()
    shown = reader.feed(text[: text.index("two")])
    assert shown == "<thinking>\none "
    shown += reader.feed(text[text.index("two") : text.index("five")])
    assert shown.endswith("<reflection>\nfour ")
    shown += reader.feed(text[text.index("five") : text.index("hat red")])
    assert shown.endswith("<output>\ninstruction: make the ")


def test_halves_of_a_character_in_labels_are_no_text() -> None:
    text = with_steps({**OUTPUT, "targets": ["\ud800 hat", "\U0001f642"]})
    assert parse(read(text)[0], repair=False).plan.targets == ("\ufffd hat", "\U0001f642")


def test_halves_of_a_character_meet_across_pieces() -> None:
    text = json.dumps({**ANSWER, "thinking": "\U0001f642 \ud83d x \udc00"})
    assert parse(read(text, [1])[0]).thinking == "\U0001f642 \ufffd x \ufffd"


@pytest.mark.parametrize(
    "piece",
    ["</think>{", '{"thinking":', " ", "\\", '"', "<", "\\ud83d", '{"thinking": "' + "\\u12", "[" * 50, "{,"],
)
@pytest.mark.parametrize("opening", ["", '{"thinking": "', json.dumps(ANSWER)[:-8]])
def test_hostile_text_takes_linear_time(piece: str, opening: str) -> None:
    seconds = []
    for count in (20_000, 80_000):
        text = opening + piece * count
        began = time.process_time()
        reader = JsonReader()
        for at in range(0, len(text), 1000):
            reader.feed(text[at : at + 1000])
        reader.finish(True)
        assert reader.text
        seconds.append(time.process_time() - began)
    assert seconds[1] < max(0.2, 12 * seconds[0])


def test_the_schema_is_strict_and_in_order() -> None:
    """OpenAI's strict form: all is required, nothing else may come; the model reasons before it plans."""
    assert list(SCHEMA["properties"]) == ["thinking", "intermediate", "reflection", "output"]
    output = SCHEMA["properties"]["output"]
    steps = output["properties"]["steps"]
    for each in (SCHEMA, output, steps["items"]):
        assert each["required"] == list(each["properties"]) and each["additionalProperties"] is False
    assert list(steps["items"]["properties"]) == ["instruction", "targets", "scope", "box"]
    assert (steps["minItems"], steps["maxItems"]) == (1, MOST_STEPS)


def test_text_is_as_the_form_writes_it_but_for_the_signs_of_tags() -> None:
    shown, _ = read(json.dumps(ANSWER))
    assert shown == render(parse(shown, repair=False))
