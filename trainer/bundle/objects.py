"""Pictures with the exact place of each thing in them: what the detector's and the segmenter's recipes learn
from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from evlm.boxes import bounding_box
from trainer.world.render import render, silhouette
from trainer.world.scene import COLOURS, Scene, Split, Thing, composition_split, random_scene, scene_split


@dataclass(frozen=True)
class Sample:
    """A picture and its things.

    picture: uint8 [S, S, 3]. silhouettes: bool [N, S, S]. boxes: float32 [N, 4], x0 y0 x1 y1 around each
    silhouette in pixels, x1 and y1 exclusive. things: the scene's things, in the same order.
    """

    picture: NDArray[np.uint8]
    things: tuple[Thing, ...]
    silhouettes: NDArray[np.bool_]
    boxes: NDArray[np.float32]


def samples(split: Split, seed: int, size: int = 64) -> Iterator[Sample]:
    """Endless samples of a split. In test and validation at least one thing is a composition held out for
    it."""
    rng = random.Random(f"{split}/{seed}")
    while True:
        scene = random_scene(rng, sign=rng.choice(COLOURS) if rng.random() < 0.15 else None)
        if scene_split(scene) == split and (split == "train" or targets(scene.things, split)):
            yield draw(scene, size)


def targets(things: tuple[Thing, ...], split: Split) -> list[int]:
    """Which things a split may ask for: those whose composition belongs to it."""
    return [i for i, thing in enumerate(things) if composition_split(thing.look) == split]


def draw(scene: Scene, size: int) -> Sample:
    masks = np.stack([silhouette(thing, size) for thing in scene.things])
    return Sample(render(scene, size), scene.things, masks, np.stack([tight_box(mask) for mask in masks]))


def tight_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """x0 y0 x1 y1 of a mask [H, W] that is not empty, x1 and y1 exclusive."""
    return np.array(bounding_box(torch.from_numpy(mask)), np.float32)
