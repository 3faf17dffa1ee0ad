"""Scene graphs: what is in a picture of the world. Pure data, seeded, no pixels.

A scene is a 3 x 3 grid of cells, each empty or holding one thing, on a ground and under a weather. Positions
are integers on a 64 x 64 lattice whatever the size of the picture, so that truth is exact at every
resolution.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, replace
from typing import Literal

LATTICE = 64  # units a side; a picture of S pixels draws one unit as S / 64 pixels

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "large")
GROUNDS = ("grey", "sand", "grass", "sea")
WEATHERS = ("clear", "rain", "snow", "fog", "night")
STYLES = ("plain", "sketch", "black and white", "sepia", "negative")

RADIUS = {"small": 6, "large": 9, "huge": 22}  # huge: portraits in a reference grid only
CENTRES = (11, 32, 53)
JITTER = {"small": 3, "large": 1, "huge": 0}
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
SIGN_CELLS = (6, 7)  # a sign lies across two cells of the bottom row
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Thing:
    """One object: attributes, cell (0-8, row-major), offset from the cell's centre and drift per frame, in
    units."""

    shape: str
    colour: str
    texture: str
    size: str
    cell: int
    dx: int = 0
    dy: int = 0
    vx: float = 0.0
    vy: float = 0.0

    @property
    def look(self) -> tuple[str, str, str]:
        """(shape, colour, texture): what an edit can change and a reader can tell."""
        return self.shape, self.colour, self.texture

    @property
    def label(self) -> str:
        """What a plan calls it: "red striped circle"; plain is not said."""
        return label_of(self.look)

    @property
    def radius(self) -> int:
        return RADIUS[self.size]

    def centre(self, frame: int = 0) -> tuple[float, float]:
        """(x, y) in lattice units at a frame."""
        x = CENTRES[self.cell % 3] + self.dx + self.vx * frame
        y = CENTRES[self.cell // 3] + self.dy + self.vy * frame
        return x, y


@dataclass(frozen=True)
class Scene:
    """A picture's contents. `style` is how it is drawn; sources of edits are always plain."""

    things: tuple[Thing, ...]
    ground: str = "grey"
    weather: str = "clear"
    style: str = "plain"
    sign: str | None = None
    sign_large: bool = False

    def at(self, cell: int) -> Thing | None:
        return next((t for t in self.things if t.cell == cell), None)

    def swap(self, old: Thing, new: Thing | None) -> Scene:
        """The scene with one thing changed, or taken away (new is None)."""
        if new is None:
            return replace(self, things=tuple(t for t in self.things if t is not old))
        return replace(self, things=tuple(new if t is old else t for t in self.things))

    def free_cells(self) -> list[int]:
        taken = {t.cell for t in self.things} | (set(SIGN_CELLS) if self.sign else set())
        return [c for c in range(9) if c not in taken]


def label_of(look: tuple[str, str, str]) -> str:
    shape, colour, texture = look
    return f"{colour} {shape}" if texture == "plain" else f"{colour} {texture} {shape}"


def scene_hash(scene: Scene) -> str:
    """Content hash, equal on every machine."""
    content = {**vars(scene), "things": [vars(thing) for thing in scene.things]}  # as asdict, which is slow
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def composition_split(look: tuple[str, str, str]) -> Split:
    """Which split may use this (shape, colour, texture) as the target of an edit or as its result.

    A Latin design: one composition in eight is for test, one for validation, and every shape, colour and
    texture, and every pair of them, still occurs in training.
    """
    s, c, t = SHAPES.index(look[0]), COLOURS.index(look[1]), TEXTURES.index(look[2])
    return {0: "test", 1: "validation"}.get((s + c + 2 * t) % 8, "train")  # type: ignore[return-value]


def scene_split(scene: Scene) -> Split:
    """Scenes are dealt to splits by their hash: disjoint by construction."""
    bucket = int(scene_hash(scene), 16) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def random_look(rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(TEXTURES)


def random_thing(
    rng: random.Random,
    cell: int,
    look: tuple[str, str, str] | None = None,
    size: str | None = None,
    moving: bool = False,
    frames: int = 4,
) -> Thing:
    """A thing in a cell. A moving one drifts, and stays inside its cell for `frames` frames."""
    shape, colour, texture = look or random_look(rng)
    size = size or rng.choice(SIZES)
    jitter = JITTER[size]
    dx, dy = rng.randint(-jitter, jitter), rng.randint(-jitter, jitter)
    vx = vy = 0.0
    if moving:
        end_x, end_y = rng.randint(-jitter, jitter), rng.randint(-jitter, jitter)
        vx, vy = (end_x - dx) / (frames - 1), (end_y - dy) / (frames - 1)
    return Thing(shape, colour, texture, size, cell, dx, dy, vx, vy)


def random_scene(
    rng: random.Random,
    count: int | None = None,
    sign: str | None = None,
    moving: bool = False,
    frames: int = 4,
    weather: str | None = None,
) -> Scene:
    """2-4 things with different labels in different cells; attributes are shared between them on purpose."""
    count = count or rng.choice((2, 3, 3, 4))
    cells = rng.sample([c for c in range(9) if not (sign and c in SIGN_CELLS)], count)
    looks: list[tuple[str, str, str]] = []
    while len(looks) < count:
        look = random_look(rng)
        if looks and rng.random() < 0.5:  # a distractor shares one attribute with an earlier thing
            other, which = rng.choice(looks), rng.randrange(3)
            look = (*look[:which], other[which], *look[which + 1 :])  # type: ignore[assignment]
        if look not in looks:
            looks.append(look)
    things = tuple(
        random_thing(rng, c, look, moving=moving, frames=frames)
        for c, look in sorted(zip(cells, looks, strict=True))
    )
    if weather is None:
        weather = "clear" if rng.random() < 0.6 else rng.choice(WEATHERS[1:])
    return Scene(things, rng.choice(GROUNDS), weather, sign=sign)
