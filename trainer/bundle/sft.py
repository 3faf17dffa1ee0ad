"""The SFT phase: steps of token cross-entropy on batches that are a function of (seed, step), so that it
resumes exactly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.amp import autocast

from ..learner.guard import check_in_a_row, skip_reason
from ..learner.state import Progress, States
from ..model.batch import Batch
from ..model.forward import hidden_and_seen
from ..model.optim import make_optimizer, schedule
from ..objectives.sft import sft_loss


@dataclass(frozen=True)
class SFTConfig:
    """steps and batch in optimiser steps and rows; learning rates of Muon's matrices and AdamW's rest;
    warm-up steps; cooldown: the last share of the steps, over which the rates fall to nothing; autocast:
    bf16 arithmetic; save_every: steps between states."""

    steps: int
    batch: int = 32
    lr_muon: float = 0.02
    lr_adam: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    cooldown: float = 0.3
    seed: int = 0
    autocast: bool = True
    save_every: int = 500


@runtime_checkable
class Reports(Protocol):
    """A module beside the model that has something to say in the log."""

    def report(self) -> str: ...


def run_sft(
    model: Any,
    make_batch: Callable[[int], Batch],
    config: SFTConfig,
    state: Path,
    log: Callable[[str], None] = print,
    on_save: Callable[[int], None] | None = None,
    beside: nn.Module | None = None,
) -> None:
    """Trains `model` in place, resuming from a state in the folder `state`. Raises ConfigError where it holds
    one of another recipe.

    make_batch: step -> Batch. A step whose loss is not finite is dropped and counted; TrainingError after
        three in a row.
    log: told a line.
    on_save: called with the step after each saved state.
    beside: a module that is trained along with the model; beside(tower states [patches, width], batch.shown)
        is a loss in nats.
    """
    trained = nn.ModuleDict({"model": model} if beside is None else {"model": model, "beside": beside})
    optimizer = make_optimizer(
        trained, config.lr_muon, config.lr_adam, weight_decay=config.weight_decay, adam_names=("beside.",)
    )
    saves, first = States(state, asdict(config), keep_last=1), 0
    saved = saves.newest()
    if saved is not None:
        saved.load_weights(trained)
        saved.load_optimizer(optimizer)
        first = saved.progress.step
        log(f"resumed at step {first}")
    model.train()
    progress, rows, tokens = Progress(), 0, 0
    mean, begun = 0.0, time.monotonic()
    for step in range(first, config.steps):
        optimizer.set_lr(schedule(step, config.steps, config.warmup, config.cooldown))
        batch = make_batch(step)
        with autocast(batch.input_ids.device.type, torch.bfloat16, enabled=config.autocast):
            hidden, states = hidden_and_seen(model, batch)
            total, count = sft_loss(hidden, batch.labels, model.lm_head)
            loss = total / count
            value = float(loss.detach())
            if beside is not None:
                loss = loss + beside(states, batch.shown)
        why = skip_reason(progress, value)
        if why is None:
            loss.backward()
            optimizer.step()
        else:
            log(f"step {step}: {why}; the step is dropped ({progress.in_a_row} in a row)")
            check_in_a_row(progress, f"step {step}: {why}", "lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        rows, tokens = rows + len(batch.input_ids), tokens + batch.tokens
        mean = value if step == first else 0.98 * mean + 0.02 * value
        if (step + 1) % 100 == 0:
            spent = time.monotonic() - begun
            rates = f"rows/s {rows / spent:.1f} tokens/s {tokens / spent:.0f}"
            more = f" {beside.report()}" if isinstance(beside, Reports) else ""
            log(f"step {step + 1}/{config.steps} loss {mean:.4f} {rates}{more}")
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            saves.save(trained, optimizer, Progress(step + 1))
            if on_save is not None:
                on_save(step + 1)
    model.eval()
