"""Edits of a scene of solids, in the flat world's operations and sentences, with the truth of all views."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from evlm.scene import Camera

from .edits import MIX as FLAT_MIX
from .edits import neighbour, split_of
from .raytrace import View, view
from .scene import CELLS, COLOURS, DIRECTIONS, GROUNDS, SIZES, TEXTURES, WEATHERS, Split
from .solid import SKIES, SOLIDS, PosedSolid, Solid, SolidScene, solid_scene_split, solid_split

# A style is of pictures, not of a world: the sky has its share.
MIX = {"sky" if op == "restyle" else op: share for op, share in FLAT_MIX.items()}
OPERATIONS = tuple(MIX)
WHOLE = {"weather": WEATHERS, "ground": GROUNDS, "sky": SKIES}
ROOM = 1.1  # of a place whose whole room is edited: its half side, in radii


@dataclass(frozen=True)
class SolidEdit:
    """One edit with its exact truth. `target` stands in the source, `outcome` in the result; either
    may be None (addition, removal, whole-scene edits)."""

    op: str
    source: SolidScene
    result: SolidScene
    instruction: str
    targets: tuple[str, ...]
    target: Solid | None = None
    outcome: Solid | None = None
    value: str = ""

    @property
    def scope(self) -> str:
        return "global" if self.op in WHOLE else "local"

    @property
    def roomy(self) -> bool:
        """Whether the edit needs the solid's whole place, and not only its silhouette."""
        return self.op in ("replace", "remove", "add", "move")

    def views(self, camera: Camera) -> tuple[View, View]:
        """(source, result) as a camera sees them, equal outside `region`."""
        return view(self.source, camera), view(self.result, camera)

    def region(self, camera: Camera) -> NDArray[np.bool_] | None:
        """Pixels that may change in a view, by what is seen of target and outcome: bool [H, W]; None for the
        whole picture."""
        if self.scope == "global":
            return None
        mask = np.zeros((camera.height, camera.width), bool)
        for scene, solid in ((self.source, self.target), (self.result, self.outcome)):
            if solid is not None:
                mask |= view(scene, camera).coverage[scene.solids.index(solid)] > 0
        return mask

    def place(self, camera: Camera) -> tuple[int, int, int, int] | None:
        """The box around the places that are edited, with room, whatever stands before them: (x0, y0, x1, y1)
        in pixels, x1 and y1 exclusive; None for the whole picture, or where no part of them is in it."""
        boxes = [place_box(s, camera) for s in (self.target, self.outcome) if s is not None]
        seen = [box for box in boxes if box is not None]
        if not seen:
            return None
        x0, y0, x1, y1 = zip(*seen, strict=True)
        return min(x0), min(y0), max(x1), max(y1)

    @property
    def split(self) -> Split | None:
        """Which split may hold this edit, by the flat world's rule (`edits.Edit.split`)."""
        looks = {solid_split(each.look) for each in (self.target, self.outcome) if each is not None}
        return split_of(solid_scene_split(self.source), looks)


def place_box(solid: Solid, camera: Camera) -> tuple[int, int, int, int] | None:
    """The box of a solid's place, whatever its shape: (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None
    outside the picture. The camera stands outside of it."""
    r = solid.radius
    lift = solid.lift if isinstance(solid, PosedSolid) else 0.0
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64) * r * ROOM
    pixels, _ = camera.project(corners + torch.tensor([solid.x, solid.y, r + lift], dtype=torch.float64))
    low, high = np.floor(pixels.amin(0).numpy()), np.ceil(pixels.amax(0).numpy())
    x0, y0 = (max(0, int(at)) for at in low)
    x1, y1 = (min(most, int(at)) for at, most in zip(high, (camera.width, camera.height), strict=True))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def recolour(scene: SolidScene, solid: Solid, colour: str) -> SolidEdit:
    return _make("recolour", scene, solid, replace(solid, colour=colour), colour)


def retexture(scene: SolidScene, solid: Solid, texture: str) -> SolidEdit:
    return _make("retexture", scene, solid, replace(solid, texture=texture), texture)


def _make(op: str, scene: SolidScene, solid: Solid, new: Solid, value: str) -> SolidEdit:
    order = f"make the {solid.label} {value}"
    return SolidEdit(op, scene, scene.swap(solid, new), order, (solid.label,), solid, new, value)


def swap_solid(scene: SolidScene, solid: Solid, look: tuple[str, str, str]) -> SolidEdit:
    new = replace(solid, shape=look[0], colour=look[1], texture=look[2])
    order = f"replace the {solid.label} with a {new.label}"
    return SolidEdit("replace", scene, scene.swap(solid, new), order, (solid.label,), solid, new, new.label)


def remove(scene: SolidScene, solid: Solid) -> SolidEdit:
    order = f"remove the {solid.label}"
    return SolidEdit("remove", scene, scene.swap(solid, None), order, (solid.label,), solid)


def add(scene: SolidScene, new: Solid) -> SolidEdit:
    result = replace(scene, solids=(*scene.solids, new))
    order = f"add a {new.size} {new.label} at the {CELLS[new.cell]}"
    return SolidEdit("add", scene, result, order, (new.label,), None, new, new.label)


def move(scene: SolidScene, solid: Solid, direction: str) -> SolidEdit:
    """By one cell. Left, right, up (away) and down (nearer) are those of a ring's first camera."""
    new = solid.at_cell(neighbour(solid.cell, direction))
    order = f"move the {solid.label} {direction}"
    return SolidEdit("move", scene, scene.swap(solid, new), order, (solid.label,), solid, new, direction)


def move_to(scene: SolidScene, solid: Solid, cell: int) -> SolidEdit:
    """A move to a free cell anywhere, which is named."""
    new, value = solid.at_cell(cell), f"to the {CELLS[cell]}"
    order = f"move the {solid.label} {value}"
    return SolidEdit("move", scene, scene.swap(solid, new), order, (solid.label,), solid, new, value)


def change_whole(scene: SolidScene, op: str, value: str) -> SolidEdit:
    """Weather, ground or sky of the whole scene."""
    result = replace(scene, **{op: value})  # type: ignore[arg-type]
    return SolidEdit(op, scene, result, f"change the {op} to {value}", (), value=value)


def moves(scene: SolidScene, solid: Solid) -> list[str]:
    """Directions in which a solid finds a free neighbouring cell."""
    return [way for way in DIRECTIONS if neighbour(solid.cell, way) in scene.free_cells()]


def random_solid_edit(
    rng: random.Random, op: str, scene: SolidScene, solid: Solid | None = None
) -> SolidEdit | None:
    """An edit of that kind with a uniform target and value; None where the scene admits none. Raises
    ValueError for an operation that is not known."""
    if op == "ground" and scene.weather == "snow":
        return None  # it is not seen
    if op in WHOLE:
        return change_whole(scene, op, rng.choice([v for v in WHOLE[op] if v != getattr(scene, op)]))
    labels = {each.label for each in scene.solids}
    if op == "add":
        look = rng.choice(SOLIDS), rng.choice(COLOURS), rng.choice(TEXTURES)
        new = Solid(*look, rng.choice(SIZES), 0.0, 0.0).at_cell(rng.choice(scene.free_cells()))
        return add(scene, new) if new.label not in labels else None
    if op == "move":
        ways = [(s, way) for s in ((solid,) if solid else scene.solids) for way in moves(scene, s)]
        return move(scene, *rng.choice(ways)) if ways else None
    if op not in _CHANGES:
        raise ValueError(f"unknown operation {op!r}; one of {', '.join(OPERATIONS)}")
    solid = solid or rng.choice(scene.solids)
    edit = _CHANGES[op](rng, scene, solid)
    return edit if edit.outcome is None or edit.outcome.label not in labels - {solid.label} else None


def _random_swap(rng: random.Random, scene: SolidScene, solid: Solid) -> SolidEdit:
    shape = rng.choice([shape for shape in SOLIDS if shape != solid.shape])
    keep = rng.random() < 0.5  # half keep paint and pattern, half bring another solid altogether
    paint = (solid.colour, solid.texture) if keep else (rng.choice(COLOURS), rng.choice(TEXTURES))
    return swap_solid(scene, solid, (shape, *paint))


_CHANGES: dict[str, Callable[[random.Random, SolidScene, Solid], SolidEdit]] = {
    "remove": lambda rng, scene, solid: remove(scene, solid),
    "recolour": lambda rng, scene, solid: recolour(
        scene, solid, rng.choice([colour for colour in COLOURS if colour != solid.colour])
    ),
    "retexture": lambda rng, scene, solid: retexture(
        scene, solid, rng.choice([texture for texture in TEXTURES if texture != solid.texture])
    ),
    "replace": _random_swap,
}
