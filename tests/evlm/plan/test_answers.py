"""What reasoners answer in the world: cut off, with drafts and thoughts, refusals (A1, A2, A7, A8)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_texts import DRAFT, EXACT, EXAMPLE, FIELDS, PLAN, PROSE, message, output, read, understand

from evlm.errors import TraceError
from evlm.plan.trace import Trace, TraceStream, parse

# --- cut off ---

CUT = [
    "<think>The user wants the hat changed. Possible output:\ninstruction: make the hat red? or maybe",
    f"<think>Let me draft it. {DRAFT} No, the hat",
    f"{PROSE}<output>\ninstruction: replace the red car with a",
    f"{PROSE}<output>\n{FIELDS}\nmask: box 120 80",
    f"{PROSE}<output>\n```json\n" + '{"instruction": "make the hat blue", "targets": ["ha',
    f"{PROSE}\ninstruction: make the hat blue\ntargets: ha",
    "## Thinking\nA hat.\n## Output\ninstruction: make the hat bl",
    f"<thinking>A draft: {DRAFT[DRAFT.index('<output>'):]} is wrong.</thinking>\n<output>\ninstruction: make",
]  # fmt: skip


@pytest.mark.parametrize("text", CUT)
def test_what_was_cut_off_inside_its_plan_is_an_error_that_says_so(text: str) -> None:
    """(A1)"""
    assert "cut off after 99 tokens; raise max_new_tokens" in message(text, finished=False)


@pytest.mark.parametrize("cut", range(10, len(EXACT), 7))
def test_no_beginning_of_an_answer_is_taken_for_the_answer(cut: int) -> None:
    """(A1)"""
    assert "max_new_tokens" in message(EXACT[:-cut], finished=False)


@pytest.mark.parametrize(
    "text",
    [
        f"{EXACT}\nLet me expl",
        f"{EXACT}\n<thinking>Once more: the ha",
        f"<think>hm</think>{output(FIELDS)} And n",
        f"{PROSE}<output>\n"
        + json.dumps({"instruction": "make the hat blue", "targets": ["hat"]})
        + "\nThis",
        f"{PROSE}\n{FIELDS}\nmask: box 1 2 3 4 full\nI hope th",
    ],
)
def test_a_plan_that_was_done_before_the_cut_is_taken(text: str) -> None:
    """(A1)"""
    assert understand(text, False).trace.plan.instruction.startswith("make ")


def test_half_an_output_is_no_plan_even_where_nobody_says_that_it_was_cut() -> None:
    """(A1)"""
    assert "stops inside <output>" in message(f"{PROSE}<output>\ninstruction: replace the red car with a")
    assert message("<think>Possible output:\ninstruction: make the hat red? or maybe")


# --- drafts and tags inside thoughts ---

PAIRS = [
    ("<think>", "</think>"),
    ("", "</think>"),
    ("<Think>\r\n", "\r\n</THINK>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|channel|>final<|message|>"),
]


@pytest.mark.parametrize(("begin", "end"), PAIRS)
@pytest.mark.parametrize("closed", [True, False])
def test_the_answer_behind_a_thought_wins_over_the_draft_in_it(begin: str, end: str, closed: bool) -> None:
    """(A2)"""
    text = f"{begin}First {DRAFT} No.{end}\n{PROSE}<output>\n{FIELDS}{'</output>' if closed else ''}"
    assert read(text) == Trace("a", "b", "c", PLAN)


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_tags_inside_a_thought_are_only_talked_about(begin: str, end: str) -> None:
    """(A8)"""
    text = f"{begin}I must write <thinking>, <intermediate>, <reflection> and <output>.{end}{output(FIELDS)}"
    assert read(text) == Trace("a", "b", "c", PLAN)


def test_a_draft_inside_the_thinking_part_loses_as_well() -> None:
    """(A2, A8)"""
    thinking = "I must write <intermediate>, then <output>instruction: draft</output> so."
    trace = read(f"<thinking>{thinking}</thinking>{PROSE[21:]}<output>\n{FIELDS}\n</output>")
    assert (trace.intermediate, trace.reflection, trace.plan) == ("b", "c", PLAN)
    assert trace.thinking == thinking
    assert read(f"{DRAFT}\n{PROSE}<output>\n{FIELDS}").plan == PLAN  # and without an end
    assert read(f"{output(FIELDS)}\n<output>\n").plan == PLAN


def test_a_thought_is_the_thinking_of_an_answer_without_one() -> None:
    """(A2)"""
    assert read(f"<think>The hat is red.</think>\n{FIELDS}").thinking == "The hat is red."
    assert read(f"The hat is red.</think><answer>\n{FIELDS}\n</answer>").plan == PLAN
    assert read(f"<think>{output(FIELDS)}</think>").plan == PLAN  # all of it was called a thought
    assert "no answer" in message("<think>instruction: make the hat red? or maybe</think>\n")


# --- refusals, and nothing to do ---

REFUSALS = [
    "I'm sorry, but I can't assist",
    "I\u2019m sorry, but I cannot help with that request.",
    "Sorry, I won't edit pictures of real people.",
    "I am unable to process this image.",
    "Unfortunately, this picture shows a person.",
    "As an AI model, I do not edit faces.",
    "**I cannot** comply.",
    "\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u534f\u52a9",
    "Es tut mir leid, dabei kann ich nicht helfen.",
    "Je suis d\u00e9sol\u00e9, je ne peux pas.",
]


@pytest.mark.parametrize("words", REFUSALS)
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "<think>They want the face changed.</think>\n{}",
        PROSE + "<output>\n{}\n</output>",
        PROSE + "<output>\ninstruction: {}\ntargets: none\nscope: global\n</output>",
        PROSE + "<output>\ninstruction: {}\ntargets: none\n</output>",
        '{{"instruction": "{}", "targets": []}}',
    ],
)
def test_a_refusal_is_an_error_that_quotes_it(words: str, around: str) -> None:
    """(A7)"""
    said = message(around.format(words))
    assert "the model refuses" in said and words.strip("*")[:20].rstrip("*") in said
    assert "the model refuses" in message(around.format(words), finished=True)


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("I don't like the sky: make it blue", True),
        ("Sorry, the sky is much too grey. Brighten it", True),
        ("Unfortunately somebody walks through the picture; remove him", True),
        ("I can't see the sky well, brighten it", True),
        ("Leider ist der Himmel viel zu grau, mach ihn blau", True),
        ("I'm sorry, but I can't assist", False),
        ("I'm sorry, but I can't help you with that request", False),
        ("As an AI model I do not make such pictures for anybody", False),
        ("Leider kann ich dabei heute gar nicht helfen", False),
        ("Sorry, no.", False),
        ("\u62b1\u6b49 , a b c d e f", False),
    ],
)
def test_what_a_person_may_have_written_is_told_from_a_refusal(text: str, edit: bool) -> None:
    """(D20)"""
    from evlm.plan.answers import is_refusal, may_be_an_edit

    assert is_refusal(text) and may_be_an_edit(text) is edit


@pytest.mark.parametrize("name", ["Edit", "prompt", "**Object**", "objects"])
def test_a_word_before_a_colon_is_no_field_alone(name: str) -> None:
    """(D21) It is a word of any text; beside another field, or inside <output>, it is one."""
    with pytest.raises(TraceError):
        parse(f"{name}: make the hat blue")
    assert parse(f"Instruction: make the hat blue\n{name}: hat").plan.instruction.startswith("make the hat")
    assert parse("Edit: make the hat blue\ntargets: hat").plan.targets == ("hat",)


def test_an_answer_without_a_plan_is_quoted() -> None:
    """(A7)"""
    assert "'The weather is nice.'" in message("The weather is nice.")


@pytest.mark.parametrize(
    ("instruction", "nothing"),
    [
        ("no change needed", True),
        ("No changes are needed.", True),
        ("No change needed: the hat is already red.", True),
        ("none", True),
        ("Keep the image as it is.", True),
        ("leave the picture unchanged", True),
        ("**no edit required**", True),
        ("No change is needed because the hat is red", True),
        ("No changes needed. The hat is already red.", True),
        ("Leave everything as it is, since nothing is wrong.", True),
        ("nothing, as it is fine", True),
        ("No changes needed. Everything looks good.", True),
        ("Keep the image as it is. It matches the request.", True),
        ("No edit is needed; the picture looks fine.", True),
        ("No changes are needed, the cat is black.", True),
        ("No changes required. The image is perfect.", True),
        ("Leave the image unchanged, thanks", True),
        ("No changes needed. It's perfect, and the cat is black. Thank you!", True),
        ("Keep everything the same, brighten the sky", False),
        ("Keep everything the same, the sky should be red", False),
        ("No edits needed: the sky is dull, brighten it", False),
        ("No edits needed: the sky is too dull", False),
        ("Leave the image unchanged, thanks! Brighten the sky", False),
        ("No edits needed. Brighten the sky", False),
        ("No edits needed: the sky, brighten it", False),
        ("no further changes; sharpen the sky that is already blue", False),
        ("Keep everything as it is. Paint the already blue sky red", False),
        ("keep the picture as it is, but make the hat blue", False),
        ("no change needed except for the hat", False),
        ("keep the hat as it is", False),
        ("make the hat blue", False),
        ("nothing but the hat stays", False),
    ],
)
def test_whether_an_instruction_asks_for_nothing(instruction: str, nothing: bool) -> None:
    """(A7)"""
    from evlm.segment.region import decide, plan_region

    for targets, scope in (("none", "global"), ("hat", "local"), ("none", "local")):
        plan = read(output(f"instruction: {instruction}\ntargets: {targets}\nscope: {scope}")).plan
        region = decide(plan, plan_region(plan, 8, 8), None, (1, 8, 8), 0.03)
        assert (region.mask is not None and not region.mask.any()) is nothing
        assert any("no change" in note for note in region.notes) is nothing


# --- streaming, and everything together ---


@settings(max_examples=30)
@given(st.sampled_from([pair for pair in PAIRS if pair[0]]), st.data())
def test_the_stream_shows_the_real_parts_however_the_text_is_cut(pair: tuple[str, str], data: Any) -> None:
    """(A8)"""
    text = f"{pair[0]}I must write <thinking>, <output> .. {DRAFT}{pair[1]}\n{EXACT}"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    stream, parts = TraceStream(), {"": ""}
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        for part, piece in stream.feed(text[start:end]):
            parts[part] = parts.get(part, "") + piece
    trace = stream.finish()
    assert trace == EXAMPLE
    assert [parts[part] for part in ("thinking", "intermediate", "reflection")] == [
        trace.thinking, trace.intermediate, trace.reflection
    ]  # fmt: skip
    assert parts["output"] == EXACT[EXACT.index("instruction") : EXACT.index("\n</output>")]
