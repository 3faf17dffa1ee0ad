"""The bundled tracker: a SAM 2 for clips of about 1.7 million parameters, trained on the moving world.

Its image half begins as the bundled segmenter at twice its width (widen.py), which knows things in the cells
of stills alone: it learns from pictures, many of them frames of clips, where things stand anywhere, turned
and half hidden; between them clips, at first of three frames and at last of twelve. Every step's draws are a
function of (seed, step), so that a run which was stopped goes on from its newest state to the same weights.
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
from evlm.segment.tracker import Prompt, Tracker
from trainer.model.optim import MATRIX_MODULES, MuonAdamW, schedule

from ..world.clips import FRAMES, Film, random_film
from ..world.scene import Split, random_scene, scene_split
from .objects import Sample, samples, targets, tight_box
from .segmenter import INPUT, KINDS, SIZE, off_box, random_point, step_loss, where_losses
from .tracker_model import Frame, Points, make_tracker, stills, unroll
from .tracker_state import resume, save_state

LEAST = 20  # pixels of a thing that are seen in the first frame, in which it is prompted
PRESENT = 6  # pixels from which a thing is there
MOST = 3  # things of a clip that are followed in a step
GUESS, THERE = 0.2, 0.5  # weights of the guessed IoU and of being there
STATE_EVERY = 100


@dataclass(frozen=True)
class Stage:
    """Steps of one kind after the other: `c` in `order` is one of clips, `p` one of pictures.

    clips, frames: how many clips a step has, and of how many frames each.
    """

    steps: int
    order: str
    clips: int = 0
    frames: int = 0


@dataclass(frozen=True)
class Round:
    """Stages over which the learning rates rise, stay and fall to nothing: a finished tracker is left.

    pictures, moving: in a step, and the share of them that are frames of clips. rate, other_rate: of matrices
    (Muon) and of the rest. image: how much lower the image half's are.
    """

    stages: tuple[Stage, ...]
    pictures: int
    moving: float
    rate: float
    other_rate: float
    image: float

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Recipe:
    """Rounds, each sharper than the one before."""

    rounds: tuple[Round, ...]

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.rounds)

    def at(self, step: int) -> tuple[Round, int, tuple[int, int] | None]:
        """(the round of a step, its number in it, (clips, frames) or None where it is of pictures)."""
        for each in self.rounds:
            if step < each.steps:
                break
            step -= each.steps
        number = step
        for stage in each.stages:
            if step < stage.steps:
                break
            step -= stage.steps
        clips = stage.order[step % len(stage.order)] == "c"
        return each, number, (stage.clips, stage.frames) if clips else None


FIRST = Round(
    (Stage(200, "p"), Stage(420, "ccp", 8, 3), Stage(420, "ccp", 5, 5), Stage(560, "ccp", 4, 8)),
    pictures=12,
    moving=0.5,
    rate=0.008,
    other_rate=2e-3,
    image=0.5,
)
# After the first the image half is what holds it back: from true boxes it is no better on the same frames.
SECOND = Round(
    (Stage(1200, "cpp", 4, 8), Stage(1002, "ccp", 4, 8), Stage(999, "ccp", 3, 12)),
    pictures=16,
    moving=0.67,
    rate=0.005,
    other_rate=1.2e-3,
    image=1.0,
)
# A third of 2,400 steps ("cpp", then "ccp" of 12 frames) was tried: .87, .83 and .97 for .89, .81 and .97.
RECIPE = Recipe((FIRST, SECOND))


@dataclass(frozen=True)
class ClipSample:
    """frames: uint8 [T, S, S, 3]. masks: bool [K, T, S, S], where each thing is seen. boxes: float32 [K, 4],
    around them in the first frame. hidden: bool [K], something hides a part of it, or it leaves."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    hidden: NDArray[np.bool_]


def clip_sample(rng: random.Random, split: Split, length: int, most: int = 1) -> ClipSample:
    """A clip with up to `most` things of that split, prompted where they are well seen; up to twice the speed
    of the world, half of them backwards."""
    while True:
        film = _film(rng, split)
        stride = rng.choice((1, 2)) if length * 2 <= FRAMES else 1
        first = rng.randint(0, film.frames - (length - 1) * stride - 1)
        which = [first + stride * i for i in range(length)]
        which = which[::-1] if length < FRAMES and rng.random() < 0.5 else which
        wanted = targets(film.scene.things, split)
        kept: list[tuple[NDArray[np.bool_], bool]] = []
        for index in rng.sample(wanted, min(most, len(wanted))):
            visible, whole = film.masks(film.scene.things[index], SIZE, which)
            if visible[0].sum() >= LEAST:
                kept.append((visible, bool((visible.sum((1, 2)) < 0.9 * whole[0].sum()).any())))
        if not kept:
            continue
        frames = np.stack([film.render_frame(frame, SIZE) for frame in which])
        masks = np.stack([visible for visible, _ in kept])
        boxes = np.stack([tight_box(visible[0]) for visible in masks])
        return ClipSample(frames, masks, boxes, np.array([hidden for _, hidden in kept]))


def _film(rng: random.Random, split: Split) -> Film:
    while True:
        scene = random_scene(rng)
        if scene_split(scene) == split and targets(scene.things, split):
            return random_film(rng, scene, rng.randrange(5))


def picture_sample(rng: random.Random) -> Sample:
    """A frame of a clip of the training split as a picture, with what is seen of its things."""
    while True:
        film = _film(rng, "train")
        frame = rng.randrange(film.frames if film.cut is None else film.cut)
        owners = film.owners(frame, SIZE)
        seen = [i for i in range(len(film.scene.things)) if (owners == i).sum() >= LEAST]
        things = tuple(film.scene.things[i] for i in seen)
        if targets(things, "train"):
            masks = np.stack([owners == i for i in seen])
            boxes = np.stack([tight_box(mask) for mask in masks])
            return Sample(film.render_frame(frame, SIZE), things, masks, boxes)


def train(
    out: Path,
    work: Path,
    segmenter: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    recipe: Recipe | None = None,
) -> Any:
    """Trains the tracker, or goes on from the newest state in `work`, also of fewer rounds, and returns the
    model.

    out: where `save` puts it. segmenter: folder of the one that its image half begins with.
    Raises ConfigError where the state is of another recipe.
    """
    from .tracker_state import save

    recipe = recipe or RECIPE
    model = make_tracker(segmenter, seed).train()
    view = stills(model).train()
    optimizer, about = _optimizer(model), f"{recipe} seed {seed}"
    earlier = [f"{Recipe(recipe.rounds[:n])} seed {seed}" for n in range(1, len(recipe.rounds))]
    first, total = resume(work, model, optimizer, about, earlier), recipe.steps
    began, said = time.monotonic(), {}
    for step in range(first, total):
        here, number, size = recipe.at(step)
        _set_rates(optimizer, here, schedule(number, here.steps, warmup=50, cooldown=0.5))
        rng = random.Random(f"tracker {seed} {step}")
        if size is not None:
            clips, frames = size
            batch = [clip_sample(rng, "train", frames, MOST) for _ in range(clips)]
            loss, parts = clip_loss(model, batch, rng)
        else:
            loss, parts = step_loss(view, _pictures(here, rng), rng.choice(KINDS), rng, half=False)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        said[size is None] = " ".join(f"{name} {value}" for name, value in parts.items())
        if step % 20 == 0 or step == total - 1:
            text = "; ".join(said.values())
            log(f"tracker step {step} of {total}, {(time.monotonic() - began) / 60:.1f} min: {text}")
            said.clear()
        if (step + 1) % STATE_EVERY == 0:
            save_state(work, model, optimizer, step + 1, about)
    save_state(work, model, optimizer, total, about)
    save(model, out, {"steps": total, "seed": seed})
    return model


def _optimizer(model: Any) -> MuonAdamW:
    """As `make_optimizer` has it, the image half, which begins trained, apart."""
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, MATRIX_MODULES)}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            image = name.startswith(("vision_encoder.", "prompt_encoder.", "mask_decoder."))
            groups.setdefault((id(parameter) in matrices, image), []).append(parameter)
    return MuonAdamW(
        {"params": params, "lr": 0.0, "muon": matrix, "image": image}
        for (matrix, image), params in groups.items()
    )


def _set_rates(optimizer: MuonAdamW, here: Round, factor: float) -> None:
    for group in optimizer.param_groups:
        rate = here.rate if group["muon"] else here.other_rate
        group["lr"] = factor * rate * (here.image if group["image"] else 1)


def _pictures(here: Round, rng: random.Random) -> list[Sample]:
    stream = samples("train", rng.randrange(2**31), SIZE)
    found: list[Sample] = []
    while len(found) < round(here.pictures * (1 - here.moving)):
        sample = next(stream)
        found += [sample] if targets(sample.things, "train") else []
    return found + [picture_sample(rng) for _ in range(here.pictures - len(found))]


def clip_loss(model: Any, batch: list[ClipSample], rng: random.Random) -> tuple[Tensor, dict[str, str]]:
    """The losses over all frames of a batch of clips. What shows a thing first is a box or two clicks; now
    and then a click corrects it in a later frame."""
    masks = torch.from_numpy(np.concatenate([each.masks for each in batch])).float()
    whose = torch.tensor([at for at, each in enumerate(batch) for _ in each.masks])
    boxes = np.concatenate([each.boxes for each in batch])
    if rng.random() < 0.75:
        places = torch.tensor([off_box(box, rng) for box in boxes]).view(-1, 2, 2)
        points = places * (INPUT / SIZE), torch.tensor([[2, 3]] * len(boxes), dtype=torch.int32)
    else:
        inside, second = masks[:, 0] > 0, rng.choice((0, 1))
        pairs = [[random_point(m, rng), random_point(m if second else ~m, rng)] for m in inside.numpy()]
        points = (
            torch.tensor(pairs) * (INPUT / SIZE),
            torch.tensor([[1, second]] * len(pairs), dtype=torch.int32),
        )
    corrected: dict[int, Callable[[Frame], Points]] = {}
    if rng.random() < 0.3:
        at = rng.randrange(1, masks.shape[1])
        corrected[at] = lambda frame: correction(frame, masks[:, at], rng)
    return losses(unroll(model, normalised(batch), points, whose, corrected), masks)


def correction(frame: Frame, truth: Tensor, rng: random.Random) -> Points:
    """A click on each thing where most is wrong: on what was missed, or off what was taken; none where the
    mask is right. truth: [N, S, S] of 0 and 1."""
    told = F.interpolate(frame.logits[:, None], truth.shape[-2:], mode="bilinear")[:, 0] > 0
    places, kinds = [], []
    for got, true in zip(told.numpy(), truth.numpy() > 0, strict=True):
        missed, taken = true & ~got, got & ~true
        wrong = missed if missed.sum() >= taken.sum() else taken
        found = bool(wrong.any())
        places.append([random_point(wrong, rng) if found else [0.0, 0.0]])
        kinds.append([int(wrong is missed) if found else -1])
    return torch.tensor(places) * (INPUT / SIZE), torch.tensor(kinds, dtype=torch.int32)


def losses(frames: list[Frame], truth: Tensor) -> tuple[Tensor, dict[str, str]]:
    """frames: of the model. truth: [N, T, S, S] of 0 and 1. Returns the loss and its parts as text: where the
    thing is, and is not taken for absent, cross-entropy, Dice and the guess of the IoU; and whether it is
    there."""
    present = torch.stack([frame.present for frame in frames], 1)
    there = truth.sum((2, 3)) >= PRESENT
    known = F.binary_cross_entropy_with_logits(present, there.float())
    loss, overlap = THERE * known, truth.new_zeros(())
    told = there & (present.detach() > 0)  # an absent thing's mask is a constant of the library
    if told.any():
        logits = torch.stack([frame.logits for frame in frames], 1)[told]
        full = F.interpolate(logits[:, None], truth.shape[-2:], mode="bilinear")[:, 0]
        entropy, dice, iou = where_losses(full, truth[told])
        guess = F.mse_loss(torch.stack([frame.iou for frame in frames], 1)[told], iou)
        loss, overlap = loss + entropy.mean() + dice.mean() + GUESS * guess, iou.mean()
    right = ((present > 0) == there).float().mean()
    parts = {"loss": loss, "iou": overlap, "present": right}
    return loss, {name: f"{float(value.detach()):.3f}" for name, value in parts.items()}


def normalised(batch: list[ClipSample]) -> Tensor:
    """Clips as the model is shown them: float32 [B, T, 3, INPUT, INPUT]."""
    clips = torch.from_numpy(np.stack([each.frames for each in batch])).permute(0, 1, 4, 2, 3) / 255
    shown = F.interpolate(clips.flatten(0, 1), (INPUT, INPUT), mode="bilinear", antialias=True)
    shown = (shown - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return shown.view(*clips.shape[:3], INPUT, INPUT)


def check(tracker: Tracker, clips: int = 50, seed: int = 1) -> dict[str, float]:
    """Through the public Tracker on clips of 16 frames of the test split, from the true box: mean IoU over
    the frames in which the thing is there (`j`: clips in which nothing hides it, `j_hidden`: the others), and
    `present`: how often it is said rightly whether it is there."""
    rng = random.Random(f"tracker check {seed}")
    found: dict[str, list[float]] = {"j": [], "j_hidden": [], "present": []}
    for _ in range(clips):
        sample = clip_sample(rng, "test", FRAMES)
        x0, y0, x1, y1 = sample.boxes[0].tolist()
        frames = torch.from_numpy(sample.frames).float() / 255
        tracks = tracker.track(frames, {0: [Prompt("it", (x0, y0, x1, y1))]})
        for frame, mask in enumerate(torch.from_numpy(sample.masks[0])):
            there, got = int(mask.sum()) >= PRESENT, tracks.mask(0, frame)
            found["present"].append(float(bool(got.any()) == there))
            if there:
                overlap = float((got & mask).sum() / (got | mask).sum())
                found["j_hidden" if sample.hidden[0] else "j"].append(overlap)
    return {"clips": float(clips), **{name: float(np.mean(v)) for name, v in found.items() if v}}
