"""How reasoners write a plan in the world: JSON, boxes, fields and labels in other forms (A3 to A6)."""

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_texts import DRAFT, EXACT, FIELDS, PLAN, PROSE, message, output, read

from evlm.errors import TraceError
from evlm.plan.mask_codec import decode_mask
from evlm.plan.trace import Plan, Trace, parse, render

# --- JSON ---

OBJECTS = [
    '{"instruction": "make the hat blue", "targets": ["hat",]}',
    '{\n  "instruction": "make the hat blue",\n  "targets": ["hat",],\n  "scope": "local",\n}',
    '{\n  // the change\n  "instruction": "make the hat blue", /* short */\n  "targets": ["hat"] # one\n}',
    "{'instruction': 'make the hat blue', 'targets': ['hat']}",
    "{'instruction': 'make the hat blue', 'targets': ['hat'], 'mask': None,}",
    '{instruction: "make the hat blue", targets: ["hat"]}',
    "{\u201cinstruction\u201d: \u201cmake the hat blue\u201d, \u201ctargets\u201d: [\u201chat\u201d]}",
    '{"output": {"instruction": "make the hat blue", "targets": ["hat",]},}',
]
AROUND = [
    "{prose}<output>{json}</output>",
    "{prose}<output>\n```json\n{json}\n```\n</output>",
    "{prose}\n```json\n{json}\n```",
    "Here is my plan:\n{json}\nLet me know!",
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("written", OBJECTS)
def test_json_with_mistakes_is_read(written: str, around: str) -> None:
    """(A3)"""
    trace = read(around.replace("{prose}", PROSE).replace("{json}", written))
    assert trace.plan == PLAN
    assert "JSON read as the plan" in trace.plan.repairs


@pytest.mark.parametrize("piece", ["[", "{", '{"a":', "{'a':'", '{"instruction": [', '{"', "*/", '"', "//"])
def test_hostile_json_takes_bounded_time(piece: str) -> None:
    """(A3)"""
    text = f"{PROSE}<output>\n{{'instruction': " + piece * (1_000_000 // len(piece))
    began = time.process_time()
    message(text)
    assert time.process_time() - began < 10


BOXED = [
    ('"targets": [{"label": "hat", "bbox": [100, 200, 300, 400]}]', "box 100 200 300 400 full"),
    ('"targets": [{"bbox_2d": [100, 200, 300, 400], "label": "hat"}]', "box 100 200 300 400 full"),
    (
        '"targets": {"name": "hat", "box": {"x1": 100, "y1": 200, "x2": 300, "y2": 400}}',
        "box 100 200 300 400 full",
    ),
    (
        '"targets": [{"label": "hat", "box_2d": [200, 100, 400, 300]}]',
        "box 100 200 300 400 full",
    ),  # Gemini: y first
    ('"targets": [{"label": "hat", "bbox": [0.1, 0.2, 0.3, 0.4]}]', "box 100 200 300 400 full"),
    ('"targets": ["hat"], "bbox_2d": [[100, 200], [300, 400]]', "box 100 200 300 400 full"),
    ('"targets": ["hat"], "mask": {"bbox_2d": [100, 200, 300, 400]}', "box 100 200 300 400 full"),
    ('"targets": [{"label": "hat", "bbox": [1, 2, 3, 4]}], "mask": "none"', "none"),
    ('"targets": [{"label": "hat", "bbox": [100, 200, 3000, 4000]}]', None),  # in pixels of nobody knows what
]  # fmt: skip


@pytest.mark.parametrize(("fields", "mask"), BOXED)
def test_labels_and_boxes_of_objects_are_taken(fields: str, mask: str | None) -> None:
    """(A4)"""
    plan = read(output('{"instruction": "make the hat blue", ' + fields + "}")).plan
    assert (plan.instruction, plan.targets, plan.mask_text, plan.scope) == (
        PLAN.instruction,
        ("hat",),
        mask,
        "local",
    )


@pytest.mark.parametrize(
    "content",
    [
        '[{"bbox_2d": [100, 200, 300, 400], "label": "hat"}]',
        'targets: [{"bbox_2d": [100, 200, 300, 400], "label": "hat"}]',
        'targets:\n```json\n[\n  {"bbox_2d": [100, 200, 300, 400], "label": "hat"}\n]\n```\nscope: local',
        "targets: hat\nscope: local\nmask: [100, 200, 300, 400]",
        "targets: hat\nscope: local\nmask: (100,200),(300,400)",
        "targets: hat\nbbox: <|box_start|>(100,200),(300,400)<|box_end|>",
        "targets: hat\nmask: box 100, 200, 300, 400 full",
    ],
)
def test_grounding_in_lines_is_taken(content: str) -> None:
    """(A4)"""
    text = output(content).replace(">b<", ">make the hat blue<")
    plan = read(text).plan
    assert plan == Plan("make the hat blue", ("hat",), "box 100 200 300 400 full", "local")


def test_several_boxes_are_one_mask_that_leaves_out_what_lies_between() -> None:
    """(A4)"""
    boxes = [
        {"bbox_2d": [0, 0, 250, 1000], "label": "hat"},
        {"bbox_2d": [750, 0, 1000, 1000], "label": "scarf"},
    ]
    plan = read(output(json.dumps({"instruction": "make them blue", "targets": boxes}))).plan
    assert plan.targets == ("hat", "scarf")
    mask = decode_mask(plan.mask_text or "", 8, 8)
    assert mask[0].tolist() == [1, 1, 0, 0, 0, 0, 1, 1] and bool((mask == mask[0]).all())


# --- fields and labels ---


@pytest.mark.parametrize(
    "content",
    [
        "instruction\uff1amake the hat blue\ntargets\uff1ahat",
        "1. **Instruction**: make the hat blue\n2. **Targets**: hat",
        "(1) Instruction: make the hat blue\n(2) Targets: hat",
        "`instruction`: make the hat blue\n`targets`: hat",
        "\u2022 instruction: make the hat blue\n\u2022 targets: hat",
        "[instruction]: make the hat blue\n[targets]: hat",
        '"instruction": "make the hat blue"\n"targets": "hat"',
        "<instruction>make the hat blue</instruction>\n<targets>hat</targets>",
        "## Instruction\nmake the hat blue\n\n## Targets\n- hat",
        "**Instruction:**\nmake the hat blue\n**Targets:**\nhat",
        "instruction: make the hat blue; targets: hat; scope: local",
        "instruction: make the hat blue\rtargets: hat\r",
        "\ufeffinstruction: make the hat blue\ntar\u200bgets: hat",
    ],
)
def test_fields_are_read_however_they_are_decorated(content: str) -> None:
    """(A5)"""
    assert read(output(content)).plan == PLAN


@pytest.mark.parametrize(
    "content",
    [
        "I would change {the hat} to [blue].",
        "\n".join(
            ["The hat is red.", "The star is blue.", "So it should be blue.", "That is what is meant."]
        ),
        "The hat is red. " * 40,
    ],
)
def test_what_is_no_sentence_is_not_taken_for_the_instruction(content: str) -> None:
    """(A5)"""
    assert "no plan found" in message(output(content))
    assert read(output("make the hat blue")).plan.instruction == "make the hat blue"


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("red hat, scarf", ("red hat", "scarf")),
        ("red hat\uff1bscarf", ("red hat", "scarf")),
        ("red hat\uff0cscarf\u3001cat", ("red hat", "scarf", "cat")),
        ("cat . dog", ("cat", "dog")),
        ("cat. dog.", ("cat", "dog")),
        ("cat | dog", ("cat", "dog")),
        ("[red hat, scarf]", ("red hat", "scarf")),
        ("['red hat', 'scarf']", ("red hat", "scarf")),
        ('"red hat"; "scarf"', ("red hat", "scarf")),
        ("[red hat]", ("red hat",)),
        ("\n- red hat\n- scarf", ("red hat", "scarf")),
        ("St. Bernard; a black and white cat", ("St. Bernard", "a black and white cat")),
        ("N/A", ()),
        ("[]", ()),
        ("null", ()),
    ],
)
def test_labels_are_parted_however_they_are_written(written: str, labels: tuple[str, ...]) -> None:
    """(A6)"""
    text = output(f"instruction: make it blue\ntargets: {written}\nscope: local")
    plan = read(text).plan
    assert plan.targets == labels
    assert parse(render(read(text)), repair=False).plan.targets == labels
    exact = ";" in written and '"' not in written
    assert bool(plan.repairs) != exact


LABELS = st.lists(st.text("ab.,;|[]('\"\\ \n\uff1b\uff0c", max_size=8), max_size=4).map(tuple)


@settings(max_examples=40)
@given(LABELS, st.none() | st.text("box 12,[](){}'\"\\\n", max_size=12), st.booleans())
def test_labels_and_masks_of_any_letters_come_back(
    labels: tuple[str, ...], mask: str | None, repair: bool
) -> None:
    """(A6)"""
    trace = Trace("", "", "", Plan("make it blue", labels, mask))
    assert parse(render(trace), repair) == trace


# --- forms of tags ---

TRACE = Trace("a", "b", "c", PLAN)
WHOLE = output(FIELDS)


@pytest.mark.parametrize(
    "text",
    [
        WHOLE.replace("<", "&lt;").replace(">", "&gt;"),
        WHOLE.replace("<", "\uff1c").replace(">", "\uff1e"),
        WHOLE.replace("<", "[").replace(">", "]"),
        WHOLE.replace("thinking", "Thin\u200bking"),
        "\ufeff" + WHOLE,
        WHOLE.replace("\n", "\r\n"),
        f"<answer>{WHOLE}</answer><|im_end|>",
        "Thinking: a\nIntermediate: b\nReflection: c\nOutput:\n" + FIELDS,
        "**Thinking:** a\n\n**Intermediate:** b\n\n**Reflection:** c\n\n**Output:**\n" + FIELDS,
    ],
)
def test_tags_in_other_letters(text: str) -> None:
    """Brothers of (A5)"""
    assert read(text) == TRACE


# --- everything together ---

MUTATED = [
    EXACT, WHOLE, f"<think>Let me draft it. {DRAFT} No, the hat", f"<think>{DRAFT}</think>{WHOLE}",
    output(OBJECTS[1]), output(OBJECTS[2]),
    output('{"instruction": "x", ' + BOXED[2][0] + "}"),
    output("1. **Instruction**: x\n2. **Targets**:\n- hat\n- cat"),
]  # fmt: skip
PIECES = [*"<>{}[]\"'\\\n:,`\u200b\uff1a", "", "</", "</think>", "<think>", "&lt;", "<output>", "</output>"]
PIECES += ["instruction:", "targets:", "mask: [1,2", "//", "I'm sorry"]


def test_mutated_answers_give_a_trace_or_one_error() -> None:
    """2,000 of them; what is taken can be written and read back."""
    rng = random.Random(3)
    taken = 0
    for number in range(2000):
        text = MUTATED[number % len(MUTATED)]
        for _ in range(rng.randint(1, 5)):
            start = rng.randrange(len(text) + 1)
            end = min(len(text), start + rng.choice((0, 0, 1, 3, 20)))
            text = text[:start] + rng.choice(PIECES) + text[end:]
        try:
            trace = parse(text, finished=number % 3 > 0)
        except TraceError as error:
            assert 0 <= error.offset <= len(text) and error.reason
        else:
            taken += 1
            assert parse(render(trace), repair=False) == trace
    assert taken > 1000
