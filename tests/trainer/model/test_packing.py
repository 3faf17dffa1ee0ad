"""Packed rows against padded ones: states, loss, gradients."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.model import packing
from trainer.model.batch import Collator
from trainer.model.forward import Features, hidden_states
from trainer.model.logprobs import base_of
from trainer.model.packing import pack, row_states
from trainer.objectives.sft import sft_loss
from trainer.world.questions import CATEGORIES, ask
from trainer.world.rows import to_request


@pytest.fixture(scope="module")
def tiny():
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    rng = random.Random(5)
    chats = [build_messages(to_request(ask(rng, "train", category=c)), style=SHORT) for c in CATEGORIES]
    answers = ["large red circle", "left", "", "thinking , thinking red", "red " * 40, "circle , left"]
    return tokenizer, Collator(make_processor(tokenizer))(chats, answers)


def with_lora(tokenizer, attention: str = "sdpa"):
    torch.manual_seed(0)
    model = make_model(tokenizer, layers=2, width=64, vision_width=32, vision_depth=1)
    model.requires_grad_(False)
    model.set_attn_implementation(attention)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)")
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.05)
    return model.train()


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def losses(model, batch, packed: bool):
    """(loss, gradient) of the summed cross-entropy."""
    model.zero_grad()
    base, kept = base_of(model), batch.attention_mask
    if packed:
        loss, _ = sft_loss(row_states(base, batch)[None], batch.labels[kept][None], base.lm_head)
    else:
        loss, _ = sft_loss(hidden_states(base, batch), batch.labels, base.lm_head)
    loss.backward()
    return loss.detach(), gradient(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_batch_has_the_loss_and_the_gradient_of_a_padded_one(tiny, attention):
    tokenizer, batch = tiny
    model = with_lora(tokenizer, attention)
    (want, slope), (got, other) = losses(model, batch, False), losses(model, batch, True)
    assert abs(got - want) / want <= 1e-6
    assert (other - slope).norm() / slope.norm() <= 1e-5
    assert base_of(model).config.get_text_config()._attn_implementation == attention


def test_the_states_are_those_of_the_padded_rows_in_their_order(tiny):
    tokenizer, batch = tiny
    base = base_of(with_lora(tokenizer).eval())
    with torch.no_grad():
        want = hidden_states(base, batch)[batch.attention_mask]
        got = row_states(base, batch)
    assert got.shape == (batch.tokens, 64)
    assert torch.allclose(got, want, atol=2e-5)


def test_no_row_sees_another(tiny):
    """Other words in one row change no other row's states by a bit."""
    tokenizer, batch = tiny
    base = base_of(with_lora(tokenizer).eval())
    words = batch.labels[2] != -100
    changed = replace(batch, input_ids=batch.input_ids.clone())
    changed.input_ids[2, words] = (changed.input_ids[2, words] + 1) % 200
    with torch.no_grad():
        a, b = (
            row_states(base, each).split(batch.attention_mask.sum(1).tolist()) for each in (batch, changed)
        )
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        assert torch.equal(x, y) == (row != 2)


def test_a_packed_row_holds_every_token_once(tiny):
    _, batch = tiny
    packed = pack(batch)
    assert packed.input_ids.shape == (1, batch.tokens) and bool(packed.attention_mask.all())
    starts = batch.attention_mask.sum(1).cumsum(0)[:-1]
    assert not packed.position_ids[:, 0, starts].any()  # every row's positions start anew
    assert int(packed.vision_mask.sum()) == int(batch.vision_mask.sum())
    assert bool((packed.labels[0, starts] == -100).all())  # no row is predicted from the one before


def test_gradient_checkpointing_has_the_same_gradient(tiny, monkeypatch):
    tokenizer, batch = tiny
    model = with_lora(tokenizer)
    want, slope = losses(model, batch, True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    monkeypatch.setattr(packing, "pack", lambda batch: pytest.fail("the attention runs again without blocks"))
    got, other = losses(model, batch, True)
    assert torch.allclose(got, want, rtol=1e-6)
    assert (other - slope).norm() / slope.norm() <= 1e-5


def test_kept_features_are_those_of_the_tower_to_the_bit(tiny):
    """Computed picture by picture, so that a resumed run computes the bits that the first one kept."""
    tokenizer, batch = tiny
    base = base_of(with_lora(tokenizer))
    cold, warm = Features(base), Features(base)
    first, again = warm(batch), warm(batch)
    half = replace(batch, pixels=batch.pixels[: int(batch.grids[0].prod())], grids=batch.grids[:1])
    assert torch.equal(cold(half).features, first.features[: len(cold(half).features)])
    assert torch.equal(first.features, again.features) and warm.hits >= len(batch.grids)
    with torch.no_grad():
        want, got = hidden_states(base, batch), hidden_states(base, first)
    kept = batch.attention_mask
    assert torch.allclose(got[kept], want[kept], atol=2e-5)


def test_features_are_kept_up_to_a_limit_and_not_of_a_tower_that_learns(tiny):
    tokenizer, batch = tiny
    base = base_of(with_lora(tokenizer))
    small = Features(base, limit=1)
    small(batch), small(batch)
    assert small.bytes <= 1 and torch.equal(small(batch).features, Features(base)(batch).features)
    base.model.visual.merger.requires_grad_(True)
    assert Features(base)(batch).features is None
