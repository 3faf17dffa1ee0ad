"""A training run: SFT and KTO phases on a LoRA adapter, one after the other, from one recipe.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.backbone import load_backbone
from evlm.checkpoint import AdapterMeta, config_hash, save_adapter
from evlm.errors import ConfigError, ModelError
from evlm.loading import pick_device
from evlm.lora import Lora
from evlm.masktext import get_codec
from evlm.messages import Chat, build_messages
from evlm.request import Request
from evlm.zoo import resolve

from .batch import Batch, Collator
from .config import Config, Phase
from .eta0 import compare
from .forward import hidden_states
from .objectives.kto import kto_loss
from .objectives.sft import sft_loss
from .reference import Reference
from .rows import Example, Rows, open_rows
from .scoring import base_of, sequence_logps, split
from .state import load_state, save_state, saved_step

Report = Callable[[dict[str, Any]], None]
REFERENCE = "reference"  # the name of the frozen adapter
BAD_STEPS = 3  # in a row, then the run stops


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass
class Learner:
    """The model with its adapter, and what turns examples into its inputs."""

    model: Any  # peft.PeftModel
    processor: Any
    style: Any
    codec: Any
    max_frames: int
    meta: AdapterMeta
    device: torch.device
    collate: Collator = field(init=False)

    def __post_init__(self) -> None:
        self.collate = Collator(self.processor)

    def batch(self, examples: list[Example]) -> Batch:
        return self.collate([e.chat for e in examples], [e.answer for e in examples])

    def chat(self, request: Request) -> Chat:
        """The request as this model reads it."""
        return build_messages(request, self.codec, self.style, self.max_frames)

    def rows(self, config: Config, phase: Phase) -> Rows:
        """What the phase learns from, in the words that this model was made for. Raises RecordError."""
        desired = phase.kind == "sft"
        return open_rows(config.data, phase.batch, config.seed, desired, self.style, self.codec)

    def trainable(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]


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
    path = export(learner, out / "adapter.safetensors", {"steps": total, "recipe": config.identity[:2000]})
    report({"event": "done", "adapter": str(path)})
    return path


def load_learner(config: Config) -> Learner:
    """The backbone with a fresh adapter, whose first values are the seed's alone. Raises ModelError."""
    from peft import LoraConfig, get_peft_model

    settings, device = (
        config.lora,
        pick_device(None if config.model.device == "auto" else config.model.device),
    )
    backbone = load_backbone(
        resolve(config.model.base, "reasoner"),
        config.model.adapter,
        config.model.dtype,
        device,
        config.model.attention,
    )
    if backbone.family != "qwen2_vl":
        raise ModelError(f"{config.model.base} is a {backbone.family}; trained are Qwen2-VL models")
    targets = [
        name
        for name, module in backbone.model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (".visual." not in f".{name}." or settings.vision)
        and name.rpartition(".")[2] in settings.targets
    ]
    if not targets:
        raise ConfigError(f"lora.targets {', '.join(settings.targets)}: the model has no such linear modules")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = get_peft_model(
            backbone.model,
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=targets,
            ),
        )
    if any(phase.kind == "kto" for phase in config.phases):
        model.add_adapter(REFERENCE, model.peft_config["default"])
        model.set_adapter("default")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name and ".default." in name)
    meta = AdapterMeta(
        Lora(rank=settings.rank, alpha=settings.alpha, targets=tuple(sorted(targets))),
        base_model=config.model.base,
        base_config_hash=config_hash(backbone.model.config),
        prompt=backbone.style.name,
        mask_codec=backbone.codec,
    )
    return Learner(
        model,
        backbone.processor,
        backbone.style,
        get_codec(backbone.codec),
        backbone.max_frames,
        meta,
        device,
    )


def export(learner: Learner, path: Path, training: dict[str, Any]) -> Path:
    """Writes the adapter as the one file that the nodes and `--adapter` load."""
    from dataclasses import replace

    from peft import get_peft_model_state_dict

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(learner.model)
    save_adapter(path, tensors, replace(learner.meta, training=training))
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
    if phase.kind == "kto" and not first:
        freeze_reference(learner.model)
    reference = Reference(learner.model, REFERENCE) if phase.kind == "kto" else None
    learner.model.train()
    bad, began = 0, time.monotonic()
    for step in range(first, phase.steps):
        at, last = before + step + 1, step + 1 == phase.steps
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * _rate(step, phase)
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(config.seed * 1_000_003 + at)  # dropout's
        examples = rows.batch(earlier + step)
        if reference is None:
            parts = _sft_step(learner, examples, phase)
        else:
            parts = _kto_step(learner, reference, examples, phase, at)
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
            report({"event": "step", "stage": stage, "kind": phase.kind, "step": at, "norm": norm,
                    "seconds": seconds, **parts})  # fmt: skip
        if at % config.save_every == 0 or last or stop.is_set():
            save_state(state, learner.model, optimizer, at, config.identity)
        if stop.is_set():
            raise Stopped(f"stopped at step {at}; the same command goes on from there")


def _sft_step(learner: Learner, examples: list[Example], phase: Phase) -> dict[str, float]:
    """Cross-entropy per answer token of the whole batch; gradients are left in the parameters."""
    batches = [learner.batch(part) for part in _micro(examples, phase)]
    tokens = sum(int((batch.labels != -100).sum()) for batch in batches)
    base, loss = base_of(learner.model), 0.0
    for batch in batches:
        batch = batch.to(learner.device)
        summed, _ = sft_loss(hidden_states(base, batch), batch.labels, base.lm_head)
        (summed / tokens).backward()
        loss += float(summed.detach()) / tokens
    return {"loss": loss, "tokens": tokens}


def _kto_step(
    learner: Learner, reference: Reference, examples: list[Example], phase: Phase, at: int
) -> dict[str, float]:
    """KTO on the whole batch: the reference and eta0 first, without a graph, then the gradient part by
    part."""
    model = learner.model
    prompts, responses = split(
        learner.batch(examples), base_of(model).config.vision_config.spatial_merge_size
    )
    seen = compare(model, reference, prompts, responses, phase.eta0, at, phase.kto.log_ratio)
    lengths = torch.tensor([len(each) for each in responses], device=seen.policy.device)
    desired = torch.tensor([example.desired for example in examples], device=seen.policy.device)
    loss, ratios = 0.0, []
    for rows in torch.arange(len(examples)).split(phase.micro_batch or len(examples)):
        index = rows.tolist()
        some = [responses[i] for i in index]
        policy = sequence_logps(model, prompts.take(index), some, range(len(index)), "packed")
        part, parts = kto_loss(
            policy, seen.reference[rows], lengths[rows], desired[rows], seen.eta0, phase.kto, len(examples)
        )
        part.backward()
        loss += float(part.detach())
        ratios.append(parts["s"])
    s = torch.cat(ratios)
    groups = (("s_desired", desired), ("s_undesired", ~desired))
    means = {name: float(s[which].mean()) for name, which in groups if bool(which.any())}
    return {"loss": loss, "eta0": float(seen.eta0), "desired": float(desired.float().mean()), **means}


def freeze_reference(model: Any) -> None:
    """The adapter as it is now becomes the reference: a second one, frozen, in the same base."""
    values = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            if f".{REFERENCE}." in name:
                value.copy_(values[name.replace(f".{REFERENCE}.", ".default.")])


def _micro(examples: list[Example], phase: Phase) -> list[list[Example]]:
    size = phase.micro_batch or len(examples)
    return [examples[at : at + size] for at in range(0, len(examples), size)]


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
