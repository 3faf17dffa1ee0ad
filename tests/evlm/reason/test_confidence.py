"""How sure a model is of its plan: the probabilities of the plan's own tokens, and of no others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import ModelError, TraceError
from evlm.models.zoo import BUNDLED
from evlm.plan.form import Plan
from evlm.plan.trace import parse, plan_from_json, plan_to_json
from evlm.reason.budgets import Budgets
from evlm.reason.confidence import Written, confidence
from evlm.reason.reasoner import Reasoner, Sampling, understood
from evlm.request import Request


def written(text: str, logs: dict[str, float], form: tuple[str, ...] = ()) -> tuple[Written, ...]:
    """A text's words with the space before each: -9 where nothing is said, so that what counts stands out."""
    tokens = [word if number == 0 else f" {word}" for number, word in enumerate(text.split(" "))]
    return tuple(Written(t, None if t.strip() in form else logs.get(t.strip(), -9.0)) for t in tokens)


def test_the_plans_words_count_wherever_they_are_written_and_others_nowhere() -> None:
    plan = Plan("make the hat red", ("hat",))
    said = written(
        "a Hat , maybe blue . make the hat red", {"Hat": -0.5, "make": 0, "the": 0, "hat": -0.1, "red": -0.2}
    )
    assert confidence(plan, said, temperature=1) == pytest.approx(math.exp(-0.8))
    assert confidence(plan, said, temperature=4) == pytest.approx(math.exp(-0.2))
    assert confidence(plan, said) == pytest.approx(math.exp(-0.8 / 5))  # the geometric mean


def test_the_place_counts_where_it_stands_last() -> None:
    plan = Plan("make it red", ("hat",), "box 1 2 3 4 full")
    said = written(
        "box 1 2 3 4 full red hat box 1 2 3 4 full now",
        {"red": -0.1, "hat": 0, "box": 0, "full": 0} | dict.fromkeys("1234", -0.2),
    )
    assert confidence(plan, said, temperature=1) == pytest.approx(math.exp(-0.1 - 4 * 0.2))


def test_a_word_of_several_tokens_counts_with_all_of_them() -> None:
    said = [Written(" che", -0.3), Written("cke", -0.2), Written("red", -0.1), Written(" sun", -5.0)]
    assert confidence(Plan("checkered"), said, temperature=1) == pytest.approx(math.exp(-0.6))


def test_what_the_form_wrote_is_no_sign_of_anything() -> None:
    said = written("make it red", {"red": -0.5}, form=("make", "it"))
    assert confidence(Plan("make it red"), said, temperature=1) == pytest.approx(math.exp(-0.5))
    assert confidence(Plan("make it red"), written("make it red", {}, ("make", "it", "red"))) is None
    assert confidence(Plan("!"), written("make it red !", {})) is None
    assert confidence(Plan("make it red"), ()) is None


@pytest.fixture(scope="module")
def bundled() -> Reasoner:
    return Reasoner.load(BUNDLED / "reasoner", device="cpu")


def ask(number: int = 1) -> Request:
    random = torch.Generator().manual_seed(number)
    return Request(torch.rand(1, 64, 64, 3, generator=random), "make it blue")


def test_a_token_has_the_probability_that_the_model_gave_it(bundled: Reasoner) -> None:
    """Against one forward over the whole text."""
    from evlm.reason.messages import build_messages, encode

    sampling = Sampling(40, temperature=1.0, seed=3, guided="never")
    said = bundled.generate(ask(), sampling).written
    chat = build_messages(ask(), bundled.codec, bundled.style, bundled.backbone.max_frames)
    model: Any = bundled.module
    with torch.inference_mode():
        prompt = encode(bundled.processor, [chat])["input_ids"].shape[1]
        inputs = encode(bundled.processor, [chat], ["".join(each.text for each in said)])
        logits = model(**inputs).logits[0, prompt - 1 : -1].float().log_softmax(-1)
    ids = inputs["input_ids"][0, prompt:]
    assert len(ids) == len(said)
    expected = logits.gather(-1, ids[:, None])[:, 0]
    found = torch.tensor([each.log for each in said])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_guided_writing_tells_the_forms_tokens_from_the_models(bundled: Reasoner) -> None:
    guided = bundled.generate(ask(), Sampling(guided="always", budgets=Budgets(8, 4, 4, 48)))
    assert "".join(each.text for each in guided.written) == guided.text
    assert guided.written[0].log is None and any(each.log is not None for each in guided.written)
    reasoned = understood(guided)
    assert reasoned.confidence is not None and 0 < reasoned.confidence <= 1
    assert reasoned.trace.plan.confidence == reasoned.confidence
    assert understood(replace(guided, written=())).confidence is None  # of an endpoint


def test_the_temperature_is_the_folders_own_and_checked(tmp_path: Path) -> None:
    folder = tiny_qwen.save_folder(tmp_path / "m")
    assert Reasoner.load(folder, device="cpu").backbone.temperature is None
    (folder / "evlm.json").write_text('{"prompt": "short", "confidence_temperature": 2.5}')
    assert Reasoner.load(folder, device="cpu").backbone.temperature == 2.5
    for bad in (0, -1, "2", True, [], math.inf):
        (folder / "evlm.json").write_text(json.dumps({"confidence_temperature": bad}))
        with pytest.raises(ModelError, match="confidence_temperature"):
            Reasoner.load(folder, device="cpu")


def test_how_many_frames_are_looked_at_is_checked(tmp_path: Path) -> None:
    """(D22) "8" and true were taken, 0 and null failed at the first video."""
    folder = tiny_qwen.save_folder(tmp_path / "m")
    for bad in (0, -1, "8", True, None, 8.0, 10**9):
        (folder / "evlm.json").write_text(json.dumps({"max_frames": bad}))
        with pytest.raises(ModelError, match="max_frames"):
            Reasoner.load(folder, device="cpu")
    (folder / "evlm.json").write_text('{"max_frames": 4}')
    assert Reasoner.load(folder, device="cpu").backbone.max_frames == 4


def test_a_plan_carries_it_and_older_ones_have_none() -> None:
    plan = Plan("make it red", ("hat",), confidence=0.25)
    assert plan == Plan("make it red", ("hat",))  # it is no part of what the plan says
    assert plan_from_json(plan_to_json(plan)).confidence == 0.25
    assert "confidence" not in json.loads(plan_to_json(Plan("make it red")))
    assert plan_from_json('{"version": 1, "instruction": "make it red"}').confidence is None
    assert parse("instruction: make it red").plan.confidence is None
    for bad in ('"0.5"', "true", "1.01", "-0.1", "NaN", "[]"):
        with pytest.raises(TraceError, match="confidence"):
            plan_from_json(f'{{"version": 1, "instruction": "make it red", "confidence": {bad}}}')
