"""Adapters merged into their weights for a while, against PEFT's own forward."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from trainer.model import merged_lora
from trainer.model.merged_lora import merged, merged_weights


def two_adapters(dtype: torch.dtype = torch.float32, **options: object):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 7, bias=False)).to(dtype)
    lora = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], **options)
    model = get_peft_model(base, lora).eval()
    model.add_adapter("other", lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return model


def layers(model):
    return [each for each in model.modules() if hasattr(each, "lora_A")]


@torch.no_grad()
def test_every_choice_of_adapters_equals_peft_and_nothing_is_left_behind():
    model, x = two_adapters(), torch.randn(5, 12)
    before = copy.deepcopy(model.state_dict())
    plain = []
    for name in ("default", "other"):
        model.set_adapter(name)
        plain.append(model(x))
    model.base_model.set_adapter(["default", "other"])
    plain.append(model(x))
    with model.disable_adapter():
        plain.append(model(x))
    model.set_adapter("default")
    with merged_weights(model):
        results = []
        for name in ("default", "other"):
            model.set_adapter(name)
            results.append(model(x))
            assert torch.equal(model(x), results[-1])
        model.base_model.set_adapter(["default", "other"])
        results.append(model(x))
        with model.disable_adapter():
            results.append(model(x))
    assert not torch.allclose(results[0], results[1]) and not torch.allclose(results[0], results[3])
    for ours, theirs in zip(results, plain, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(layer) for layer in layers(model))


def test_a_merged_model_adds_its_adapters():
    model = two_adapters()
    with merged(model):
        assert all("forward" in vars(layer) for layer in layers(model))
    assert not any("forward" in vars(layer) for layer in layers(model))


@torch.no_grad()
def test_a_changed_adapter_is_seen_the_next_time():
    model, x = two_adapters(), torch.randn(5, 12)
    with merged_weights(model):
        before = model(x)
    layers(model)[0].lora_B["default"].weight += 1.0
    plain = model(x)
    with merged_weights(model):
        assert torch.allclose(model(x), plain, atol=1e-6) and not torch.allclose(model(x), before)


@torch.no_grad()
@pytest.mark.parametrize("why", ["bfloat16", "dora", "bias", "merged", "large"])
def test_what_it_would_round_or_not_understand_stays_peft_s(why, monkeypatch):
    options = {"dora": {"use_dora": True}, "bias": {"lora_bias": True}}.get(why, {})
    model = two_adapters(torch.bfloat16 if why == "bfloat16" else torch.float32, **options)
    if why == "merged":
        model.base_model.merge_adapter()
    if why == "large":
        monkeypatch.setattr(merged_lora, "LIMIT", 12 * 20 + 20 * 7 - 1)
    x = torch.randn(5, 12, dtype=next(model.parameters()).dtype)
    plain = model(x)
    with merged_weights(model):
        assert not any("forward" in vars(layer) for layer in layers(model))
        assert torch.equal(model(x), plain)


@torch.no_grad()
def test_one_inside_another_and_an_error_inside():
    model, x = two_adapters(), torch.randn(5, 12)
    with merged_weights(model):
        outer = model(x)
        with merged_weights(model):
            assert torch.equal(model(x), outer)
        assert torch.equal(model(x), outer)
        assert all("forward" in vars(layer) for layer in layers(model))
    with pytest.raises(RuntimeError), merged_weights(model):
        model(torch.randn(5, 11))
    assert not any("forward" in vars(layer) for layer in layers(model))
    with merged_weights(model), torch.autocast("cpu", torch.bfloat16):
        inside = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inside, model(x))
