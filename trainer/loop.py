"""A training run: SFT, KTO and RKTO phases on a LoRA adapter, one after the other, from one recipe.

A step is a function of (seed, stage, step), so a run that was stopped anywhere goes on from its last whole
state and ends in the same bits.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from evlm.errors import ModelError

from .config import Config, Phase
from .fed import take_fed
from .learner import REFERENCE, Learner, freeze_reference, load_learner, save_learned
from .reference import Reference
from .rows import Example
from .state import load_state, save_state, saved_step
from .steps.kto import kto_step
from .steps.rkto import rkto_step
from .steps.sft import sft_step

Report = Callable[[dict[str, Any]], None]
BAD_STEPS = 3  # in a row, then the run stops


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def run(config: Config, report: Report) -> Path:
    """Trains what the recipe says and returns the adapter's file, which Load EVLM takes.

    report: called with one JSON-able dict an event: "start", "resume", "step", "phase", "done", "dropped".
    Raises Stopped after SIGTERM or Ctrl-C, with the state saved; ConfigError, ModelError, RecordError.
    """
    out = Path(config.out)
    learner = load_learner(config)
    torch.manual_seed(config.seed)
    total = sum(phase.steps for phase in config.stages)
    count = sum(p.numel() for p in learner.trainable())
    report({"event": "start", "steps": total, "trainable": count})
    found, before = saved_step(out / "state", config.identity), 0
    with _asked_to_stop() as stop:
        for stage, phase in enumerate(config.stages):
            end = before + phase.steps
            if found < end:
                _run_phase(config, learner, stage, before, max(found - before, 0), report, stop)
                report({"event": "phase", "stage": stage, "kind": phase.kind, "step": end})
            elif end == total:
                load_state(out / "state", learner.model, None, config.identity)
            before = end
    path = save_learned(
        learner, out / "adapter.safetensors", {"steps": total, "recipe": config.identity[:2000]}
    )
    report({"event": "done", "adapter": str(path)})
    return path


def _run_phase(
    config: Config,
    learner: Learner,
    stage: int,
    before: int,
    first: int,
    report: Report,
    stop: threading.Event,
) -> None:
    """Steps first ... of a stage whose first step is the run's `before`."""
    phase, state = config.stages[stage], Path(config.out) / "state"
    rows = learner.rows(config, phase)
    earlier = sum(each.steps for each in config.stages[:stage] if each.kind == phase.kind)
    optimizer = torch.optim.AdamW(learner.trainable(), lr=phase.lr, weight_decay=phase.weight_decay)
    if first or (before and saved_step(state, config.identity) == before):
        load_state(state, learner.model, optimizer if first else None, config.identity)
        report({"event": "resume", "step": before + first})
    if phase.kind != "sft" and not first:
        freeze_reference(learner.model)
    reference = None if phase.kind == "sft" else Reference(learner.model, REFERENCE)
    learner.model.train()
    bad, fed, began = 0, 0.0, time.monotonic()
    total = sum(each.steps for each in config.stages)
    for step in range(first, phase.steps):
        at, last = before + step + 1, step + 1 == phase.steps
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * _rate(step, phase)
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(config.seed * 1_000_003 + at)  # dropout's
        take_fed()
        examples = learner.ranks.part(rows.batch(earlier + step))
        parts = _step(learner, reference, examples, phase, at, config.seed)
        tokens = learner.ranks.total(take_fed(), learner.device)
        fed += tokens
        learner.ranks.sum_gradients(learner.trainable())
        norm = float(torch.nn.utils.clip_grad_norm_(learner.trainable(), phase.clip))
        if math.isfinite(parts["loss"]) and math.isfinite(norm):
            optimizer.step()
            bad = 0
        else:
            bad += 1
            report({"event": "dropped", "stage": stage, "step": at, "loss": repr(parts["loss"])})
            if bad == BAD_STEPS:
                raise ModelError(f"{bad} steps in a row without a finite loss; lower phases.{stage}.lr")
        if at % config.log_every == 0 or last:
            seconds = (time.monotonic() - began) / (step + 1 - first)
            report({"event": "step", "stage": stage, "kind": phase.kind, "step": at, "steps": total,
                    **parts, "norm": norm, "lr": optimizer.param_groups[0]["lr"], "seconds": seconds,
                    "tokens": int(tokens),
                    "tokens_per_second": fed / (time.monotonic() - began)})  # fmt: skip
        if at % config.save_every == 0 or last or stop.is_set():
            save_state(state, learner.model, optimizer, at, config.identity)
        if stop.is_set():
            raise Stopped(f"stopped at step {at}; the same command goes on from there")


def _step(
    learner: Learner, reference: Reference | None, examples: list[Example], phase: Phase, at: int, seed: int
) -> dict[str, float]:
    """One step's gradients, left in the parameters, and the whole batch's numbers."""
    if reference is None:
        return sft_step(learner, examples, phase)
    if phase.kind == "kto":
        return kto_step(learner, reference, examples, phase, at)
    return rkto_step(learner, reference, examples, phase, at, seed)


def _rate(step: int, phase: Phase) -> float:
    left = (phase.steps - step) / max(1.0, phase.cooldown * phase.steps)
    return min(1.0, (step + 1) / max(1, phase.warmup), left)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM and Ctrl-C, so that the step is finished and saved; elsewhere than in the main thread
    signals stay whose they are."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)
