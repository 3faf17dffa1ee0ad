"""Textures that no word names: stripes aslant in the thing's colour and a second one, as on the reference.

What words cannot carry is tested with them. They lie in a list of their own, never in TEXTURES, whose order
decides splits and the reader's looks; no plan and no vocabulary has a word for one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .question import name_of
from .render import (
    SUPER,
    Array,
    ground,
    paint_of,
    painted_at,
    place_box,
    render,
    to_bytes,
    under_weather,
)
from .scene import COLOURS, LATTICE, SHAPES, Scene, Split, Thing, random_scene

ANGLES = (15, 45, 75, 105, 135, 165)  # degrees; never 0 or 90, as "striped" is
PERIODS = (3.0, 4.5, 7.0)  # units from one stripe to the next of its colour
SECOND = {"ink": (0.06, 0.06, 0.12), "chalk": (0.96, 0.95, 0.90), "rust": (0.52, 0.27, 0.14),
          "jade": (0.30, 0.60, 0.50)}  # fmt: skip
"""Of the second colour; names for people alone."""
NEARER = 0.5  # the right weave's error must be below this share of the untouched thing's


@dataclass(frozen=True)
class Weave:
    """angle in ANGLES, period in PERIODS, second in SECOND."""

    angle: int
    period: float
    second: str

    @property
    def split(self) -> Split:
        """A Latin design: one in nine for test, one for validation, every value in training."""
        at = ANGLES.index(self.angle) + 3 * PERIODS.index(self.period) + list(SECOND).index(self.second)
        return {0: "test", 1: "validation"}.get(at % 9, "train")  # type: ignore[return-value]


WEAVES = tuple(Weave(*each) for each in product(ANGLES, PERIODS, SECOND))  # 72


@dataclass(frozen=True)
class WovenEdit:
    """The edit of a target in `source` that takes the weave which `shown`, the reference's one thing, has.
    k: weaves that stay open to one who does not look at the reference."""

    source: Scene
    target: Thing
    weave: Weave
    reference: Scene
    k: int = len(WEAVES)

    @property
    def prompt(self) -> str:
        return f"{name_of(self.target, self.source)} like this"

    @property
    def instruction(self) -> str:
        return f"give the {self.target.label} the pattern of reference 1"

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target.label,)

    @property
    def split(self) -> Split:
        return self.weave.split

    def pictures(self, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(before, after), each uint8 [1, size, size, 3]."""
        after = render_woven(self.source, {self.target.cell: self.weave}, size)
        return render(self.source, size)[None], after[None]

    def shown(self, size: int = 64) -> NDArray[np.uint8]:
        """The reference, uint8 [1, size, size, 3]."""
        return render_woven(self.reference, {each.cell: self.weave for each in self.reference.things}, size)[
            None
        ]

    def region(self, size: int = 64) -> NDArray[np.bool_]:
        x0, y0, x1, y1 = place_box(self.target, size)
        mask = np.zeros((size, size), bool)
        mask[y0:y1, x0:x1] = True
        return mask


def draw_woven(rng: random.Random, split: Split) -> WovenEdit:
    """The reference wears the weave on another shape of another colour, so that neither its outline nor its
    main colour is what is asked for."""
    weave = rng.choice([each for each in WEAVES if each.split == split])
    while True:
        scene = random_scene(rng)
        large = [thing for thing in scene.things if thing.size == "large"]
        if large:
            break
    target = rng.choice(large)
    look = (
        rng.choice([shape for shape in SHAPES if shape != target.shape]),
        rng.choice([colour for colour in COLOURS if colour != target.colour]),
        "plain",
    )
    return WovenEdit(scene, target, weave, Scene((Thing(*look, "huge", 4),), rng.choice(("grey", "sand"))))


def render_woven(scene: Scene, woven: dict[int, Weave], size: int = 64) -> NDArray[np.uint8]:
    """`render` of a plain scene without a sign, in which the things of these cells wear weaves."""
    canvas = ground(scene.ground, size).copy()
    for thing in scene.things:
        into, alpha, paint = painted_at(thing, *thing.centre(), thing.radius, size)
        if thing.cell in woven:
            paint = _paint(woven[thing.cell], thing, size, into)
        canvas[into] = canvas[into] * (1 - alpha) + paint * alpha
    return to_bytes(under_weather(canvas, scene.weather))


def read_weave(picture: NDArray[Any], edit: WovenEdit) -> Weave | None:
    """Which weave the target wears, the nearest rendering by squared error over its place; None where none
    is much nearer than the thing as it was. picture: [S, S, 3], uint8 or floats in 0..1."""
    pixels = np.asarray(picture) / (255.0 if np.asarray(picture).dtype == np.uint8 else 1.0)
    size = len(pixels)
    x0, y0, x1, y1 = place_box(edit.target, size)
    box = (slice(y0, y1), slice(x0, x1))
    into, alpha, _ = painted_at(edit.target, *edit.target.centre(), edit.target.radius, size)
    gone = ground(edit.source.ground, size).copy()
    for thing in edit.source.things:
        if thing is not edit.target:
            there, cover, paint = painted_at(thing, *thing.centre(), thing.radius, size)
            gone[there] = gone[there] * (1 - cover) + paint * cover
    errors = []
    for weave in WEAVES:
        canvas = gone.copy()
        canvas[into] = canvas[into] * (1 - alpha) + _paint(weave, edit.target, size, into) * alpha
        seen = under_weather(canvas, edit.source.weather)
        errors.append(float(np.square(np.clip(seen[box], 0, 1) - pixels[box]).mean()))
    best = int(np.argmin(errors))
    plain = float(np.square(render(edit.source, size)[box] / 255.0 - pixels[box]).mean())
    return WEAVES[best] if errors[best] < NEARER * plain else None


def woven_right(picture: NDArray[Any], edit: WovenEdit) -> bool:
    return read_weave(picture, edit) == edit.weave


def _paint(weave: Weave, thing: Thing, size: int, into: tuple[slice, slice]) -> Array:
    """[h, w, 3] of a part of the picture (rows, columns), anchored at the thing's centre, so that a thing
    that moves takes it along."""
    x, y = thing.centre()
    rows, columns = (
        (np.arange(each.start * SUPER, each.stop * SUPER) + 0.5) / SUPER * (LATTICE / size) for each in into
    )
    angle = math.radians(weave.angle)
    cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)  # six digits: alike on every machine
    along = ((columns[None] - x) * cos + (rows[:, None] - y) * sin) / weave.period
    stripe = (np.floor(2 * along + 0.5) % 2 == 1).astype(float)
    share = stripe.reshape(-1, SUPER, len(columns) // SUPER, SUPER).mean((1, 3))[..., None]
    plain = paint_of(thing.colour, np.zeros(()), np.zeros(()))
    return plain * (1 - share) + np.array(SECOND[weave.second]) * share
