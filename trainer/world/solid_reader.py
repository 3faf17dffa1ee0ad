"""The exact reader of scenes of solids: what views show at given places, by the nearest rendering; then the
majority of the views. No model in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evlm.scene import Camera

from .raytrace import SUPER, meet, pool, rays, shade, shares, trace, under, view
from .render import DARK, LIGHT, RGB
from .scene import COLOURS, TEXTURES
from .solid import SOLIDS, Solid, SolidScene
from .solid_edits import WHOLE, SolidEdit, place_box

T = TypeVar("T")
Look = tuple[str, str, str]
Picture = NDArray[Any]

LOOKS: tuple[Look, ...] = tuple(product(SOLIDS, COLOURS, TEXTURES))
SEEN = 16.0  # pixels of a place that a view must see, to be asked
SURE = 1e-5  # mean squared error by which another answer must be worse, for a view to be asked


@dataclass(frozen=True)
class Reading:
    """What one view shows at a place. look: the nearest, None for nothing. apart: [161], mean squared
    differences of the looks in the order of LOOKS, then of nothing."""

    look: Look | None
    apart: NDArray[np.float64]


def edit_right(pictures: Sequence[Picture], edit: SolidEdit, cameras: Sequence[Camera]) -> bool:
    """Whether views show what an edit orders. pictures: for each camera [H, W, 3] of its size, uint8 or
    floats in 0..1. Raises ValueError: pictures that do not fit, or views of which none can tell."""
    if edit.op in WHOLE:
        return read_whole(pictures, edit.result, edit.op, cameras) == edit.value
    return all(read(pictures, edit.result, where, cameras) == look for where, look in wanted(edit))


def scene_right(pictures: Sequence[Picture], scene: SolidScene, cameras: Sequence[Camera]) -> bool:
    """Whether views show every solid of a scene at its place, and its ground, sky and weather. Arguments as
    of `edit_right`."""
    if any(read_whole(pictures, scene, what, cameras) != getattr(scene, what) for what in WHOLE):
        return False
    return all(read(pictures, scene, solid, cameras) == solid.look for solid in scene.solids)


def read(
    pictures: Sequence[Picture], scene: SolidScene, where: Solid, cameras: Sequence[Camera]
) -> Look | None:
    """The (shape, colour, texture) that most views show where `where` stands, or None for nothing; of answers
    with equal votes the nearer one. Raises ValueError: views of which none can tell."""
    return most_read(read_place, pictures, scene, where, cameras, LOOKS)


def read_whole(pictures: Sequence[Picture], scene: SolidScene, what: str, cameras: Sequence[Camera]) -> str:
    """The weather, ground or sky (`what`) under which the scene comes nearest to most views. Raises
    ValueError: another `what`, views of which none can tell."""
    if what not in WHOLE:
        raise ValueError(f"cannot read {what!r} from views; one of {', '.join(WHOLE)}")
    votes = []
    for picture, camera in zip(pictures, cameras, strict=True):
        pixels = floats(picture, camera)
        drawn = (view(replace(scene, **{what: value}), camera).picture / 255 for value in WHOLE[what])  # type: ignore[arg-type]
        apart = np.array([np.square(each - pixels).mean() for each in drawn])
        if tells(apart):
            votes.append((WHOLE[what][int(apart.argmin())], apart))
    return majority(votes, WHOLE[what], what)


def read_place(picture: Picture, scene: SolidScene, where: Solid, camera: Camera) -> Reading | None:
    """What one view shows where `where` stands (its place and size), among the scene's other solids; None
    where too little of the place is seen, or two answers look alike. picture: [H, W, 3]."""
    box = place_box(where, camera)
    if box is None:
        return None
    size, pixels, eye, ways = looked_into(picture, camera, box)
    others = tuple(each for each in scene.solids if (each.x, each.y) != (where.x, where.y))
    behind = trace(replace(scene, solids=others), eye, ways)
    apart, seen = np.zeros((len(SOLIDS), len(COLOURS), len(TEXTURES))), 0.0
    for i, shape in enumerate(SOLIDS):
        hits = meet(replace(where, shape=shape), eye, ways)
        met = hits.distance < behind.distance[hits.rows]
        rows, local, normals = hits.rows[met], hits.local[met], hits.normals[met]
        seen = max(seen, len(rows) / SUPER**2)
        offset = under(scene.weather, np.zeros((len(rows), 3)), normals)  # a weather is affine in the colour
        gain = (under(scene.weather, np.ones((len(rows), 3)), normals) - offset) * shade(normals)[:, None]
        for k, texture in enumerate(TEXTURES):
            dark, light = (share[:, None] for share in shares(texture, local))
            fixed, tinted = behind.colours.copy(), np.zeros(behind.colours.shape)
            fixed[rows] = gain * LIGHT * light + offset
            tinted[rows] = gain * (1 - (1 - DARK) * dark) * (1 - light)
            drawn, tint = pooled(fixed, size), pooled(tinted, size)
            for j, colour in enumerate(COLOURS):
                apart[i, j, k] = distance(drawn + tint * np.array(RGB[colour]), pixels)
    return nearest([*apart.ravel(), distance(pooled(behind.colours, size), pixels)], LOOKS, seen)


def wanted(edit: Any) -> list[tuple[Any, Look | None]]:
    """What an edit of one thing orders: (a thing's place, the look that is to be there, or None)."""
    found: list[tuple[Any, Look | None]] = []
    if edit.target is not None and (edit.outcome is None or edit.op == "move"):
        found.append((edit.target, None))
    if edit.outcome is not None:
        found.append((edit.outcome, edit.outcome.look))
    return found


def most_read(
    read_one: Callable[[Picture, Any, Any, Camera], Reading | None],
    pictures: Sequence[Picture],
    scene: Any,
    where: Any,
    cameras: Sequence[Camera],
    looks: Sequence[Look],
) -> Look | None:
    """The majority of what `read_one` reads in each view, of `looks` and None for nothing."""
    readings = [
        read_one(picture, scene, where, camera) for picture, camera in zip(pictures, cameras, strict=True)
    ]
    return majority(
        [(r.look, r.apart) for r in readings if r is not None], (*looks, None), f"the {where.label}'s place"
    )


def looked_into(
    picture: Picture, camera: Camera, box: tuple[int, int, int, int]
) -> tuple[tuple[int, int], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """((height, width) of a box of a view, what the picture shows in it in 0..1, its rays' eye and ways)."""
    x0, y0, x1, y1 = box
    window = camera.cropped(x0, y0, x1 - x0, y1 - y0)
    return (window.height, window.width), floats(picture, camera)[y0:y1, x0:x1], *rays(window, SUPER)


def nearest(apart: Sequence[float], looks: Sequence[Look], seen: float) -> Reading | None:
    """What a view says. apart: how far the looks are from it, then how far nothing is. seen: pixels of the
    place; None where they are too few, or two answers look alike."""
    every = np.array(apart)
    if seen < SEEN or not tells(every):
        return None
    best = int(every.argmin())
    return Reading(looks[best] if best < len(looks) else None, every)


def pooled(colours: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """What pixels [h, w, 3] see of their samples' colours [R, 3]."""
    return np.stack([pool(colours[:, channel], *size) for channel in range(3)], -1)


def distance(drawn: NDArray[np.float64], pixels: NDArray[np.float64]) -> float:
    """Mean squared difference of what was drawn, as bytes would hold it, from a picture."""
    return float(np.square(np.clip(drawn, 0, 1) - pixels).mean())


def tells(apart: NDArray[np.float64]) -> bool:
    """Whether the nearest answer is nearer than any other."""
    nearest, next_one = np.partition(apart, 1)[:2]
    return bool(next_one - nearest > SURE)


def majority(votes: Iterable[tuple[T, NDArray[np.float64]]], answers: Sequence[T], of: str) -> T:
    """The answer of most votes (answer, how far each of `answers` is); of equal ones the nearer. Raises
    ValueError: no votes; `of` says about what."""
    several = list(votes)
    if not several:
        raise ValueError(f"{of} cannot be told in any of the views")
    counts = Counter(answer for answer, _ in several)
    most = max(counts.values())
    apart = np.sum([each for _, each in several], 0)
    return min((answer for answer in counts if counts[answer] == most), key=lambda a: apart[answers.index(a)])


def floats(picture: Picture, camera: Camera) -> NDArray[np.float64]:
    """[H, W, 3] in 0..1. Raises ValueError: not of the camera's size."""
    pixels = np.asarray(picture)
    if pixels.shape != (camera.height, camera.width, 3):
        raise ValueError(
            f"a picture of shape {pixels.shape} for a camera of {camera.width} x {camera.height} pixels"
        )
    return pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float64)
