"""Edits of a scene: what is ordered, what comes out, which pixels may change. Exact, from the scene graph
alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .render import place_box, render_frames, silhouette
from .scene import (
    CELLS,
    COLOURS,
    DIRECTIONS,
    GROUNDS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    WEATHERS,
    Scene,
    Split,
    Thing,
    composition_split,
    random_look,
    random_thing,
    scene_split,
)

# The paper's Figure 10: object transformation 56.5 %, removal 10.9, addition 10.7, weather 10.1, the rest
# style,
# texture, layout. Transformation is recolour and replace; weather and ground share the weather's part.
MIX = {
    "recolour": 0.30,
    "replace": 0.265,
    "remove": 0.109,
    "add": 0.107,
    "weather": 0.07,
    "ground": 0.031,
    "restyle": 0.04,
    "retexture": 0.04,
    "move": 0.038,
}
OPERATIONS = tuple(MIX)
GLOBAL = ("weather", "ground", "restyle")


@dataclass(frozen=True)
class Edit:
    """One edit with its exact truth. `target` is the thing in the source, `outcome` the thing in the result;
    either may be None (addition, removal, whole-picture edits)."""

    op: str
    source: Scene
    result: Scene
    instruction: str
    targets: tuple[str, ...]
    target: Thing | None = None
    outcome: Thing | None = None
    value: str = ""

    @property
    def scope(self) -> str:
        return "global" if self.op in GLOBAL else "local"

    @property
    def roomy(self) -> bool:
        """Whether the edit needs the thing's whole place, and not only its silhouette."""
        return self.op in ("replace", "remove", "add", "move")

    def region(self, size: int = 64, frames: int = 1) -> NDArray[np.bool_] | None:
        """Pixels that may change in any of the frames: bool [size, size]; None for the whole picture."""
        if self.scope == "global":
            return None
        mask = np.zeros((size, size), bool)
        if not self.roomy:
            assert self.target is not None
            for f in range(frames):
                mask |= silhouette(self.target, size, f)
            return mask
        boxes = [
            place_box(t, size, f) for t in (self.target, self.outcome) if t is not None for f in range(frames)
        ]
        x0, y0 = (min(b[i] for b in boxes) for i in (0, 1))
        x1, y1 = (max(b[i] for b in boxes) for i in (2, 3))
        mask[y0:y1, x0:x1] = True
        return mask

    def pictures(self, size: int = 64, frames: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(source, result), each uint8 [frames, size, size, 3], equal outside the region."""
        before, after = (render_frames(s, size, frames) for s in (self.source, self.result))
        region = self.region(size, frames)
        if region is not None:  # an anti-aliased rim lies outside a silhouette's mask: it may not change
            after = np.where(region[None, :, :, None], after, before)
        return before, after

    @property
    def split(self) -> Split | None:
        """Which split may hold this edit; None when target and result belong to different held-out splits.

        Training needs every composition and the scene to be training's. Test needs the scene in test and at
        least one composition held out for test (whole-picture edits have no composition: their scene
        decides).
        """
        looks = {composition_split(t.look) for t in (self.target, self.outcome) if t is not None}
        return split_of(scene_split(self.source), looks)


def split_of(home: Split, looks: set[Split]) -> Split | None:
    """Which split may hold an edit, by its scene's split and those of its compositions (`Edit.split`)."""
    if not looks:
        return home
    if looks == {"train"}:
        return "train" if home == "train" else None
    return home if looks <= {"train", home} and home != "train" else None


def recolour(scene: Scene, thing: Thing, colour: str) -> Edit:
    new = replace(thing, colour=colour)
    return Edit(
        "recolour",
        scene,
        scene.swap(thing, new),
        f"make the {thing.label} {colour}",
        (thing.label,),
        thing,
        new,
        colour,
    )


def retexture(scene: Scene, thing: Thing, texture: str) -> Edit:
    new = replace(thing, texture=texture)
    return Edit(
        "retexture",
        scene,
        scene.swap(thing, new),
        f"make the {thing.label} {texture}",
        (thing.label,),
        thing,
        new,
        texture,
    )


def swap_thing(scene: Scene, thing: Thing, look: tuple[str, str, str]) -> Edit:
    new = replace(thing, shape=look[0], colour=look[1], texture=look[2])
    order = f"replace the {thing.label} with a {new.label}"
    return Edit("replace", scene, scene.swap(thing, new), order, (thing.label,), thing, new, new.label)


def remove(scene: Scene, thing: Thing) -> Edit:
    return Edit("remove", scene, scene.swap(thing, None), f"remove the {thing.label}", (thing.label,), thing)


def add(scene: Scene, new: Thing) -> Edit:
    result = replace(scene, things=tuple(sorted((*scene.things, new), key=lambda t: t.cell)))
    order = f"add a {new.size} {new.label} at the {CELLS[new.cell]}"
    return Edit("add", scene, result, order, (new.label,), None, new, new.label)


def move(scene: Scene, thing: Thing, direction: str) -> Edit:
    new = replace(thing, cell=neighbour(thing.cell, direction))
    order = f"move the {thing.label} {direction}"
    return Edit("move", scene, scene.swap(thing, new), order, (thing.label,), thing, new, direction)


def move_to(scene: Scene, thing: Thing, cell: int) -> Edit:
    """A move to a free cell anywhere, which is named."""
    order = f"move the {thing.label} to the {CELLS[cell]}"
    new = replace(thing, cell=cell)
    return Edit(
        "move", scene, scene.swap(thing, new), order, (thing.label,), thing, new, f"to the {CELLS[cell]}"
    )


def change_weather(scene: Scene, weather: str) -> Edit:
    return Edit(
        "weather",
        scene,
        replace(scene, weather=weather),
        f"change the weather to {weather}",
        (),
        value=weather,
    )


def change_ground(scene: Scene, ground: str) -> Edit:
    return Edit(
        "ground", scene, replace(scene, ground=ground), f"change the ground to {ground}", (), value=ground
    )


def restyle(scene: Scene, style: str) -> Edit:
    return Edit(
        "restyle", scene, replace(scene, style=style), f"turn the picture into {style}", (), value=style
    )


def neighbour(cell: int, direction: str) -> int:
    """The cell one step away, or -1 outside the grid."""
    dx, dy = DIRECTIONS[direction]
    x, y = cell % 3 + dx, cell // 3 + dy
    return y * 3 + x if 0 <= x < 3 and 0 <= y < 3 else -1


def moves(scene: Scene, thing: Thing) -> list[str]:
    """Directions in which a thing finds a free neighbouring cell."""
    return [d for d in DIRECTIONS if neighbour(thing.cell, d) in scene.free_cells()]


def random_move_to(rng: random.Random, scene: Scene) -> Edit:
    """A move of any thing to any free cell, by the cell's name; `random_edit` draws those by one cell
    alone."""
    return move_to(scene, rng.choice(scene.things), rng.choice(scene.free_cells()))


def random_edit(rng: random.Random, op: str, scene: Scene, thing: Thing | None = None) -> Edit | None:
    """An edit of that kind with a uniform target and value; None where the scene admits none."""
    if op in GLOBAL:
        values = {"weather": WEATHERS, "ground": GROUNDS, "restyle": STYLES}[op]
        now = {"weather": scene.weather, "ground": scene.ground, "restyle": scene.style}[op]
        make = {"weather": change_weather, "ground": change_ground, "restyle": restyle}[op]
        return make(scene, rng.choice([v for v in values if v != now]))
    labels = {t.label for t in scene.things}
    if op == "add":
        look = random_look(rng)
        cells = scene.free_cells()
        new = replace(random_thing(rng, rng.choice(cells), look, rng.choice(SIZES)), dx=0, dy=0)
        return add(scene, new) if new.label not in labels else None
    if op == "move":  # uniform over the moves: one that has a single way out is no likelier for it
        ways = [(t, d) for t in ((thing,) if thing else scene.things) for d in moves(scene, t)]
        return move(scene, *rng.choice(ways)) if ways else None
    thing = thing or rng.choice(scene.things)
    if op == "remove":
        return remove(scene, thing)
    if op == "recolour":
        edit = recolour(scene, thing, rng.choice([c for c in COLOURS if c != thing.colour]))
    elif op == "retexture":
        edit = retexture(scene, thing, rng.choice([t for t in TEXTURES if t != thing.texture]))
    elif op == "replace":
        shape = rng.choice([s for s in SHAPES if s != thing.shape])
        keep = rng.random() < 0.5  # half keep paint and pattern, half bring another thing altogether
        look = (shape, thing.colour, thing.texture) if keep else (shape, *random_look(rng)[1:])
        edit = swap_thing(scene, thing, look)
    else:
        raise ValueError(f"unknown operation {op!r}; one of {', '.join(OPERATIONS)}")
    return edit if edit.outcome is None or edit.outcome.label not in labels - {thing.label} else None
