"""The tiny reasoner's eyes first: its vision tower learns to name what each patch shows, before it learns to
talk.

Qwen2-VL starts from a vision tower that was trained before as well. Here every patch is asked, by one linear
head, for the shape, colour, texture and size of the thing that covers it and how far it lies from its cell's
centre, for the sign's word, and for ground, weather and style: dense labels from the scene graph, at a
fiftieth of the cost of learning the same from traces.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import autocast
from torch.nn import Linear

from ..model.batch import Pictures, patchify
from ..model.forward import tower_states
from ..model.optim import make_optimizer, schedule
from ..world.film_questions import FilmQuestion
from ..world.questions import FRAMES, Question, ask
from ..world.render import render, render_frames, thing_alpha
from ..world.scene import (
    CENTRES,
    COLOURS,
    GROUNDS,
    JITTER,
    LATTICE,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    WEATHERS,
    Scene,
    random_scene,
    scene_split,
)
from ..world.solid import SKIES, SOLIDS, SolidScene
from ..world.solid_questions import SolidQuestion
from ..world.solid_stills import SAMPLES, Stand, random_stand, seen
from ..world.solid_stills import random_scene as random_solid_scene

ROOM = max(JITTER.values())
CLASSES = {
    "shape": len(SHAPES) + 2,
    "colour": len(COLOURS) + 1,
    "texture": len(TEXTURES) + 1,
    "size": len(SIZES) + 1,
    "across": 2 * ROOM + 2,
    "down": 2 * ROOM + 2,
    "sign": len(COLOURS) + 1,
    "ground": len(GROUNDS),
    "weather": len(WEATHERS),
    "style": len(STYLES),
}
SOLID_CLASSES = {
    **CLASSES,
    "shape": CLASSES["shape"] + len(SOLIDS),
    "style": CLASSES["style"] + len(SKIES),  # a picture has a style or, of solids, a sky
}
THINGS = ("shape", "colour", "texture", "size", "across", "down", "sign")
COVERED = 0.2  # share of a patch that a thing must cover to be what the patch shows


class Eyes(nn.Module):
    """One linear head over the vision tower's last states: names what each patch shows."""

    def __init__(self, width: int, classes: Mapping[str, int] = CLASSES) -> None:
        super().__init__()
        self.classes = dict(classes)
        self.head = Linear(width, sum(self.classes.values()))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.found: dict[str, float] = {}  # running accuracy by name

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies in nats. `states` [patches, width], `labels` int64 [patches, classes],
        -100 where nothing is asked."""
        losses = []
        for k, (name, part) in enumerate(
            zip(self.classes, self.head(states).float().split(list(self.classes.values()), -1), strict=True)
        ):
            target = labels[:, k]
            losses.append(nn.functional.cross_entropy(part, target, ignore_index=-100))
            present = (target > 0) if name in THINGS else target >= 0
            right = (part.argmax(-1) == target)[present].float().mean()
            if bool(present.any()):
                self.found[name] = 0.95 * self.found.get(name, float(right)) + 0.05 * float(right)
        return torch.stack(losses).sum()

    def report(self) -> str:
        return " ".join(f"{name} {share:.3f}" for name, share in self.found.items())


def warm_up(
    tower: Any,
    eyes: Eyes,
    pictures: Pictures,
    steps: int,
    seed: int = 0,
    batch: int = 64,
    lr_muon: float = 0.02,
    lr_adam: float = 2e-3,
    log: Callable[[str], None] = print,
    solids: float = 0.0,
    half: bool = True,
) -> None:
    """Trains the vision tower (its merger excepted) and the head in place.

    pictures: turns frames into patches.
    steps, batch: optimiser steps, pictures in each.
    seed: from which a step's pictures are drawn.
    lr_muon, lr_adam: learning rates of matrices and of the rest.
    log: told a line every 100 steps.
    solids: share of pictures that are stills of solids; the eyes have SOLID_CLASSES then.
    half: compute in bfloat16.
    """
    optimizer = make_optimizer(
        nn.ModuleDict({"tower": tower, "eyes": eyes}),
        lr_muon,
        lr_adam,
        weight_decay=0.01,
        adam_names=("eyes.",),
    )
    side = LATTICE // pictures.patch
    for step in range(steps):
        optimizer.set_lr(schedule(step, steps, warmup=50, cooldown=0.2))
        pixels, labels = make_batch(random.Random(f"warm-up {seed} {step}"), batch, pictures, solids)
        with autocast("cpu", torch.bfloat16, enabled=half):
            loss = eyes(tower_states(tower, pixels, side, side).flatten(0, 1), labels.flatten(0, 1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            log(f"eyes {step + 1}/{steps} {eyes.report()}")


def shown_in(question: Question | SolidQuestion | FilmQuestion, pictures: Pictures) -> Tensor:
    """Labels of every patch of a question's pictures, in the order of the batch: int64 [patches, classes].
    Videos show two frames a patch; of a grid and of a film's frames nothing is asked."""
    if isinstance(question, FilmQuestion):
        still = shown_in(question.still, pictures)
        first, rest = still.split([_patches(pictures), len(still) - _patches(pictures)])
        times = -(-len(question.shown) // pictures.temporal)
        return torch.cat([torch.full_like(first, -100).repeat(times, 1), rest])
    order = _order(pictures)
    if isinstance(question, SolidQuestion):
        stills = [(question.edit.source, question.edit.stand, question.edit.samples)]
        stills += [(r.scene, r.stand, r.samples) for r in question.refs if r.scene and r.stand]
        return torch.from_numpy(np.concatenate([_solid_labels(*s, pictures.patch)[order] for s in stills]))
    source = question.edit.source
    frames = [(source, frame) for frame in range(0, question.frames, pictures.temporal)]
    rows = [_labels(scene, pictures.patch, frame)[order] for scene, frame in frames]
    for ref in question.refs:
        if len(ref.scenes) > 1:
            rows.append(np.full_like(rows[0], -100))
        elif ref.scenes:
            rows += [
                _labels(ref.scenes[0], pictures.patch, f)[order]
                for f in range(0, ref.frames, pictures.temporal)
            ]
    return torch.from_numpy(np.concatenate(rows))


def make_batch(
    rng: random.Random, rows: int, pictures: Pictures, solids: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(patches [rows * 64, dim], labels int64 [rows, 64, classes]) of pictures as training's requests show
    them. solids: share of stills of solids."""
    patch = pictures.patch
    drawn = [
        _one_of_solids(rng, patch) if solids and rng.random() < solids else _one(rng, patch)
        for _ in range(rows)
    ]
    pixels = torch.cat(
        [
            patchify(torch.from_numpy(f).permute(0, 3, 1, 2), pictures)[0][: _patches(pictures)]
            for f, _ in drawn
        ]
    )
    order = _order(pictures)
    return pixels, torch.from_numpy(np.stack([labels[order] for _, labels in drawn]))


def _one_of_solids(rng: random.Random, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_one`, of solids from anywhere around."""
    scene, stand = random_solid_scene(rng, "train"), random_stand(rng, "train", front=rng.random() < 0.5)
    if rng.random() < 0.4:  # as references show them
        scene = replace(scene, solids=(rng.choice(scene.solids),))
    return seen(scene, stand, LATTICE)[0][None], _solid_labels(scene, stand, SAMPLES, patch)


def _one(rng: random.Random, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [1 or 2, 64, 64, 3] of originals, references, signs, videos, and their labels."""
    kind = rng.random()
    if kind < 0.5:
        question = ask(rng, "train")
        scenes = [question.edit.source, *(s for r in question.refs if len(r.scenes) == 1 for s in r.scenes)]
        scene = rng.choice(scenes)
    elif kind < 0.6:
        scene = Scene(
            (), rng.choice(GROUNDS), rng.choice(WEATHERS), sign=rng.choice(COLOURS), sign_large=True
        )
    else:
        while True:
            scene = random_scene(
                rng,
                rng.choice((2, 3, 4)),
                rng.choice(COLOURS) if rng.random() < 0.2 else None,
                moving=rng.random() < 0.3,
                frames=FRAMES,
            )
            if scene_split(scene) == "train":
                break
        if rng.random() < 0.1:
            scene = replace(scene, style=rng.choice(STYLES[1:]))
    moving = any(t.vx or t.vy for t in scene.things)
    frames = render_frames(scene, LATTICE, 2) if moving else render(scene)[None]
    return frames, _labels(scene, patch)


def _labels(scene: Scene, patch: int, frame: int = 0) -> np.ndarray:
    """int64 [patches, classes], row-major; 0 is "nothing", -100 is not asked (colours under a style without
    them)."""
    n = LATTICE // patch
    labels = np.zeros((n, n, len(CLASSES)), np.int64)
    best = np.full((n, n), COVERED)
    for thing in scene.things:
        cover = thing_alpha(thing, LATTICE, frame).reshape(n, patch, n, patch).mean((1, 3))
        on = cover > best
        best = np.maximum(best, cover)
        x, y = thing.centre(frame)
        labels[on, :6] = (
            SHAPES.index(thing.shape) + 1,
            COLOURS.index(thing.colour) + 1,
            TEXTURES.index(thing.texture) + 1,
            SIZES.index(thing.size) + 1 if thing.size in SIZES else 0,
            _offset(x, CENTRES[thing.cell % 3]),
            _offset(y, CENTRES[thing.cell // 3]),
        )
    if scene.sign:
        rows, columns = (
            (slice(24 // patch, 40 // patch), slice(8 // patch, 56 // patch))
            if scene.sign_large
            else (slice(48 // patch, 57 // patch), slice(0, 32 // patch))
        )
        labels[rows, columns, 6] = COLOURS.index(scene.sign) + 1
    labels[..., 7:] = GROUNDS.index(scene.ground), WEATHERS.index(scene.weather), STYLES.index(scene.style)
    if scene.style in ("sketch", "black and white", "sepia"):
        labels[..., 1] = labels[..., 7] = labels[..., 8] = -100
    return labels.reshape(n * n, -1)


def _solid_labels(scene: SolidScene, stand: Stand, samples: int, patch: int) -> np.ndarray:
    """As `_labels`, of a still of solids: shapes behind the flat ones, skies behind the styles; of how far
    things lie from a cell's centre nothing is asked."""
    n = LATTICE // patch
    labels = np.zeros((n, n, len(CLASSES)), np.int64)
    best = np.full((n, n), COVERED)
    for solid, alpha in zip(scene.solids, seen(scene, stand, LATTICE, samples)[1], strict=True):
        cover = alpha.reshape(n, patch, n, patch).mean((1, 3))
        on = cover > best
        best = np.maximum(best, cover)
        labels[on, :4] = (
            CLASSES["shape"] + SOLIDS.index(solid.shape),
            COLOURS.index(solid.colour) + 1,
            TEXTURES.index(solid.texture) + 1,
            SIZES.index(solid.size) + 1,
        )
    labels[..., 4:6] = -100
    sky = len(STYLES) + SKIES.index(scene.sky)
    labels[..., 7:] = GROUNDS.index(scene.ground), WEATHERS.index(scene.weather), sky
    return labels.reshape(n * n, -1)


def _offset(at: float, centre: int) -> int:
    """Class of a distance from a cell's centre: 1 ... 2 * ROOM + 1. What moves on is as far off as can be
    said."""
    return min(max(round(at - centre), -ROOM), ROOM) + ROOM + 1


def _patches(pictures: Pictures) -> int:
    return (LATTICE // pictures.patch) ** 2


def _order(pictures: Pictures) -> np.ndarray:
    """Row-major index of each patch in the processor's order of merged blocks."""
    n, m = LATTICE // pictures.patch, pictures.merge
    return np.arange(n * n).reshape(n // m, m, n // m, m).transpose(0, 2, 1, 3).reshape(-1)
