"""The exact reader: what a picture of the world shows at given places, by the nearest rendering. No model in
it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .chain import Chain
from .edits import Edit
from .render import paint_of, place, place_box, render, stamp, under_weather
from .scene import COLOURS, GROUNDS, JITTER, LATTICE, SHAPES, STYLES, TEXTURES, WEATHERS, Scene, Thing

Look = tuple[str, str, str]
Floats = NDArray[np.float32]
Picture = NDArray[np.uint8] | NDArray[np.floating]

LOOKS: tuple[Look, ...] = tuple(product(SHAPES, COLOURS, TEXTURES))
BARE = 0.02  # a pixel nearer than this to the bare ground is it
VALUES = {"weather": WEATHERS, "ground": GROUNDS, "style": STYLES}


def edit_right(picture: Picture, edit: Edit, frame: int = 0) -> bool:
    """Whether a picture shows what an edit orders, read at the edit's own places (or as a whole).

    picture: [S, S, 3], uint8 or floats in 0..1; the edited source at that frame.
    """
    if isinstance(edit, Chain):
        return _chain_right(picture, edit, frame)
    if edit.op in ("weather", "ground"):
        return read_whole(picture, edit.source, edit.op, frame) == edit.value
    if edit.op == "restyle":
        return read_whole(picture, edit.source, "style", frame) == edit.value
    left = edit.target is not None and (edit.outcome is None or edit.op == "move")
    if left and read_place(picture, edit.source, edit.target, frame) is not None:  # type: ignore[arg-type]
        return False
    return edit.outcome is None or read_place(picture, edit.source, edit.outcome, frame) == edit.outcome.look


def scene_right(picture: Picture, scene: Scene, frame: int = 0) -> bool:
    """Whether a picture shows a whole scene: each thing at its place, every free cell bare, and its ground,
    weather and style. picture: as of `edit_right`."""
    if any(read_whole(picture, scene, what, frame) != getattr(scene, what) for what in VALUES):
        return False
    plain = replace(scene, things=(), style="plain")
    apart = np.abs(_floats(picture) - render(plain, len(picture)) / 255.0).max(-1)
    free = [probe for cell in scene.free_cells() for probe in probes(cell) if not _is_bare(apart, cell)]
    return all(_as_in(picture, scene, where, frame) for where in (*scene.things, *free))


def _is_bare(apart: NDArray[np.floating], cell: int) -> bool:
    """Whether a cell is the bare ground so nearly that no thing needs to be looked for. apart: [S, S], how
    far the picture is from the ground, in 0..1."""
    x0, y0, x1, y1 = place_box(place_of_cell(cell), len(apart))
    return bool(apart[y0:y1, x0:x1].max() < BARE)


def place_of_cell(cell: int) -> Thing:
    """The place at which a cell's largest thing would stand; its look says nothing."""
    return Thing("circle", "red", "plain", "large", cell)


def probes(cell: int) -> list[Thing]:
    """Places at which whatever stands in a cell is seen: one large, and small ones over all of it."""
    room = (-JITTER["small"], 0, JITTER["small"])
    small = [Thing("circle", "red", "plain", "small", cell, dx, dy) for dx, dy in product(room, room)]
    return [place_of_cell(cell), *small]


def _chain_right(picture: Picture, chain: Chain, frame: int) -> bool:
    """Whether every place that a step touched shows what the last step leaves there, under the ground and
    the weather that it leaves; without steps, whether all is as it was."""
    result = chain.result
    if not chain.steps:
        return scene_right(picture, result, frame)
    ops = {step.op for step in chain.steps}
    for what, op in (("weather", "weather"), ("ground", "ground"), ("style", "restyle")):
        if op in ops and read_whole(picture, result, what, frame) != getattr(result, what):
            return False
    touched = [thing for step in chain.steps for thing in (step.target, step.outcome) if thing is not None]
    return all(_as_in(picture, result, where, frame) for where in touched)


def _as_in(picture: Picture, scene: Scene, where: Thing, frame: int) -> bool:
    """Whether a place shows what the scene has in its cell."""
    thing = scene.at(where.cell)
    return read_place(picture, scene, thing or where, frame) == (None if thing is None else thing.look)


def read_place(picture: Picture, scene: Scene, where: Thing, frame: int = 0) -> Look | None:
    """The (shape, colour, texture) that stands where `where` stands (its cell, offset and size), or None for
    bare ground.

    The scene gives ground, sign and weather. The nearest, by squared error over the place's box, of all 256
    renderings and the empty one wins. picture: [S, S, 3], uint8 or floats in 0..1; the scene drawn plainly.
    """
    return read_near(picture, scene, where, frame)[0]


def read_near(picture: Picture, scene: Scene, where: Thing, frame: int = 0) -> tuple[Look | None, float]:
    """As `read_place`, and how far the place is from that rendering: the mean square in 0..1."""
    pixels = _floats(picture)
    size = len(pixels)
    x0, y0, x1, y1 = place_box(where, size, frame)
    box = (slice(y0, y1), slice(x0, x1))
    bare = _bare(scene.ground, scene.sign, scene.sign_large, size)[box]
    alpha, paint = _stamps(where, size, frame)
    looks = bare * (1 - alpha) + paint * alpha
    gain, offset = (part[box] for part in weather_of(scene.weather, size))
    drawn = np.concatenate([looks, bare[None]]) * gain + offset
    apart = np.square(np.clip(drawn, 0, 1) - pixels[box]).mean((1, 2, 3))
    best = int(apart.argmin())
    return LOOKS[best] if best < len(LOOKS) else None, float(apart[best])


def read_whole(picture: Picture, scene: Scene, what: str, frame: int = 0) -> str:
    """The weather, ground or style (`what`) under which the scene's rendering comes nearest to the
    picture."""
    pixels = _floats(picture)
    if what not in VALUES:
        raise ValueError(f"cannot read {what!r} from a whole picture; one of {', '.join(VALUES)}")
    drawn = [render(replace(scene, **{what: value}), len(pixels), frame) / 255.0 for value in VALUES[what]]  # type: ignore[arg-type]
    return VALUES[what][int(np.argmin([np.square(d - pixels).mean() for d in drawn]))]


def _floats(picture: Picture) -> Floats:
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[0] != pixels.shape[1] or pixels.shape[2] != 3:
        raise ValueError(
            f"picture of shape {pixels.shape}, expected [S, S, 3]: the world's pictures are square"
        )
    return np.float32(pixels / 255.0 if pixels.dtype == np.uint8 else pixels)


@lru_cache(maxsize=64)
def _bare(ground: str, sign: str | None, sign_large: bool, size: int) -> Floats:
    """The scene without things and weather, [S, S, 3] in 0..1."""
    return np.float32(render(Scene((), ground, sign=sign, sign_large=sign_large), size) / 255.0)


@lru_cache(maxsize=16)
def weather_of(weather: str, size: int) -> tuple[Floats, Floats]:
    """A weather as gain and offset of each pixel: it is pointwise and affine. Each [S, S, 3]."""
    offset = under_weather(np.zeros((size, size, 3)), weather)
    gain = under_weather(np.ones((size, size, 3)), weather) - offset
    return gain.astype(np.float32), offset.astype(np.float32)


def _stamps(where: Thing, size: int, frame: int) -> tuple[Floats, Floats]:
    """(coverage [256, h, w, 1], paint [256, h, w, 3]) of every look in a place's box."""
    (fx, fy), into, cut = place(where, size, frame)
    x0, y0, x1, y1 = place_box(where, size, frame)
    alpha, paint = _all_stamps(where.radius, fx, fy, size / LATTICE)
    boxed = np.zeros((len(LOOKS), y1 - y0, x1 - x0, 4), np.float32)
    rows, from_rows = _overlap(y0, y1, into[0], cut[0])
    columns, from_columns = _overlap(x0, x1, into[1], cut[1])
    boxed[:, rows, columns, :1] = alpha[:, from_rows, from_columns]
    boxed[:, rows, columns, 1:] = paint[:, from_rows, from_columns]
    return boxed[..., :1], boxed[..., 1:]


def _overlap(low: int, high: int, into: slice, cut: slice) -> tuple[slice, slice]:
    """Where a stamp's span lies in the box's span low..high: (slice of the box, slice of the stamp)."""
    first, last = max(low, into.start), min(high, into.stop)
    start = cut.start + first - into.start
    return slice(first - low, last - low), slice(start, start + last - first)


@lru_cache(maxsize=64)
def _all_stamps(radius: int, fx: float, fy: float, scale: float) -> tuple[Floats, Floats]:
    """Coverage [256, n, n, 1] and paint [256, n, n, 3] of every look around one centre."""
    alphas, paints = [], []
    for shape, colour, texture in LOOKS:
        alpha, dark, light = stamp(shape, texture, radius, fx, fy, scale)
        alphas.append(alpha[..., None])
        paints.append(paint_of(colour, dark, light))
    return np.stack(alphas).astype(np.float32), np.stack(paints).astype(np.float32)
