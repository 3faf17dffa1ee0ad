"""The bundled tracker: a SAM 2 for clips of about 1.7 million parameters, trained on the moving world.

It begins with the bundled segmenter's Hiera; neck, prompt encoder and decoder are new, for they are of
another width. Two stages: stills, by the segmenter's own step, until the image half is as good as the
segmenter; then clips of eight frames, every other step still a still one, Hiera frozen for the first half.
Every step's draws are a function of (seed, step), so that a run which was stopped goes on from its newest
state to the same weights.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evlm.segment.segmenter import MEAN, STD
from trainer.model.optim import make_optimizer, schedule

from ..world.clips import FRAMES, random_film
from ..world.scene import Split, random_scene, scene_split
from .objects import Sample, samples, targets, tight_box
from .segmenter import INPUT, KINDS, SIZE, off_box, step_loss
from .tracker_model import Frame, make_tracker, stills, unroll
from .tracker_state import resume, save_state

LENGTH = 8  # frames of a training clip
LEAST = 20  # pixels of a thing that are seen in the first frame, in which it is prompted
PRESENT = 6  # pixels from which a thing is there
FOCAL, DICE, GUESS, THERE = 20.0, 1.0, 1.0, 1.0  # weights of SAM 2's training (Ravi et al., 2024, appendix)
STATE_EVERY = 250


@dataclass(frozen=True)
class Recipe:
    """Steps of each stage, pictures and clips in a step, learning rates of matrices (Muon) and of the
    rest."""

    stills: int = 2000
    clips: int = 3000
    batch: int = 16
    clip_batch: int = 6
    rate: float = 0.006
    other_rate: float = 1.5e-3


@dataclass(frozen=True)
class ClipSample:
    """frames: uint8 [T, S, S, 3]. masks: bool [T, S, S], where the thing is seen. box: float32 [4], around it
    in the first frame. hidden: something hides a part of it, or it leaves."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    box: NDArray[np.float32]
    hidden: bool


def clip_sample(rng: random.Random, split: Split, length: int = LENGTH, size: int = SIZE) -> ClipSample:
    """A clip with a thing of that split, prompted where it is well seen; up to twice the speed of the world,
    half of them backwards."""
    while True:
        scene = random_scene(rng)
        wanted = targets(scene.things, split)
        if scene_split(scene) != split or not wanted:
            continue
        film = random_film(rng, scene, rng.randrange(5))
        thing = scene.things[rng.choice(wanted)]
        stride = rng.choice((1, 2)) if length * 2 <= FRAMES else 1
        first = rng.randint(0, film.frames - (length - 1) * stride - 1)
        which = [first + stride * i for i in range(length)]
        which = which[::-1] if length < FRAMES and rng.random() < 0.5 else which
        visible, whole = (masks[which] for masks in film.masks(thing, size))
        if visible[0].sum() < LEAST:
            continue
        frames = np.stack([film.render_frame(frame, size) for frame in which])
        hidden = bool((visible.sum((1, 2)) < 0.9 * whole[0].sum()).any())
        return ClipSample(frames, visible, tight_box(visible[0]), hidden)


def train(
    out: Path,
    work: Path,
    segmenter: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    recipe: Recipe | None = None,
) -> Any:
    """Trains the tracker, or goes on from the newest state in `work`, and returns the model.

    out: where `save` puts it. segmenter: folder whose Hiera begins. Raises ConfigError where the state is of
    another recipe.
    """
    from .tracker_state import save

    recipe = recipe or Recipe()
    torch.manual_seed(seed)
    model = make_tracker(segmenter).train()
    view = stills(model).train()
    optimizer = make_optimizer(model, recipe.rate, recipe.other_rate)
    about = f"{recipe} seed {seed}"
    first = resume(work, model, optimizer, about)
    total = recipe.stills + recipe.clips
    began = time.monotonic()
    for step in range(first, total):
        on_clips = step >= recipe.stills and step % 2 == 0
        freeze = recipe.stills <= step < recipe.stills + recipe.clips // 2
        model.vision_encoder.backbone.requires_grad_(not freeze)
        optimizer.set_lr(_rate(recipe, step))
        rng = random.Random(f"tracker {seed} {step}")
        if on_clips:
            batch = [clip_sample(rng, "train") for _ in range(recipe.clip_batch)]
            loss, parts = clip_loss(model, batch, rng)
        else:
            stream = samples("train", rng.randrange(2**31), SIZE)
            pictures: list[Sample] = []
            while len(pictures) < recipe.batch:
                sample = next(stream)
                pictures += [sample] if targets(sample.things, "train") else []
            loss, parts = step_loss(view, pictures, rng.choice(KINDS), rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == total - 1:
            text = " ".join(f"{name} {value}" for name, value in parts.items())
            log(f"tracker step {step} of {total}, {(time.monotonic() - began) / 60:.1f} min: {text}")
        if (step + 1) % STATE_EVERY == 0:
            save_state(work, model, optimizer, step + 1, about)
    save_state(work, model, optimizer, total, about)
    save(model, out, {"stills": recipe.stills, "clips": recipe.clips, "seed": seed})
    return model


def _rate(recipe: Recipe, step: int) -> float:
    """Each stage warms up and cools down by itself."""
    if step < recipe.stills:
        return schedule(step, recipe.stills, warmup=50)
    return schedule(step - recipe.stills, recipe.clips, warmup=50)


def clip_loss(model: Any, batch: list[ClipSample], rng: random.Random) -> tuple[Tensor, dict[str, str]]:
    """SAM 2's losses over all frames of a batch of clips: focal, Dice and the guess of the IoU where the
    thing is there and not taken for absent, and whether it is there."""
    clips, masks = normalised(batch), torch.from_numpy(np.stack([each.masks for each in batch])).float()
    boxes = torch.tensor([off_box(each.box, rng) for each in batch]) * (INPUT / SIZE)
    return losses(unroll(model, clips, boxes), masks)


def losses(frames: list[Frame], truth: Tensor) -> tuple[Tensor, dict[str, str]]:
    """frames: of the model. truth: [B, T, S, S] of 0 and 1. Returns the loss and its parts as text."""
    size = truth.shape[-2:]
    sums: dict[str, Tensor] = {name: truth.new_zeros(()) for name in ("focal", "dice", "guess", "there")}
    overlaps, right = [], []
    for t, frame in enumerate(frames):
        mask = truth[:, t]
        there = mask.sum((1, 2)) >= PRESENT
        sums["there"] = sums["there"] + F.binary_cross_entropy_with_logits(frame.present, there.float())
        right.append(((frame.present > 0) == there).float().mean())
        told = there & (frame.present.detach() > 0)  # an absent thing's mask is a constant of the library
        if not told.any():
            continue
        logits = F.interpolate(frame.logits[told][:, None], size, mode="bilinear")[:, 0]
        wanted = mask[told]
        share = logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        missed = share * (1 - wanted) + (1 - share) * wanted
        weight = 0.25 * wanted + 0.75 * (1 - wanted)
        sums["focal"] = sums["focal"] + (weight * missed.square() * entropy).mean()
        both = (share * wanted).sum((1, 2))
        dice = 1 - (2 * both + 1) / (share.sum((1, 2)) + wanted.sum((1, 2)) + 1)
        sums["dice"] = sums["dice"] + dice.mean()
        hard, true = logits.detach() > 0, wanted > 0
        iou = (hard & true).sum((1, 2)) / (hard | true).sum((1, 2)).clamp(min=1)
        sums["guess"] = sums["guess"] + F.mse_loss(frame.iou[told], iou)
        overlaps.append(iou.mean())
    weights = {"focal": FOCAL, "dice": DICE, "guess": GUESS, "there": THERE}
    loss = torch.stack([weights[name] * value for name, value in sums.items()]).sum() / len(frames)
    iou = torch.stack(overlaps).mean() if overlaps else truth.new_zeros(())
    parts = {"loss": loss, "iou": iou, "present": torch.stack(right).mean()}
    return loss, {name: f"{float(value.detach()):.3f}" for name, value in parts.items()}


def normalised(batch: list[ClipSample]) -> Tensor:
    """Clips as the model is shown them: float32 [B, T, 3, INPUT, INPUT]."""
    clips = torch.from_numpy(np.stack([each.frames for each in batch])).permute(0, 1, 4, 2, 3) / 255
    shown = F.interpolate(clips.flatten(0, 1), (INPUT, INPUT), mode="bilinear", antialias=True)
    shown = (shown - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return shown.view(*clips.shape[:3], INPUT, INPUT)


def check(model: Any, clips: int = 50, seed: int = 1) -> dict[str, float]:
    """On clips of 16 frames of the test split, from the true box: mean IoU over the frames in which the thing
    is there (`j`: clips in which nothing hides it, `j_hidden`: the others), and `present`: how often it is
    said rightly whether it is there. Bars: .93, .85, .95."""
    rng = random.Random(f"tracker check {seed}")
    found: dict[str, list[float]] = {"j": [], "j_hidden": [], "present": []}
    model = model.float().eval()
    for _ in range(clips):
        sample = clip_sample(rng, "test", FRAMES)
        with torch.inference_mode():
            box = torch.from_numpy(sample.box)[None] * (INPUT / SIZE)
            frames = unroll(model, normalised([sample]), box)
        for frame, mask in zip(frames, sample.masks, strict=True):
            there = int(mask.sum()) >= PRESENT
            found["present"].append(float((float(frame.present) > 0) == there))
            if there:
                logits = F.interpolate(frame.logits[:, None], (SIZE, SIZE), mode="bilinear")[0, 0]
                got, true = logits > 0, torch.from_numpy(mask)
                overlap = float((got & true).sum() / (got | true).sum().clamp(min=1))
                found["j_hidden" if sample.hidden else "j"].append(overlap)
    return {"clips": float(clips), **{name: float(np.mean(v)) for name, v in found.items() if v}}
