"""Stills of solids: an edit of a scene as one camera sees it, with the truth that a flat `Edit` has."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evlm.scene import Camera

from .raytrace import SUPER, still
from .scene import Split
from .solid import Solid, SolidScene, random_setting, random_solids, solid_scene_split
from .solid_cameras import around
from .solid_edits import SolidEdit, random_solid_edit
from .solid_reader import edit_right

SAMPLES = 2  # a side of a pixel, of a training's pictures
LOW, HIGH = 0.3, 0.8  # elevations of a still, in radians
HELD = (0.5, 0.6)  # of those that no training sees
FRONT = 0.3  # radians from the first camera within which left, right, far and near are its own
LEAST = 32.0  # pixels of 64 x 64 that are seen of what is asked for


@dataclass(frozen=True)
class Stand:
    """Where a still is taken from, in radians around the scene and above it."""

    azimuth: float
    elevation: float

    def camera(self, size: int) -> Camera:
        return around(self.azimuth, self.elevation, size)


@dataclass(frozen=True)
class SolidStill:
    """An edit of solids as one picture. What it has in common with a flat `Edit` has its names and its
    rules: a silhouette is what changes, or the whole place where the shape does."""

    edit: SolidEdit
    stand: Stand
    samples: int = SAMPLES

    @property
    def op(self) -> str:
        return self.edit.op

    @property
    def source(self) -> SolidScene:
        return self.edit.source

    @property
    def result(self) -> SolidScene:
        return self.edit.result

    @property
    def instruction(self) -> str:
        return self.edit.instruction

    @property
    def targets(self) -> tuple[str, ...]:
        return self.edit.targets

    @property
    def target(self) -> Solid | None:
        return self.edit.target

    @property
    def outcome(self) -> Solid | None:
        return self.edit.outcome

    @property
    def value(self) -> str:
        return self.edit.value

    @property
    def scope(self) -> str:
        return self.edit.scope

    @property
    def split(self) -> Split | None:
        return self.edit.split

    def region(self, size: int = 64, frames: int = 1) -> NDArray[np.bool_] | None:
        """Pixels that may change: bool [size, size]; None for the whole picture."""
        if self.scope == "global":
            return None
        if not self.edit.roomy:
            assert self.target is not None
            return silhouettes(self.source, self.stand, size, self.samples)[
                self.source.solids.index(self.target)
            ]
        mask, box = np.zeros((size, size), bool), self.edit.place(self.stand.camera(size))
        assert box is not None  # a still shows what it is about
        mask[box[1] : box[3], box[0] : box[2]] = True
        return mask

    def pictures(self, size: int = 64, frames: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(source, result), each uint8 [1, size, size, 3], equal outside the region."""
        before, after = (seen(s, self.stand, size, self.samples)[0] for s in (self.source, self.result))
        region = self.region(size)
        if region is not None:
            after = np.where(region[..., None], after, before)
        return before[None], after[None]


@lru_cache(maxsize=16)
def seen(
    scene: SolidScene, stand: Stand, size: int = 64, samples: int = SAMPLES
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """(picture uint8 [size, size, 3], coverage [N, size, size]); not to be written to."""
    return still(scene, stand.camera(size), samples)


def silhouettes(scene: SolidScene, stand: Stand, size: int = 64, samples: int = SAMPLES) -> NDArray[np.bool_]:
    """Where what is seen of each solid covers at least half of a pixel: bool [N, size, size]."""
    return np.asarray(seen(scene, stand, size, samples)[1] >= 0.5)


def random_stand(rng: random.Random, split: Split, front: bool = False) -> Stand:
    """A training's never has an elevation in HELD, others always. front: near a ring's first camera."""
    azimuth = rng.uniform(-FRONT, FRONT) if front else rng.uniform(0, 2 * math.pi)
    if split != "train":
        return Stand(azimuth, rng.uniform(*HELD))
    return Stand(azimuth, rng.uniform(LOW, HELD[0]) if rng.random() < 0.5 else rng.uniform(HELD[1], HIGH))


def random_scene(rng: random.Random, split: Split) -> SolidScene:
    """A scene of that split."""
    while True:
        scene = random_setting(rng, random_solids(rng))
        if solid_scene_split(scene) == split:
            return scene


def draw_still(
    rng: random.Random,
    op: str,
    split: Split,
    front: bool = False,
    samples: int | None = None,
    stand: Stand | None = None,
) -> SolidStill:
    """A random edit of a kind in a split, from where its target and outcome are seen. front: from near the
    first camera, and every solid is. samples: by default a training's are few, others SUPER. stand: in
    place of a random one."""
    samples = samples or (SAMPLES if split == "train" else SUPER)
    while True:
        edit = random_solid_edit(rng, op, random_scene(rng, split))
        if edit is None or edit.split != split:
            continue
        drawn = SolidStill(edit, stand or random_stand(rng, split, front or op == "move"), samples)
        if is_seen(drawn, front):
            return drawn


def can_be_read(drawn: SolidStill) -> bool:
    """Whether the exact reader finds the edit in its own true picture: from some sides two looks are one."""
    camera = drawn.stand.camera(64)
    try:
        return edit_right([drawn.pictures()[1][0]], drawn.edit, [camera])
    except ValueError:
        return False


def is_seen(drawn: SolidStill, all_of_them: bool = False) -> bool:
    """Whether a still shows its target and its outcome well enough; all_of_them: and each other solid of the
    source."""
    asked = [(drawn.source, s) for s in (drawn.source.solids if all_of_them else (drawn.target,))]
    asked += [(drawn.result, drawn.outcome)]
    for scene, solid in asked:
        if solid is not None:
            cover = seen(scene, drawn.stand, 64, drawn.samples)[1][scene.solids.index(solid)]
            if cover.sum() < LEAST:
                return False
    return True
