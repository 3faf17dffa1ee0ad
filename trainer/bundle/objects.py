"""Pictures with the exact place of each thing in them: what the detector's and the segmenter's recipes learn
from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evlm.boxes import bounding_box
from trainer.world.raytrace import SUPER
from trainer.world.render import render, silhouette
from trainer.world.scene import COLOURS, Scene, Split, Thing, composition_split, random_scene, scene_split
from trainer.world.solid import SOLIDS, Solid, solid_split
from trainer.world.solid_stills import LEAST, SAMPLES, random_stand, seen, silhouettes
from trainer.world.solid_stills import random_scene as random_solid_scene


@dataclass(frozen=True)
class Sample:
    """A picture and its things.

    picture: uint8 [S, S, 3]. silhouettes: bool [N, S, S]. boxes: float32 [N, 4], x0 y0 x1 y1 around each
    silhouette in pixels, x1 and y1 exclusive. things: the scene's things, in the same order; of solids those
    that are seen well enough, and what is seen of them.
    """

    picture: NDArray[np.uint8]
    things: tuple[Thing | Solid, ...]
    silhouettes: NDArray[np.bool_]
    boxes: NDArray[np.float32]


def samples(split: Split, seed: int, size: int = 64) -> Iterator[Sample]:
    """Endless samples of a split. In test and validation at least one thing is a composition held out for
    it."""
    rng = random.Random(f"{split}/{seed}")
    while True:
        yield draw_sample(rng, split, size)


def draw_sample(rng: random.Random, split: Split, size: int = 64) -> Sample:
    """One of `samples`."""
    while True:
        scene = random_scene(rng, sign=rng.choice(COLOURS) if rng.random() < 0.15 else None)
        if scene_split(scene) == split and (split == "train" or targets(scene.things, split)):
            return draw(scene, size)


def draw_solids(rng: random.Random, split: Split, size: int = 64) -> Sample:
    """A still of solids with one at least whose look belongs to the split."""
    samples = SAMPLES if split == "train" else SUPER
    while True:
        scene, stand = random_solid_scene(rng, split), random_stand(rng, split)
        if not targets(scene.solids, split):
            continue
        picture, coverage = seen(scene, stand, size, samples)
        clear = [n for n, cover in enumerate(coverage) if cover.sum() >= LEAST * (size / 64) ** 2]
        solids = tuple(scene.solids[n] for n in clear)
        if targets(solids, split):
            masks = silhouettes(scene, stand, size, samples)[clear]
            return Sample(picture, solids, masks, np.stack([tight_box(mask) for mask in masks]))


def draw_mixed(name: str, step: int, count: int, solids: float, size: int = 64) -> list[Sample]:
    """A step's samples of the training split, each with something to ask for: a function of these alone.
    solids: the share of stills of solids."""
    rng, found = random.Random(f"{name} {step}"), list[Sample]()
    while len(found) < count:
        sample = (draw_solids if rng.random() < solids else draw_sample)(rng, "train", size)
        found += [sample] if targets(sample.things, "train") else []
    return found


def look_split(look: tuple[str, str, str]) -> Split:
    """The split of a look, of a flat thing or of a solid."""
    return solid_split(look) if look[0] in SOLIDS else composition_split(look)


def targets(things: Sequence[Thing | Solid], split: Split) -> list[int]:
    """Which things a split may ask for: those whose composition belongs to it."""
    return [i for i, thing in enumerate(things) if look_split(thing.look) == split]


def draw(scene: Scene, size: int) -> Sample:
    masks = np.stack([silhouette(thing, size) for thing in scene.things])
    return Sample(render(scene, size), scene.things, masks, np.stack([tight_box(mask) for mask in masks]))


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """x0 y0 x1 y1 of a mask [H, W] that is not empty, x1 and y1 exclusive."""
    return np.array(bounding_box(torch.from_numpy(mask)), np.float32)
