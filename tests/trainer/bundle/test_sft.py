"""The SFT phase: it learns, it resumes exactly, and it survives a bad step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evlm.errors import TrainingError
from trainer.bundle.reasoner import training_batch
from trainer.bundle.sft import SFTConfig, run_sft
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.model.batch import Collator


@pytest.fixture(scope="module")
def parts():
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    return tokenizer, Collator(make_processor(tokenizer))


def build(tokenizer) -> nn.Module:
    model = make_model(tokenizer, width=64, layers=1, vision_width=32, vision_depth=1)
    model.set_attn_implementation("eager")
    return model


def config(steps: int, save_every: int = 100) -> SFTConfig:
    return SFTConfig(steps=steps, batch=2, warmup=2, autocast=False, save_every=save_every)


def test_a_stopped_run_resumes_to_the_same_bits(parts, tmp_path):
    tokenizer, collate = parts
    whole = build(tokenizer)
    run_sft(
        whole, lambda s: training_batch(collate, s, 2, 0), config(6, 3), tmp_path / "whole", lambda _: None
    )

    def dies(step: int):
        if step == 5:
            raise KeyboardInterrupt
        return training_batch(collate, step, 2, 0)

    with pytest.raises(KeyboardInterrupt):
        run_sft(build(tokenizer), dies, config(6, 3), tmp_path / "cut", lambda _: None)
    lines: list[str] = []
    resumed = build(tokenizer)
    run_sft(resumed, lambda s: training_batch(collate, s, 2, 0), config(6, 3), tmp_path / "cut", lines.append)
    assert lines[0] == "resumed at step 3"
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow  # learns: a quarter of a minute of one core
def test_one_batch_is_learned(parts, tmp_path):
    tokenizer, collate = parts
    batch, losses = training_batch(collate, 0, 2, 0), []
    model = build(tokenizer)

    def watch(_step: int):
        return batch

    from trainer.model.forward import hidden_states
    from trainer.objectives.sft import sft_loss

    for steps in (1, 60):
        run_sft(model, watch, config(steps), tmp_path / str(steps), lambda _: None)
        with torch.no_grad():
            total, count = sft_loss(hidden_states(model, batch), batch.labels, model.lm_head)
        losses.append(float(total) / count)
    assert losses[1] < 0.5 * losses[0]


def test_three_steps_without_a_number_stop_the_run_and_change_nothing(parts, tmp_path):
    tokenizer, collate = parts
    model = build(tokenizer)
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(float("nan"))
    before = [p.clone() for p in model.parameters()]
    lines: list[str] = []
    with pytest.raises(TrainingError, match="3 steps in a row"):
        run_sft(model, lambda s: training_batch(collate, s, 2, 0), config(9), tmp_path / "nan", lines.append)
    assert len(lines) == 3 and "is dropped" in lines[0]
    assert all(torch.equal(a, b) for a, b in zip(before[:5], list(model.parameters())[:5], strict=True))
