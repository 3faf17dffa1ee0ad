"""Packed gradients against one row at a time: python -m benchmarks.packed_gradients [--rows 8] [--samples 3]
[--shape real]

A tiny Qwen2-VL in float32 with a LoRA, rows of the world. The truth is the model's own forward on one prompt
and one response at a time ("naive"). Against it: the trainer's own layers, a prompt once with all its
responses behind it, and rows of one response each (an SFT or KTO step); and what other devices and types do
by the model's layers: one packed row a prompt under a block-diagonal mask ("packed"), the prompt's keys and
values shared by its responses ("cached"), rows of one response each without padding. Prints the relative
error of the whole gradient, ||g - truth|| / ||truth||, and of the scores; and how far float32 itself is from
float64, so that the error can be judged.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.bundle.tiny_qwen import make_processor, make_tokenizer
from trainer.model.batch import Collator
from trainer.model.logprobs import How, sequence_logps
from trainer.model.prompts import Prompts, split

from .eta0 import models_own_layers, with_adapters, world_batch
from .trl_world import SHAPES

BAR = 1e-5


def main(rows: int, samples: int, shape: str) -> int:
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = with_adapters(SHAPES[shape].model(tokenizer))
    prompts, responses = split(world_batch(Collator(make_processor(tokenizer)), rows, 0))
    several = [responses[(i + n) % rows] for i in range(rows) for n in range(samples + 1)]
    behind = [i for i in range(rows) for _ in range(samples + 1)]
    print(
        f"{rows} prompts of {float(prompts.lengths.float().mean()):.0f} tokens, responses of "
        f"{sum(map(len, responses)) / rows:.0f}, shape {shape!r}"
    )
    alone = list(range(rows))
    worst = 0.0
    for texts, owner in ((several, behind), (responses, alone)):
        score, slope = scored(model, prompts, texts, owner, "naive")
        other, found = scored(model, prompts, texts, owner, "packed")
        error, far = apart(found, slope), float(((other - score) / score).abs().max())
        worst = max(worst, error)
        name = f"own layers, {len(texts) // rows} responses a prompt"
        print(f"  {name}: gradient {error:.1e} (bar {BAR:.0e}), greatest of a score {far:.1e}")
    cases: tuple[tuple[str, How, list[Tensor], list[int]], ...] = (
        (f"packed, {samples + 1} responses a prompt", "packed", several, behind),
        (f"cached, {samples + 1} responses a prompt", "cached", several, behind),
        ("packed, one response a prompt", "packed", responses, alone),
        ("cached, one response a prompt", "cached", responses, alone),
    )
    for name, how, texts, owner in cases:
        score, slope = scored(model, prompts, texts, owner, "naive")
        with models_own_layers():
            other, found = scored(model, prompts, texts, owner, how)
        error, far = apart(found, slope), float(((other - score) / score).abs().max())
        worst = max(worst, error)
        print(f"  {name}: gradient {error:.1e} (bar {BAR:.0e}), greatest of a score {far:.1e}")
    exact = replace(prompts, batch=replace(prompts.batch, pixels=prompts.batch.pixels.double()))
    _, truth = scored(copy.deepcopy(model).double(), exact, several, behind, "naive")
    for name, how in (("one row at a time", "naive"), ("packed", "packed")):
        with models_own_layers():
            _, slope = scored(model, prompts, several, behind, how)
        print(f"  float32 against float64, {name}: {apart(slope.double(), truth):.1e}")
    return int(worst > BAR)


def scored(
    model: Any, prompts: Prompts, texts: list[Tensor], owner: list[int], how: How
) -> tuple[Tensor, Tensor]:
    """(scores [N], gradient of their weighted sum over all trainable parameters)."""
    model.zero_grad()
    scores = sequence_logps(model, prompts, texts, owner, how)
    (scores * torch.linspace(-1, 2, len(texts), dtype=scores.dtype)).sum().backward()
    return scores.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def apart(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="packed gradients against one row at a time")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="real")
    given = parser.parse_args()
    raise SystemExit(main(given.rows, given.samples, given.shape))
