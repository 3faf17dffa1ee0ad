"""The guide alone: whatever tokens are drawn, the text is a trace of the exact form."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.errors import RequestError
from evlm.plan.form import NO_LABEL, parse_exact
from evlm.plan.mask_codec import decode_mask, get_codec
from evlm.plan.native_boxes import QWEN2, QWEN2_5, QWEN3
from evlm.reason.budgets import LEAST_OUTPUT, Budgets
from evlm.reason.guide import Guide, Step, Verdict, begins_tag
from evlm.reason.place_grammar import PlaceGrammar

WORDS = [
    "a", " hat", "make", " the", "\n", " ", "\n\n", ".\n", ".", ";", "; ", " ;", ",", "\uff0c", "\\", "\\n",
    "<", " <", "</", "</output>", "<think>", "<|im_end|>", "< 3", "instruction:", "\ninstruction:",
    "\ntargets:", "none", "nothing", " n", "/a", "\ufffd", "\r", "\x00", "\u2028", "(", " [", '"', "'s",
    "3.5", " local", " global", " l", "ocal", "mask", "\nmask:", ":", "\n</output>", " box", "box", " full",
    " rows", " 1", "1", "0", "00", " 12", "999", " 2-5", "-", "+", " .", "7-7", " 0-7", "null", "n/a", "\t",
    "\u00e9", "\u5e3d\u5b50", ">", "thinking", "```", "{", "No targets", *"bcdefghijklmnopqrstuvwxyz23456789",
    ", ", "),(", ")", "]", "]}", "14",
]  # fmt: skip
NATIVE = [PlaceGrammar(form=form, size=(700, 1400)) for form in (QWEN2, QWEN2_5, QWEN3)]
PLACES = [PlaceGrammar(), PlaceGrammar(8), PlaceGrammar(16), *NATIVE]


def written(guide: Guide, draw: Callable[[], tuple[str, bool]], begun: Step | None = None) -> str:
    """What is said where draw() gives a token's text, and whether it is one that ends an answer."""
    said, held = (guide.opening, "") if begun is None else (begun.form, begun.held)
    refused = 0
    while not guide.done:
        text, stop = draw()
        verdict = guide.judge(text, stop)
        if verdict is Verdict.NO:
            refused += 1
            assert refused < 20_000, (said, held, guide.state)
            continue
        refused = 0
        holds = guide.holds
        if verdict is not Verdict.END:
            said, held = (said, held + text) if holds else (said + text, held)
        step = guide.take(text, verdict)
        if step.says:
            said, held = said + (held if step.instead is None else step.instead), ""
        said, held = said + step.form, held + step.held
    return said


@pytest.mark.parametrize("many", [60, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_whatever_is_drawn_is_a_plan(place: PlaceGrammar, many: int) -> None:
    rng, masks, instructions, counts = random.Random(0), 0, set(), set()
    for _ in range(many):
        budgets = Budgets(*(rng.randrange(12) for _ in range(3)), rng.randrange(LEAST_OUTPUT, 120))
        trace = parse_exact(written(Guide(budgets, place), lambda: (rng.choice(WORDS), rng.random() < 0.02)))
        instructions.add(trace.plan.instruction)
        counts.add(len(trace.plan.steps))
        for edit in trace.plan.steps:
            if edit.mask_text is not None:
                decode_mask(edit.mask_text, 20, 30)
                masks += 1
            labels = edit.targets
            assert not labels or any(label.lower() not in NO_LABEL for label in labels)
    assert masks > many / 10 and len(instructions) > many * 11 / 15 and counts >= {1, 2}


@pytest.mark.parametrize("many", [10, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_state_and_the_alphabet_tell_how_a_token_is_judged(place: PlaceGrammar, many: int) -> None:
    """What the engine remembers by them, is true wherever they are the same."""
    rng, known = random.Random(1), {}
    for _ in range(many):
        guide = Guide(Budgets(3, 3, 3, 60), place)
        while not guide.done:
            verdicts = {word: guide.judge(word) for word in WORDS}
            if guide.state is not None:
                assert known.setdefault(guide.state, verdicts) == verdicts
            fits = [word for word in WORDS if verdicts[word] is not Verdict.NO]
            if guide.alphabet is not None:
                assert all(word[0] in guide.alphabet for word in fits)
            word = rng.choice(fits)
            guide.take("" if verdicts[word] is Verdict.END else word, verdicts[word])


def texts(guide: Guide, *tokens: str) -> str:
    """What is said for these tokens; "" and all behind the last ends an answer."""
    left = iter(tokens)
    return written(
        guide, lambda: (word, word == "") if (word := next(left, None)) is not None else ("", True)
    )


def test_a_text_in_the_form_goes_through_as_it_is() -> None:
    """Every token of it, for models tuned on the form."""
    text = texts(
        Guide(Budgets(), PlaceGrammar(8)),
        *("a hat", "\n</thinking>\n", "paint it", "\n</", "yes", "\n", "</reflection>"),
        *(" make", " the hat red", "\ntargets:", " hat", ";", " brim", "\n", " local", "\n", "mask:"),
        *(" box", " 1", "0 20 3", "0 40", " rows", *(" 2-5+7-7 . 0-7",) * 2, " 1-1", " .", "\n</output>"),
    )
    assert text == (
        "<thinking>\na hat\n</thinking>\n<intermediate>\npaint it\n</intermediate>\n<reflection>\nyes\n"
        "</reflection>\n<output>\ninstruction: make the hat red\ntargets: hat; brim\nscope: local\n"
        "mask: box 10 20 30 40 rows 2-5+7-7 . 0-7 2-5+7-7 . 0-7 1-1 .\n</output>"
    )


@pytest.mark.parametrize(
    ("place", "lead", "tokens", "mask", "note"),
    [
        (NATIVE[0], "<|object_ref_start|>hat; brim<|object_ref_end|><|box_start|>(",
         ["100", ",", "5", "),(", "900", ",999", ")"], "box 100 5 900 999 full", ""),
        (NATIVE[1], '{"bbox_2d": [', ["1", "40", ", 70", ", ", "1400", ", 140", "]"],
         "box 100 100 1000 200 full", "is [140, 70, 1400, 140], in pixels"),
        (NATIVE[2], '{"bbox_2d": [', ["100, 5, 900, 999", "\n"], "box 100 5 900 999 full", ""),
    ],
)  # fmt: skip
def test_a_base_model_places_in_its_own_words_and_it_is_said_in_ours(
    place: PlaceGrammar, lead: str, tokens: list[str], mask: str, note: str
) -> None:
    guide = Guide(Budgets(), place)
    assert place.lead("hat; brim") == f"\nmask: {lead}"
    text = texts(guide, "", "", "", " red hat", "\n", " hat;", " brim", "\n", " local", *tokens)
    assert parse_exact(text).plan.mask_text == mask and text.endswith(f"\nmask: {mask}\n</output>")
    assert note in " ".join(guide.notes) and bool(note) == bool(guide.notes)


ONE = ("instruction: a hat\ntargets: hat\nscope: local\nmask: box 1 2 30 400 full\n", "one box")
RAIN = ("instruction: rain\ntargets: none\nscope: global\n", "no place")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("lines", [ONE, RAIN], ids=lambda lines: lines[1])
@pytest.mark.parametrize("place", [PlaceGrammar(), PlaceGrammar(8), NATIVE[0], NATIVE[2]], ids=str)
def test_behind_an_edit_comes_another_as_long_as_the_model_wants_one(
    place: PlaceGrammar, lines: tuple[str, str], count: int
) -> None:
    """Each with a place of its own, in whichever form the model writes it; a fifth is not to be had."""
    box = {"own": [" 1", " 2", " 30", " 400"], "qwen2-vl": ["1", ",2", "),(", "30", ",400"],
           "qwen3-vl": ["1, 2", ", 30, 400"]}[place.form.name]  # fmt: skip
    here = ["\nmask:", " box", *box, " full"] if place.grid else box
    tokens = [" a hat", "\n", " hat", "\n", " local", *here]
    if lines is RAIN:
        tokens = [" rain", "\n", " none", "\n", " global"]
    ends = ["\n"] * (lines is ONE)  # the place, and is left out
    if place.grid:  # the line's end is the model's own
        again, end = [*ends, "\n", "instruction:"], [*ends, "\n</output>"]
    else:
        again, end = [*ends, "instruction", ":"], [*ends, "</output>"]
    written = [*tokens, *(each for _ in range(count - 1) for each in (*again, *tokens))]
    guide = Guide(Budgets(output=400), place)
    text = texts(guide, "", "", "", *written, *([] if count == 4 else end))
    assert text.split("<output>\n")[1] == lines[0] * count + "</output>"
    assert len(parse_exact(text).plan.steps) == count


def test_no_edit_is_begun_that_the_budget_cannot_end() -> None:
    """And one that was begun has shares of what is left, not of the whole."""
    first = [" a", "\n", " none", "\n", " global"]  # three tokens, for the form writes the lines' ends
    for output in (LEAST_OUTPUT + 2, LEAST_OUTPUT + 3):
        guide = Guide(Budgets(output=output), PlaceGrammar())
        for token in ("", "", "", *first):
            guide.take(token, guide.judge(token, stop=not token))
        assert guide.done is (output == LEAST_OUTPUT + 2)
    guide = Guide(Budgets(output=100), PlaceGrammar())
    again = [*first, "instruction:"]
    trace = parse_exact(texts(guide, "", "", "", *again, *[" b"] * 90, " global"))
    assert trace.plan.steps[1].instruction == " ".join("b" * int((100 - 4) * 0.4))


@pytest.mark.parametrize("place", NATIVE, ids=lambda place: place.form.name)
def test_a_number_beyond_the_picture_cannot_be_written(place: PlaceGrammar) -> None:
    high = place.form.limits((700, 1400))[0]
    first, second = place.form.between[:2]
    assert place.may_begin(f"{first}{high - 1}{second}") and not place.may_begin(f"{first}{high}{second}")
    assert not place.may_begin(f"{first}01") and not place.may_begin(f"{first}{second}")


def test_a_base_model_only_writes_the_numbers_of_its_place() -> None:
    guide = Guide(Budgets(), PlaceGrammar())
    text = texts(
        guide, "", "", "", " red hat", ".\n", " hat", " .", "\n", " local", " 1", "00", " 5 900 999", " "
    )
    assert text.endswith(
        "<reflection>\n\n</reflection>\n<output>\ninstruction: red hat.\ntargets: hat\nscope: local\n"
        "mask: box 100 5 900 999 full\n</output>"
    )


@pytest.mark.parametrize(
    ("said", "labels"), [(" nothing", ()), (" none;", ()), (" N/A", ()), (" none; hat", None)]
)
def test_words_for_no_label_are_none(said: str, labels: tuple[str, ...] | None) -> None:
    text = texts(Guide(Budgets(), PlaceGrammar()), "", "", "", " rain", "\n", said, "\n", " global")
    trace = parse_exact(text)
    assert trace.plan.targets == (("none", "hat") if labels is None else labels)


def test_a_part_is_closed_when_its_budget_is_spent() -> None:
    guide = Guide(Budgets(3, 0, 1, 48), PlaceGrammar())
    words = [" a", " l", " 8", "8", " 9"]
    text = written(guide, lambda: (next(w for w in words if guide.judge(w) is not Verdict.NO), False))
    assert parse_exact(text).thinking == "a a a" and parse_exact(text).intermediate == ""
    assert guide.notes[:2] == ["<thinking> closed after 3 tokens", "<reflection> closed after 1 tokens"]


def test_a_place_that_the_budget_cuts_is_left_out() -> None:
    row = [" 0-0+2-2", "+4-4+6-6"] * 40
    text = texts(
        Guide(Budgets(0, 0, 0, 48), PlaceGrammar(16)),
        " a",
        "\n",
        " b",
        "\n",
        " local",
        "\nmask:",
        " box 1 1 9 9 rows",
        *row,
    )
    assert "mask" in text or parse_exact(text).plan.mask_text is None


WHOLE = (
    "<thinking>\na hat\n</thinking>\n<intermediate>\npaint it\n</intermediate>\n<reflection>\nyes\n"
    "</reflection>\n<output>\ninstruction: make the hat red\ntargets: hat; brim\nscope: local\n"
)


@pytest.mark.parametrize("end", range(len("<thinking>"), len(WHOLE)))
def test_a_text_that_was_cut_off_is_brought_to_its_end(end: int) -> None:
    """Wherever it was cut; what was there stays, as far as the form can stand behind it."""
    resumed = Guide.resume(WHOLE[:end], 60, PlaceGrammar(8))
    if resumed is None:  # within a tag
        assert "<" in WHOLE[:end].rpartition("\n")[2]
        return
    guide, step = resumed

    def draw() -> tuple[str, bool]:
        if guide.alphabet is None:  # words: one, where there are none
            return ("", True) if guide.state[1] else (" a", False)
        words = [" local", "local", "\nmask:", " box 1 2 3 4 full"]
        fits = [word for word in words if guide.judge(word) is not Verdict.NO]
        return (fits[0], False) if fits else ("", True)

    trace = parse_exact(WHOLE[:end] + written(guide, draw, step))
    assert trace.thinking.startswith("a hat"[: max(0, end - 11)].strip())


def test_a_text_that_was_cut_off_in_its_second_edit_is_brought_to_its_end() -> None:
    begun = WHOLE + "mask: box 10 20 30 40 full\ninstruction: remove the dog"
    guide, step = Guide.resume(begun, 60, PlaceGrammar(8)) or pytest.fail("not resumed")
    left = iter([" dog", "\n", " global", "\n</output>"])
    plan = parse_exact(begun + written(guide, lambda: (next(left), False), step)).plan
    assert [edit.instruction for edit in plan.steps] == ["make the hat red", "remove the dog"]
    assert plan.steps[1].scope == "global" and plan.steps[1].targets == ("dog",)


FIVE = WHOLE + ONE[0] * 3 + "instruction: a"


@pytest.mark.parametrize(
    "text",
    [
        *("", "hello", "<output>\n", "<thinking>\na\n</output>", "x<thinking>", WHOLE + "mask: box"),
        *(FIVE, WHOLE.replace("scope", "mask: box 1 2\nscope") + "instruction: a"),
    ],
)
def test_other_texts_are_left_as_they_are(text: str) -> None:
    assert Guide.resume(text, 60, PlaceGrammar(8)) is None


@pytest.mark.parametrize("budgets", [(-1, 0, 0, 99), (0, 0, 0, LEAST_OUTPUT - 1), (0, 0, 99_999, 99)])
def test_budgets_out_of_range_are_refused(budgets: tuple[int, int, int, int]) -> None:
    with pytest.raises(RequestError, match="budget of <"):
        Guide(Budgets(*budgets), PlaceGrammar())


@given(st.tuples(*[st.integers(0, 400)] * 3, st.integers(LEAST_OUTPUT, 400)), st.integers(1, 2000))
def test_budgets_share_what_there_is(budgets: tuple[int, int, int, int], total: int) -> None:
    shared = Budgets(*budgets).within(total)
    shared.check()
    assert sum(shared) <= max(total, LEAST_OUTPUT) and all(
        a <= b for a, b in zip(shared, budgets, strict=True)
    )


@pytest.mark.parametrize(
    "text", ["<", "a<", "</", "<th", "<output>x", "</out", "<|", "<|im_start|>", "<think", " <t"]
)
def test_what_may_become_a_tag(text: str) -> None:
    assert begins_tag(text)


@pytest.mark.parametrize("text", ["", "a > b", "< 3", "<b>", "<=", "</b>", "<thinker"])
def test_what_becomes_no_tag(text: str) -> None:
    assert not begins_tag(text)


@settings(max_examples=30)
@given(st.sampled_from([8, 16]), st.data())
def test_what_the_codec_writes_may_be_written_letter_by_letter(grid: int, data: st.DataObject) -> None:
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=grid * grid, max_size=grid * grid)))
    text = " " + get_codec(f"box-spans-{grid}").encode(mask.view(grid, grid))
    grammar = PlaceGrammar(grid)
    assert grammar.is_whole(text)
    assert all(grammar.may_begin(text[:end]) for end in range(1, len(text) + 1, 1 + len(text) // 40))
