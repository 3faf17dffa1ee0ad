"""How much a run will compute, and how long that takes, from shapes alone. Estimates: of matrix products, and
of the share of a device's speed that a step usually gets."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from ..config.recipe import Config, Phase
from .memory import Length

SHARE = 0.4  # of what a large matrix product gets, for a whole step
CARD = 400e12  # FLOP/s of such a product in bfloat16 on a card that is not here: between an A100 and an H100


def work(
    config: Config, phase: Phase, model: nn.Module, steps: int, length: Length, rows: int | None
) -> float:
    """FLOP of a phase. model: on any device; what learns is marked where its own weights do. rows: that there
    are, whose pictures are seen once where the tower is frozen; None has no end."""
    text: Any = model.config.text_config  # type: ignore[union-attr]
    layers = _linear(model, "language_model.layers.")
    head = text.hidden_size * text.vocab_size
    wide = text.num_attention_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )

    def forward(tokens: float, context: float, scored: float) -> float:
        """tokens, each of which sees the mean of `context`; scored: of them that reach the head."""
        return 2 * tokens * (layers + 2 * text.num_hidden_layers * wide * context) + 2 * scored * head

    full = config.model.train == "full"
    passes = (3.0 if full else 2.0) + (1.0 if config.model.checkpointing else 0.0)
    batch, row, answer = phase.batch, length.row, length.answer
    if phase.kind == "sft":
        step = passes * forward(batch * row, row / 2, batch * answer)
        return steps * step + _seen(config, phase, model, steps, length, rows)
    if phase.kind == "dpo":  # both answers behind one prompt; the reference's are kept after the first epoch
        both = forward(batch * (row + answer), (row + answer) / 2, 2 * batch * answer)
        return steps * (passes + 2) * both + _seen(config, phase, model, steps, length, rows)
    if phase.kind == "group":
        drawn = batch * phase.rewards.samples * answer
        prompts = forward(batch * length.prompt, length.prompt / 2, 0)
        samples = forward(drawn, length.prompt + answer / 2, drawn)
        step = passes * (prompts + samples) + (prompts + samples) / phase.draws
        step += prompts + samples if phase.frozen else 0.0
        return steps * step + _seen(config, phase, model, steps, length, rows)
    pairs = batch * (phase.eta0.shifts if phase.eta0.over == "shifts" else max(0, batch - 1))
    if phase.eta0.over == "none":
        pairs = 0
    if phase.eta0.over == "onpolicy":
        pairs = batch * phase.rewards.samples
    others = forward(pairs * answer, length.prompt + answer / 2, pairs * answer)
    own = forward(batch * row, row / 2, batch * answer)
    step = passes * own + 2 * (own + others)  # policy and reference, without a graph
    if phase.kind == "rkto":
        drawn = batch * phase.rewards.samples * answer
        samples = forward(drawn, length.prompt + answer / 2, drawn)
        step += forward(batch * length.prompt, length.prompt / 2, 0) + samples
        step += passes * samples if phase.rkto.reinforce != "none" else 0.0
    return steps * step + _seen(config, phase, model, steps, length, rows)


def seconds(flop: float, device: torch.device | None, dtype: str) -> tuple[float, str]:
    """(how long that much takes, where): on the device as it is now, or on a card that is not here."""
    if device is None:
        return flop / (CARD * SHARE), "a card of 400 TFLOP/s in bfloat16"
    rate = _rate(device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32))
    return flop / (rate * SHARE), f"{device}, which now does {rate / 1e9:,.0f} GFLOP/s"


def _seen(
    config: Config, phase: Phase, model: nn.Module, steps: int, length: Length, rows: int | None
) -> float:
    """FLOP of the vision tower."""
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    learns = config.lora.vision or config.model.train != "lora"
    times = steps * phase.batch
    if not learns and rows is not None:
        times = min(times, rows)
    passes = 3.0 if config.model.train == "full" else 2.0 if config.lora.vision else 1.0
    patches = length.pictures * vision.spatial_merge_size**2
    return times * passes * 2 * patches * _linear(model, "visual.blocks.")


def _linear(model: nn.Module, where: str) -> int:
    """Weights of linear modules whose name holds that."""
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and where in name
    )


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product there, the best of some."""
    side = 4096 if device.type == "cuda" else 512
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best
