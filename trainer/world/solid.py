"""Scenes of solids. Pure data, seeded, no pixels.

The solids stand on a checkered ground of 4 x 4 units around the origin, z up. Their shapes are a list of
their own, never of SHAPES: splits and readers of the flat world index that.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import MISSING, asdict, dataclass, fields, replace

from .scene import COLOURS, GROUNDS, SIZES, TEXTURES, WEATHERS, Split, label_of

SOLIDS = ("ball", "box", "cylinder", "cone", "torus")
RADIUS = {"small": 0.38, "large": 0.55}
PLACES = (-1.25, 0.0, 1.25)  # of a 3 x 3 grid, along either axis; the first camera has the lowest x far
JITTER = 0.07
SKIES = ("blue", "orange", "pink", "purple")


@dataclass(frozen=True)
class Solid:
    """One object: attributes and where it stands, in units."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float

    @property
    def look(self) -> tuple[str, str, str]:
        return self.shape, self.colour, self.texture

    @property
    def label(self) -> str:
        """What a plan calls it: "red striped ball"; plain is not said."""
        return label_of(self.look)

    @property
    def radius(self) -> float:
        return RADIUS[self.size]

    @property
    def cell(self) -> int:
        """Of the flat world's nine, as the first camera of a ring sees them: 0 is far left, 8 near right."""
        row, column = (min(range(3), key=lambda n: abs(PLACES[n] - at)) for at in (self.x, self.y))
        return row * 3 + column

    def at_cell(self, cell: int) -> Solid:
        """The same solid in another cell, as far from its middle."""
        dx, dy = (PLACES[b] - PLACES[a] for a, b in zip(divmod(self.cell, 3), divmod(cell, 3), strict=True))
        return replace(self, x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True)
class PosedSolid(Solid):
    """A solid off the ground, turned, or out of its shape: lift is how far up, in units; yaw is about z, in
    radians; tall is how many times its own height it has."""

    lift: float = 0.0
    yaw: float = 0.0
    tall: float = 1.0


@dataclass(frozen=True)
class SolidScene:
    """What stands on the ground, and under which sky. No two solids touch, nor are two called alike."""

    solids: tuple[Solid, ...]
    ground: str = "grey"
    sky: str = "blue"
    weather: str = "clear"

    def swap(self, old: Solid, new: Solid | None) -> SolidScene:
        """The scene with one solid changed, or taken away (new is None)."""
        if new is None:
            return replace(self, solids=tuple(s for s in self.solids if s is not old))
        return replace(self, solids=tuple(new if s is old else s for s in self.solids))

    def free_cells(self) -> list[int]:
        taken = {solid.cell for solid in self.solids}
        return [cell for cell in range(9) if cell not in taken]


def solid_hash(scene: SolidScene) -> str:
    """Content hash, equal on every machine. What stands at its default is left out, so that a new field moves
    no scene to another split."""
    content = {name: value for name, value in asdict(scene).items() if value != _DEFAULTS[name]}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


_DEFAULTS = {each.name: None if each.default is MISSING else each.default for each in fields(SolidScene)}


def random_solids(rng: random.Random, count: int | None = None) -> SolidScene:
    """2-4 solids of different labels in different places."""
    count = count or rng.choice((2, 3, 3, 4))
    places = rng.sample([(x, y) for x in PLACES for y in PLACES], count)
    looks: list[tuple[str, str, str]] = []
    while len(looks) < count:
        look = (rng.choice(SOLIDS), rng.choice(COLOURS), rng.choice(TEXTURES))
        if look not in looks:
            looks.append(look)
    return SolidScene(
        tuple(
            Solid(*look, rng.choice(SIZES), *(at + rng.uniform(-JITTER, JITTER) for at in place))
            for look, place in zip(looks, places, strict=True)
        )
    )


def solid_split(look: tuple[str, str, str]) -> Split:
    """Which split may use this as the target or the result of an edit: the flat world's Latin design, over
    the solids' own list."""
    s, c, t = SOLIDS.index(look[0]), COLOURS.index(look[1]), TEXTURES.index(look[2])
    return {0: "test", 1: "validation"}.get((s + c + 2 * t) % 8, "train")  # type: ignore[return-value]


def solid_scene_split(scene: SolidScene) -> Split:
    """Scenes are dealt to splits by their hash, as the flat world's are."""
    bucket = int(solid_hash(scene), 16) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def random_setting(rng: random.Random, scene: SolidScene) -> SolidScene:
    """The scene on another ground, under another sky and mostly clear weather."""
    weather = "clear" if rng.random() < 0.6 else rng.choice(WEATHERS[1:])
    return replace(scene, ground=rng.choice(GROUNDS), sky=rng.choice(SKIES), weather=weather)
