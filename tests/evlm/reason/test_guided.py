"""Guided writing on models of the real architectures: the form cannot be missed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import Cancelled, ModelError, RequestError, TraceError
from evlm.models.zoo import BUNDLED
from evlm.plan.form import PARTS, parse_exact
from evlm.plan.mask_codec import decode_mask
from evlm.plan.native_boxes import QWEN2, QWEN2_5, QWEN3, BoxForm, resized
from evlm.reason.budgets import Budgets
from evlm.reason.decoding import Decoder
from evlm.reason.messages import (
    FULL,
    STYLES,
    build_messages,
    encode,
    for_untuned,
    original_size,
    seen_size,
)
from evlm.reason.reasoner import Generated, Reasoner, Sampling, understood
from evlm.request import Reference, Request

SHORT_PARTS = Budgets(8, 4, 4, 48)


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reasoner]:
    """Random weights of each family, as from the hub: never tuned on the form."""
    root = tmp_path_factory.mktemp("models")
    return {
        family: Reasoner.load(tiny_qwen.save_folder(root / family, family), device="cpu")
        for family in tiny_qwen.FAMILIES
    }


def ask(number: int) -> Request:
    random = torch.Generator().manual_seed(number)
    return Request(torch.rand(1, 32, 48, 3, generator=random), f"{number} like this")


def check_plans(reasoner: Reasoner, requests: int, different: int, output: int = 48) -> None:
    """Random weights always follow the same few tokens; drawn by their odds, they say what they would."""
    special = reasoner.processor.tokenizer.all_special_tokens
    instructions, counts = set(), set()
    budgets = SHORT_PARTS._replace(output=output)
    for number in range(requests):
        sampling = Sampling(temperature=float(number % 4 > 0), seed=number, budgets=budgets)
        generated = reasoner.generate(ask(number), sampling)
        plan = parse_exact(generated.text).plan
        assert generated.finished and not any(word in generated.text for word in special)
        for edit in plan.steps:
            if edit.mask_text is not None:
                assert decode_mask(edit.mask_text, 32, 48).any()
        instructions.add(plan.instruction)
        counts.add(len(plan.steps))
    assert len(instructions) >= different
    assert (max(counts) > 1) is (output > 48), "as many edits as the budget has room for"


@pytest.mark.parametrize(
    "family", [*(pytest.param(each, marks=pytest.mark.slow) for each in tiny_qwen.FAMILIES[:-1]), "qwen3_vl"]
)
def test_random_weights_give_a_plan(untuned: dict[str, Reasoner], family: str) -> None:
    check_plans(untuned[family], 4, 3)


def test_random_weights_give_plans_of_several_edits(untuned: dict[str, Reasoner]) -> None:
    check_plans(untuned["qwen2_vl"], 4, 3, output=120)


@pytest.mark.parametrize(
    ("family", "form"), list(zip(tiny_qwen.FAMILIES, (QWEN2, QWEN2_5, QWEN3), strict=True))
)
def test_each_family_is_asked_for_boxes_in_its_own_form(
    untuned: dict[str, Reasoner], family: str, form: BoxForm
) -> None:
    assert untuned[family].style.boxes is form
    text = build_messages(ask(0), style=untuned[family].style).messages[0]["content"][0]["text"]
    assert f"mask: {form.write(('120', '80', '310', '240'), 'cap')}\n" in text
    assert ("integers in pixels of the original." in text) is form.pixels and "mask: box" not in text


@pytest.mark.parametrize("clip", [False, True])
def test_the_size_that_boxes_are_in_is_that_of_the_processors_grid(
    untuned: dict[str, Reasoner], clip: bool
) -> None:
    """Of the original, whatever else the model sees."""
    reasoner, random = untuned["qwen2_5_vl"], torch.Generator().manual_seed(0)
    for height, width in ((32, 48), (200, 31), (20, 300), (64, 64)):
        frames = torch.rand(2 if clip else 1, height, width, 3, generator=random)
        chat = build_messages(
            Request(frames, "x", (Reference("image", torch.rand(1, 40, 40, 3)),)), style=reasoner.style
        )
        inputs = encode(reasoner.processor, [chat])
        size = seen_size(reasoner.processor, chat, inputs)
        if not clip:
            assert size == resized(height, width, 16, 16 * 16, 64 * 64)
        assert not (size[0] % 16 or size[1] % 16) and (size[0] > size[1]) is (height > width)
        assert original_size(chat) == (height, width)


def test_a_plan_written_freely_in_pixels_is_in_our_coordinates(untuned: dict[str, Reasoner]) -> None:
    written = 'instruction: make the cap red\ntargets: cap\nscope: local\nmask: {"bbox_2d": [8, 16, 24, 32]}'
    generated = Generated(f"<output>\n{written}\n</output>", 30, 0.1, seen=(32, 48))
    plan = understood(generated, style=for_untuned(FULL, QWEN2_5)).trace.plan
    assert plan.mask_text == "box 167 500 500 1000 full"
    assert not any("box" in note for note in plan.repairs), "it was asked for"
    free = untuned["qwen2_5_vl"].generate(ask(0), Sampling(max_new_tokens=3, guided="never"))
    assert free.seen == (32, 48) and untuned["qwen3_vl"].generate(
        ask(0), Sampling(max_new_tokens=3, guided="never")
    ).seen is None  # fmt: skip


@pytest.mark.parametrize(
    ("style", "parts"),
    [("few-shot", PARTS), ("two_step", ("think", "output")), ("direct", ("output",))],
)
def test_the_papers_baselines_are_held_to_their_own_parts(
    tmp_path: Path, style: str, parts: tuple[str, ...]
) -> None:
    folder = tiny_qwen.save_folder(tmp_path / "model", "qwen3_vl")
    (folder / "evlm.json").write_text(json.dumps({"prompt": style}))
    reasoner = Reasoner.load(folder, device="cpu")
    assert not reasoner.backbone.tuned and reasoner.backbone.trust == "base"
    thoughts = ""
    for seed in range(2):
        reasoned = reasoner.reason(ask(seed), Sampling(temperature=1, seed=seed, budgets=SHORT_PARTS))
        assert re.findall("<([a-z]+)>", reasoned.text) == list(parts)
        assert reasoned.trace.plan.repairs == () and parse_exact(reasoned.text, parts) == reasoned.trace
        thoughts += reasoned.trace.thinking
    assert bool(thoughts) is (style != "direct")


@pytest.mark.parametrize(
    "style", [pytest.param(s, marks=() if s in ("auto", "two_step") else pytest.mark.slow) for s in STYLES]
)
def test_a_style_chosen_for_one_request_asks_as_a_model_of_that_style(
    untuned: dict[str, Reasoner], tmp_path: Path, style: str
) -> None:
    own = untuned["qwen2_5_vl"]
    said = Sampling(temperature=1, seed=3, budgets=SHORT_PARTS)
    chosen = own.reason(ask(1), replace(said, style=style))
    name = "full" if style == "auto" else style
    other = Reasoner.load(tiny_qwen.save_folder(tmp_path / "model", "qwen2_5_vl"), device="cpu", style=name)
    expected = other.reason(ask(1), said)
    assert (chosen.text, chosen.trace) == (expected.text, expected.trace)
    assert chosen.trace.plan.repairs == () and own.style == untuned["qwen2_5_vl"].backbone.request_style


def test_a_tuned_model_refuses_a_style_that_is_not_its_own() -> None:
    tuned = Reasoner.load(BUNDLED / "reasoner", device="cpu")
    for name in STYLES[1:]:
        if name != tuned.style.name:
            with pytest.raises(RequestError, match=f"style '{name}' .* tuned on '{tuned.style.name}'"):
                tuned.reason(ask(0), Sampling(style=name))
    with pytest.raises(RequestError, match="expected auto, full, few-shot, two_step, direct"):
        Sampling(style="cot")


def test_a_style_may_be_asked_for_when_a_model_is_loaded(tmp_path: Path) -> None:
    folder = tiny_qwen.save_folder(tmp_path / "model", "qwen2_vl")
    assert Reasoner.load(folder, device="cpu", style="direct").style.parts == ("output",)
    with pytest.raises(ModelError, match="'full', 'short', 'few-shot', 'two_step', 'direct'"):
        Reasoner.load(folder, device="cpu", style="cot")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five minutes of a core at rest
@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_random_weights_give_two_hundred_plans(untuned: dict[str, Reasoner], family: str) -> None:
    check_plans(untuned[family], 200, 150, output=120)


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
@torch.inference_mode()
def test_forced_tokens_in_one_forward_are_those_one_by_one(untuned: dict[str, Reasoner], family: str) -> None:
    reasoner = untuned[family]
    inputs = encode(reasoner.processor, [build_messages(ask(0))])
    tokens = reasoner.processor.tokenizer.encode("</thinking>\n<output>")
    at_once, one_by_one = Decoder(reasoner.module), Decoder(reasoner.module)
    assert torch.equal(at_once.prefill(inputs), one_by_one.prefill(inputs))
    logits = at_once.feed(tokens)
    for token in tokens:
        expected = one_by_one.feed([token])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(at_once.feed([5]), one_by_one.feed([5]), atol=1e-5, rtol=1e-4)


def test_it_streams_cancels_and_says_what_a_budget_closed(untuned: dict[str, Reasoner]) -> None:
    reasoner, pieces = untuned["qwen2_vl"], []
    generated = reasoner.generate(ask(1), Sampling(budgets=SHORT_PARTS), pieces.append)
    assert "".join(pieces) == generated.text and len(pieces) > 5
    assert any("closed after 8 tokens" in note for note in generated.notes)
    again = reasoner.generate(ask(1), Sampling(budgets=SHORT_PARTS))
    assert (again.text, again.tokens) == (generated.text, generated.tokens)

    def cancel(_text: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        reasoner.generate(ask(1), Sampling(budgets=SHORT_PARTS), cancel)


def test_sampling_draws_what_fits_by_its_odds_and_a_seed_gives_one_text(untuned: dict[str, Reasoner]) -> None:
    reasoner = untuned["qwen2_vl"]
    drawn = [
        reasoner.generate(ask(2), Sampling(temperature=1.5, top_p=0.9, seed=seed, budgets=SHORT_PARTS)).text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(parse_exact(text) for text in drawn)


def test_max_new_tokens_bounds_the_parts_together(untuned: dict[str, Reasoner]) -> None:
    generated = untuned["qwen2_vl"].generate(ask(3), Sampling(max_new_tokens=60))
    trace = parse_exact(generated.text)
    assert len(trace.thinking) + len(trace.intermediate) + len(trace.reflection) <= 12


@pytest.mark.parametrize("settings", [{"guided": "sometimes"}, {"budgets": (1, 1, 1, 1)}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="expected"):
        Sampling(**settings)


@pytest.mark.parametrize("cut", [4, 30])
def test_a_tuned_model_that_is_cut_off_still_gives_its_plan(cut: int) -> None:
    import random

    from trainer.world.questions import ask as draw
    from trainer.world.rows import to_request

    reasoner, request = (
        Reasoner.load(BUNDLED / "reasoner", device="cpu"),
        to_request(draw(random.Random(5), "test")),
    )
    free = reasoner.generate(request, Sampling(max_new_tokens=cut, guided="never"))
    with pytest.raises(TraceError, match="raise max_new_tokens"):
        understood(free)
    pieces: list[str] = []
    saved = reasoner.generate(request, Sampling(max_new_tokens=cut), pieces.append)
    assert saved.text.startswith(free.text) and "".join(pieces) == saved.text and saved.finished
    assert parse_exact(saved.text).plan.instruction and "cut off" in saved.notes[0]


def test_the_bundled_reasoner_writes_the_same_guided() -> None:
    assert same_plans(2) == 2


@pytest.mark.slow
@pytest.mark.timeout(7200)  # half an hour of a core at rest
def test_the_bundled_reasoner_writes_the_same_guided_five_hundred_times() -> None:
    assert same_plans(500) >= 495


def same_plans(count: int) -> int:
    """Questions of the world for which free and guided writing give one plan."""
    import random

    from trainer.world.questions import ask as draw
    from trainer.world.rows import to_request

    reasoner, rng, same = Reasoner.load(BUNDLED / "reasoner", device="cpu"), random.Random(5), 0
    for _ in range(count):
        request = to_request(draw(rng, "test"))
        free = reasoner.generate(request)
        guided = reasoner.generate(request, Sampling(guided="always"))
        same += parse_exact(guided.text).plan == parse_exact(free.text).plan
    return same
