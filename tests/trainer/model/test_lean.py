"""Layers of our own against the model's: states, gradients, prompts that several responses share."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.learner.learner import Learner
from trainer.model import lean
from trainer.model.batch import Collator
from trainer.model.forward import hidden_states
from trainer.model.logprobs import base_of, response_states, sequence_logps
from trainer.model.packing import checkpoint_layers
from trainer.model.pieces import Pieces, Segment, attend, attend_backward
from trainer.model.prompts import split
from trainer.model.token_count import pop_count
from trainer.world.questions import CATEGORIES, ask
from trainer.world.rows import to_request

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def tiny():
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    rng = random.Random(5)
    chats = [build_messages(to_request(ask(rng, "train", category=c)), style=SHORT) for c in CATEGORIES]
    answers = ["large red circle", "left", "", "thinking , thinking red", "red " * 40, "circle , left"]
    return tokenizer, Collator(make_processor(tokenizer))(chats, answers)


def with_lora(tokenizer, targets=TARGETS, dropout: float = 0.0, key_heads: int = 2):
    torch.manual_seed(0)
    model = make_model(tokenizer, layers=3, width=64, vision_width=32, vision_depth=1)
    if key_heads == 1:  # both heads of the queries read one head of keys
        for layer in model.model.language_model.layers:
            attention = layer.self_attn
            attention.num_key_value_groups = 2
            for name in ("k_proj", "v_proj"):
                old, fresh = getattr(attention, name), torch.nn.Linear(64, 32)
                fresh.load_state_dict({"weight": old.weight[:32].detach(), "bias": old.bias[:32].detach()})
                setattr(attention, name, fresh)
    model.requires_grad_(False)
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, exclude_modules=".*visual.*", lora_dropout=dropout
    )
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "norm" in name:
            torch.nn.init.normal_(parameter, 0.0 if "lora" in name else 1.0, 0.05)
    return model.train()


def gradient(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def apart(found, truth) -> float:
    return float(((found - truth).norm() / truth.norm()).detach())


def states_of(model, batch):
    """States that predict the answers' tokens, one row a response."""
    prompts, responses = split(batch)
    return response_states(model, prompts, responses, range(len(responses)))


def slow(monkeypatch):
    monkeypatch.setattr(lean, "usable", lambda core: False)


def test_attention_in_pieces_is_that_under_a_mask():
    torch.manual_seed(0)
    prompt = Segment(0, 7, None, 6)
    segments = [prompt, Segment(7, 12, prompt, 7), Segment(12, 13, prompt, 12), Segment(13, 20, None, 17)]
    allowed = torch.zeros(20, 20, dtype=torch.bool)
    for each in segments:
        size = each.stop - each.start
        allowed[each.start : each.stop, each.start : each.stop] = torch.ones(size, size).tril().bool()
        if each.before is not None:
            allowed[each.start : each.stop, : prompt.stop] = True
    q, k, v = (torch.randn(20, 3, 16, requires_grad=True) for _ in range(3))
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(*heads_first, allowed[None, None])[0].transpose(
        0, 1
    )
    slope = torch.randn_like(want)
    want.backward(slope)
    pieces = Pieces.of(segments)
    assert pieces.before == [((7, 13), (0, 7))]  # siblings look back together
    with torch.no_grad():
        out, lse = attend(q, k, v, pieces)
        found = attend_backward(slope, q, k, v, out, lse, pieces)
        asked = torch.tensor([6, 7, 8, 9, 10, 11, 12, 17, 18, 19])
        some, _ = attend(q[asked], k, v, Pieces.of(segments, True))
    assert torch.allclose(out, want, atol=1e-6) and torch.allclose(some, want[asked], atol=1e-6)
    for one, other in zip(found, (q, k, v), strict=True):
        assert apart(one, other.grad) <= 1e-6


@pytest.mark.parametrize("targets", [TARGETS, ["q_proj", "up_proj"], ["v_proj", "down_proj"]])
@pytest.mark.parametrize("key_heads", [2, 1])
def test_rows_have_the_states_and_the_gradient_of_the_models_own_layers(tiny, targets, key_heads):
    tokenizer, batch = tiny
    model = with_lora(tokenizer, targets, key_heads=key_heads)
    base = base_of(model)
    wanted = batch.labels[:, 1:] != -100
    want = hidden_states(base, batch)[:, :-1][wanted]
    pop_count()
    got = states_of(model, batch)
    assert pop_count() == batch.tokens - len(batch.labels)  # a row's last token predicts nothing
    assert apart(got, want) <= 1e-5
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    slope = gradient(model, (want * weight).sum())
    assert apart(gradient(model, (got * weight).sum()), slope) <= 1e-5
    with torch.no_grad():
        assert apart(states_of(model, batch), want) <= 1e-5


@pytest.mark.parametrize("group", [1, 10_000])
@pytest.mark.parametrize("merged", [1, 10_000])
def test_responses_behind_shared_prompts(tiny, monkeypatch, group, merged):
    """Every response behind every prompt, one of them empty, and some prompts with one alone: equal to one
    row at a time, with a graph and without, in small groups and with the adapter added to the weights."""
    monkeypatch.setattr(lean, "_GROUP", group)
    monkeypatch.setattr(lean, "_MERGED", merged)
    tokenizer, batch = tiny
    model = with_lora(tokenizer)
    prompts, responses = split(batch)
    texts = [*responses, *responses[:3], responses[4][:1], responses[2]]
    owner = [0] * len(responses) + [3, 3, 3, 1, 2]
    want = sequence_logps(model, prompts, texts, owner, "naive")
    weights = torch.linspace(-1, 2, len(texts), dtype=want.dtype)
    slope = gradient(model, (want * weights).sum())
    for how in ("packed", "cached"):
        got = sequence_logps(model, prompts, texts, owner, how)
        assert torch.allclose(got, want, rtol=1e-5)
        assert apart(gradient(model, (got * weights).sum()), slope) <= 1e-5
    with torch.no_grad():
        assert torch.allclose(sequence_logps(model, prompts, texts, owner, "cached"), want, rtol=1e-5)


def test_embeddings_that_learn_get_their_gradient(tiny, monkeypatch):
    """The merger's adapter stands before the first layer."""
    tokenizer, batch = tiny
    model = with_lora(tokenizer)
    base = base_of(model)
    base.model.visual.merger.requires_grad_(True)
    assert lean.usable(base.model.language_model)
    slope = gradient(model, states_of(model, batch).sum())
    slow(monkeypatch)
    assert apart(slope, gradient(model, states_of(model, batch).sum())) <= 1e-5


def test_it_stands_in_only_for_what_it_computes(tiny):
    tokenizer, _ = tiny
    model = with_lora(tokenizer, dropout=0.1)
    core = base_of(model).model.language_model
    assert not lean.usable(core)  # dropout draws
    model.eval()
    assert lean.usable(core)
    with torch.autocast("cpu", torch.bfloat16):
        assert not lean.usable(core)
    core.layers[0].mlp.up_proj.base_layer.weight.requires_grad_(True)
    assert not lean.usable(core)  # weights of the model's own learn
    core.layers[0].mlp.up_proj.base_layer.weight.requires_grad_(False)
    assert lean.usable(core)
    model.double()
    assert not lean.usable(core)
    model.float()
    checkpoint_layers(base_of(model))
    assert not lean.usable(core)


def test_parts_hold_every_row_once_and_not_too_many_tokens(tiny, monkeypatch):
    tokenizer, batch = tiny
    learner = SimpleNamespace(model=with_lora(tokenizer))
    prompts, responses = split(batch)
    lengths = [n + len(r) for n, r in zip(prompts.lengths.tolist(), responses, strict=True)]
    monkeypatch.setattr("trainer.learner.learner.TOKENS", max(lengths) + 10)
    for rows in (None, 1, 2):
        parts = Learner.together(learner, prompts, responses, rows)
        assert [row for part in parts for row in part] == list(range(len(responses)))
        assert all(sum(lengths[row] for row in part) <= max(lengths) + 10 for part in parts)
        assert rows is None or max(map(len, parts)) <= rows
    assert len(Learner.together(learner, prompts, responses)) > 1
    learner.model.double()  # the model's own layers: on a card a part is as large as it may be
    assert Learner.together(learner, prompts, responses) == [list(range(len(responses)))]


def test_the_models_own_layers_say_the_same_of_packed_responses(tiny, monkeypatch):
    """The way that other devices and types take, held to the same."""
    tokenizer, batch = tiny
    model = with_lora(tokenizer)
    got = states_of(model, batch)
    slow(monkeypatch)
    assert apart(got, states_of(model, batch)) <= 1e-5
