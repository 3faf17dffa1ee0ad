"""Every family of bases, as random models of the real classes: batches, states, gradients of all objectives
and samples against transformers' own processor and forward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from native_forward import (
    config_of,
    examples,
    gradient,
    learner_of,
    native_gradient,
    native_states,
    no_draws,
    off,
    pairs,
    phases,
    requests,
    tokens_of,
    words,
)

from evlm.reason.messages import encode
from evlm.reason.reasoner import Reasoner, Sampling
from trainer.learner.learner import Learner
from trainer.model.batch import Collator
from trainer.model.forward import Features, hidden_states
from trainer.model.logprobs import base_of, response_states
from trainer.model.prompts import split
from trainer.model.reference import ReferencePolicy
from trainer.model.sampling import SampleConfig, answers
from trainer.steps import group as group_steps
from trainer.steps.dpo import dpo_step
from trainer.steps.group import group_step
from trainer.steps.kto import kto_step
from trainer.steps.rkto import draw, judge, rkto_step
from trainer.steps.sft import sft_step


@pytest.fixture(scope="module", params=tiny_qwen.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_qwen.save_folder(tmp_path_factory.mktemp(family) / "model", family)
    (path / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return path


@pytest.fixture(scope="module")
def learner(folder: Path) -> Learner:
    return learner_of(folder)


# --- what the model is fed ---


def test_tokens_positions_and_patches_equal_the_processors(learner: Learner, family: str) -> None:
    base = base_of(learner.model)
    collate = Collator(learner.processor, base.config)
    for example in examples(learner):
        batch = collate([example.chat], [example.answer])
        slow = encode(learner.processor, [example.chat], [example.answer + "<|im_end|>"])
        assert torch.equal(batch.input_ids, slow["input_ids"])
        given = {
            name: slow[name]
            for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if name in slow
        }
        positions, _ = base.model.get_rope_index(slow["input_ids"], slow["mm_token_type_ids"], **given)
        assert torch.equal(batch.position_ids, positions)
        video = batch.input_ids[batch.vision_mask][:1] == base.config.video_token_id
        both = [slow[n] for n in ("pixel_values", "pixel_values_videos") if n in slow]
        grids = [slow[n] for n in ("image_grid_thw", "video_grid_thw") if n in slow]
        if bool(video):  # the videos come first in the row then
            both, grids = both[::-1], grids[::-1]
        assert torch.equal(batch.grids, torch.cat(grids))
        assert torch.allclose(batch.pixels, torch.cat(both), atol=1e-6)


def test_the_times_of_a_video_are_in_its_positions_where_the_model_has_them(
    learner: Learner, family: str
) -> None:
    """Qwen2.5-VL counts seconds, Qwen3-VL reads them, Qwen2-VL numbers its frames."""
    slow, quick = (replace(requests()[1], fps=fps) for fps in (1.0, 30.0))
    batches = [learner.collate([learner.chat(each)], ["ok"]) for each in (slow, quick)]
    same_tokens = torch.equal(batches[0].input_ids, batches[1].input_ids)
    same = same_tokens and torch.equal(batches[0].position_ids, batches[1].position_ids)
    assert same == (family == "qwen2_vl") and same_tokens == (family != "qwen3_vl")


def test_states_are_the_models_own_with_known_features_and_without(learner: Learner) -> None:
    rows = examples(learner)
    batch = learner.collate([e.chat for e in rows], [e.answer for e in rows])
    kept = Features(base_of(learner.model))
    ends = batch.attention_mask.sum(1)
    with torch.no_grad():
        for each in (batch, kept(batch), kept(batch)):
            states = hidden_states(base_of(learner.model), each)
            for row, example in enumerate(rows):
                tokens = tokens_of(learner, example)
                want = native_states(learner, example.chat, tokens)
                got = states[row, ends[row] - len(tokens) - 1 : ends[row] - 1]
                assert torch.allclose(got, want, atol=2e-5)
    assert kept.hits == len(batch.grids)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (16, 80), (112, 80)])
def test_a_tower_sees_pictures_of_any_shape_as_its_own_forward_does(
    folder: Path, family: str, size: tuple[int, int]
) -> None:
    """Windows at the borders are smaller, and positions lie between those that were learned."""
    from trainer.model.towers import all_features

    model = tiny_qwen.make_model(family)
    h, w = size[0] // 8, size[1] // 8
    pixels = torch.randn(3 * h * w + 16, 3 * 2 * 64, generator=torch.Generator().manual_seed(1))
    grids = torch.tensor([[1, h, w], [1, 4, 4], [2, h, w]])
    with torch.no_grad():
        got, _ = all_features(model.model.visual, pixels, grids.tolist())
        out = model.model.visual(pixels, grid_thw=grids)
    want = torch.cat([out.pooler_output, *getattr(out, "deepstack_features", ())], -1)
    assert got.shape == want.shape and torch.allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("how", ["naive", "packed", "cached"])
def test_answers_behind_a_shared_prompt_have_the_native_states(learner: Learner, how: Any) -> None:
    rows = examples(learner)
    prompts, responses = split(learner.batch(rows), learner.merge)
    owner = [0, 1, 1, 2, 3, 3]
    asked = [responses[0], responses[1], responses[2], responses[2], responses[3], responses[0]]
    with torch.no_grad():
        got = response_states(learner.model, prompts, asked, owner, how).split([len(a) for a in asked])
        for states, tokens, row in zip(got, asked, owner, strict=True):
            assert torch.allclose(states, native_states(learner, rows[row].chat, tokens), atol=2e-5)


# --- what it learns ---


KINDS = [*((kind, False) for kind in ("sft", "kto", "rkto", "dpo", "group")), ("sft", True)]


def cases() -> Iterator[Any]:
    """In float64 every objective on the last family, and sft and kto on each: the others ask the model for
    nothing else. What is rounded in float32 is in sft and kto on the last."""
    for family, dtype, (kind, vision) in product(tiny_qwen.FAMILIES, ("float32", "float64"), KINDS):
        last = family == tiny_qwen.FAMILIES[-1]
        if dtype == "float32":
            fast = last and kind in ("sft", "kto") and not vision
        else:
            fast = kind in ("sft", "kto") or last
        yield pytest.param(family, dtype, kind, vision, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("family", "dtype", "kind", "vision"), cases(), indirect=["family"], scope="module")
def test_the_gradient_of_every_objective_is_that_of_the_native_forward(
    folder: Path, kind: str, vision: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(folder, f"lora.vision={str(vision).lower()}")
    if dtype == "float64":
        learner.model.double()
    rows, phase = examples(learner), phases(config_of(folder))[kind]
    # What random weights write is never right, and silent groups have no gradient.
    monkeypatch.setattr(group_steps, "likeness", lambda text, *_: len(text) % 5 / 4)
    if kind == "dpo":
        rows = pairs(rows)
        dpo_step(learner, ReferencePolicy(learner.model), rows, phase)
    elif kind == "group":
        at = words(learner, rows, phase)
        numbers = group_step(learner, ReferencePolicy(learner.model), rows, phase, at, 0, no_draws())
        assert {f"loss_{name}" for name in ("policy", "accepted", "sft", "kl")} <= set(numbers)
    elif kind == "sft":
        sft_step(learner, rows, phase)
    elif kind == "kto":
        kto_step(learner, ReferencePolicy(learner.model), rows, phase, 7)
    else:
        rkto_step(learner, ReferencePolicy(learner.model), rows, phase, 7, 0)
    got = gradient(learner)
    want = native_gradient(learner, rows, kind, phase, monkeypatch)
    difference = off(got, want)
    print(f"{folder.parent.name} {kind} {dtype} vision={vision}: {difference:.2g}")
    # Log-ratios are differences of sums of about -1,400 nats, summed in float64; what is left in float32 is
    # what it rounds of each token's.
    bars = {
        ("sft", "float32"): 1e-5,
        ("kto", "float32"): 5e-6,
        ("rkto", "float32"): 1e-5,
        ("dpo", "float32"): 5e-6,
        ("group", "float32"): 1e-5,
    }
    assert difference <= bars.get((kind, dtype), 1e-6)


@pytest.mark.slow  # test_logprobs, test_packing and test_rkto_step hold it
def test_gradient_checkpointing_changes_no_gradient(folder: Path) -> None:
    taken = []
    for setting in ("false", "true"):
        learner = learner_of(folder, f"model.checkpointing={setting}")
        learner.model.train()
        sft_step(learner, examples(learner), phases(config_of(folder))["sft"])
        taken.append(gradient(learner))
    assert off(taken[1], taken[0]) <= 1e-5


@pytest.mark.slow  # says that the gradients above are of something
def test_samples_draw_and_weights_have_a_spread(learner: Learner, folder: Path) -> None:
    """Samples that are all alike, or weights of nothing, would make the gradient above say little."""
    rows = sorted(examples(learner), key=lambda e: not e.desired)
    phase = phases(config_of(folder))["rkto"]
    batch = draw(learner, rows, phase.rewards, 7, 0)
    weights, _, _ = judge(learner, ReferencePolicy(learner.model), batch, rows, phase, 7)
    assert len({tuple(s.tolist()) for s in batch.samples}) > 2
    assert float(weights.reward.std()) > 0 and float(weights.c.min()) > 0


def test_greedy_answers_are_the_engines(learner: Learner, folder: Path) -> None:
    """Of the base: the adapter is off."""
    reasoner = Reasoner.load(folder, dtype="fp32", device="cpu")
    with learner.model.disable_adapter():
        texts = answers(learner, [learner.chat(each) for each in requests()], SampleConfig(0.0, 24))
    assert texts == [
        reasoner.generate(each, Sampling(max_new_tokens=24, guided="never")).text for each in requests()
    ]
