"""Detector and segmenter trained on from weights that are there, with stills of solids among the pictures.

A step's pictures are a function of (seed, step), so a training that was stopped goes on from its newest state
to the same bits.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evlm.errors import ConfigError

from ..learner.guard import check_in_a_row, skip_reason
from ..learner.state import Progress, States
from ..model.optim import make_optimizer, schedule
from ..world.solid import SOLIDS
from ..world.words import known_words
from .objects import draw_mixed
from .tokens import clip_tokenizer

SOLID_SHARE = 0.4  # of the pictures; the others are known, and rehearsed
Loss = Callable[[int], "tuple[Tensor, dict[str, Any]]"]


@dataclass(frozen=True)
class PartRecipe:
    """steps, batch: optimiser steps and pictures in each. lr_muon, lr_adam: learning rates of matrices and of
    the rest. solids: share of stills of solids. half: compute in bfloat16. save_every: steps between
    states."""

    steps: int
    batch: int
    lr_muon: float
    lr_adam: float
    warmup: int = 100
    cooldown: float = 0.6
    solids: float = SOLID_SHARE
    half: bool = True
    save_every: int = 100
    seed: int = 0


# The bundled detector's; 1,800 steps were planned, on a machine that many shared 700 were run.
DETECTOR = PartRecipe(steps=700, batch=48, lr_muon=0.01, lr_adam=1e-3)
SEGMENTER = PartRecipe(steps=2400, batch=16, lr_muon=0.003, lr_adam=7e-4)


def train_detector_on(
    begin: Path, out: Path, work: Path, recipe: PartRecipe = DETECTOR, log: Callable[[str], None] = print
) -> None:
    """Trains the OWL-ViT in the folder `begin` on, with the names of solids, and writes the model folder
    `out`, which may be the same. Raises ConfigError where `begin` holds none."""
    from transformers import AutoTokenizer, OwlViTForObjectDetection

    from . import detector
    from .grow import carry_clip

    model = _loaded(OwlViTForObjectDetection, begin, "detector", attn_implementation="eager")
    old = AutoTokenizer.from_pretrained(begin, local_files_only=True)
    words = [*known_words(), *detector.OTHER_WORDS, *SOLIDS]
    tokenizer = clip_tokenizer(words, detector.TEXT_LENGTH)
    carry_clip(model.owlvit.text_model, old, tokenizer)
    asked = detector.label_bank(detector.ALL_SHAPES)
    truth, known = detector.truth_table(asked, detector.ALL_SHAPES)
    log(f"detector: {len(old)} tokens have become {len(tokenizer)}, {len(asked)} labels")

    def loss(step: int) -> tuple[Tensor, dict[str, Any]]:
        rng = random.Random(f"detector words {recipe.seed} {step}")
        words = [phrase for phrase, _ in asked] + [detector.nonsense(rng) for _ in range(4)]
        batch = draw_mixed(f"detector {recipe.seed}", step, recipe.batch, recipe.solids, detector.SIZE)
        return detector.step_loss(model, tokenizer, words, truth, known, batch, recipe.half)

    names = ("logit_shift", "logit_scale", "box_head.dense2")
    run_part(model, loss, recipe, work / f"detector-solids-{recipe.solids:g}", "detector", names, log)
    detector.save(model, tokenizer, out, asdict(recipe))


def train_segmenter_on(
    begin: Path, out: Path, work: Path, recipe: PartRecipe = SEGMENTER, log: Callable[[str], None] = print
) -> None:
    """Likewise the SAM 2 for stills. Raises ConfigError where `begin` holds none, or one for clips."""
    from transformers import Sam2Model

    from evlm.segment.tracker import can_track

    from . import segmenter

    if can_track(begin):
        raise ConfigError(
            f"{begin}: a tracker, which `bundle tracker` trained from a segmenter for stills: give that "
            "one's folder, and train the tracker again from what comes out"
        )
    model = _loaded(Sam2Model, begin, "segmenter", attn_implementation="eager")
    for constant in segmenter.constants_of(model):
        constant.requires_grad_(False)

    def loss(step: int) -> tuple[Tensor, dict[str, Any]]:
        rng = random.Random(f"segmenter prompts {recipe.seed} {step}")
        batch = draw_mixed(f"segmenter {recipe.seed}", step, recipe.batch, recipe.solids, segmenter.SIZE)
        return segmenter.step_loss(model, batch, rng.choice(segmenter.KINDS), rng, recipe.half)

    run_part(model, loss, recipe, work / f"segmenter-solids-{recipe.solids:g}", "segmenter", (), log)
    segmenter.save(model, out, asdict(recipe))


def run_part(
    model: Any,
    loss_of: Loss,
    recipe: PartRecipe,
    work: Path,
    name: str,
    adam_names: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> None:
    """Trains `model` in place from its newest state in the folder `work`. Raises ConfigError where that is of
    another recipe, TrainingError after three steps in a row whose loss is not finite.

    loss_of: step -> (loss, what the log says of it). adam_names: parts of the names of what AdamW takes.
    """
    model.train()
    optimizer = make_optimizer(model, recipe.lr_muon, recipe.lr_adam, adam_names=adam_names)
    saves, first, progress = States(work, asdict(recipe), keep_last=1), 0, Progress()
    saved = saves.newest()
    if saved is not None:
        saved.load_weights(model)
        saved.load_optimizer(optimizer)
        first = saved.progress.step
        log(f"{name}: resumed at step {first}")
    began = time.monotonic()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        optimizer.set_lr(schedule(step, recipe.steps, recipe.warmup, recipe.cooldown))
        loss, parts = loss_of(step)
        why = skip_reason(progress, loss.item())
        if why is None:
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            log(f"{name} step {step}: {why}; the step is dropped ({progress.in_a_row} in a row)")
            check_in_a_row(progress, f"step {step}: {why}", "lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0 or step in (first, recipe.steps - 1):
            said = " ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in parts.items())
            log(f"{name} step {step + 1}/{recipe.steps}, {(time.monotonic() - began) / 60:.1f} min: {said}")
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            saves.save(model, optimizer, Progress(step + 1))
    model.eval()


def _loaded(kind: Any, begin: Path, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(begin, dtype=torch.float32, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{begin}: no {name} to begin with ({error!s:.120}); give its folder") from None
