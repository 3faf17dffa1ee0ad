"""The exact reader for clips: whether an edited clip shows in every frame what was ordered. No model in
it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import ClipEdit, Film, painted, place_box_at, silhouette_at, with_value
from .paths import Pose
from .reader import LOOKS, VALUES, Look, weather_of
from .render import ground, paint_of, place_at, stamp
from .scene import COLOURS, LATTICE, SHAPES, TEXTURES, Thing

SHARE = 0.35  # of a thing that must be seen for its look to be told
TELLS = 1e-3  # mean squared difference by which the order must show in a frame, in the thing's place
TIE = 4e-6  # what rounding to bytes leaves; renderings as near as this are one

Picture = NDArray[Any]


def frames_right(pictures: Picture, edit: ClipEdit) -> tuple[bool | None, ...]:
    """For each frame whether it shows the result; None where nothing can be told: the thing is hidden, out of
    sight, after a cut, or the order makes no difference in the part that is seen.

    pictures: [F, S, S, 3], uint8 or floats in 0..1: the edited clip. Raises ValueError for another number of
    frames.
    """
    if len(pictures) != edit.film.frames:
        raise ValueError(f"{len(pictures)} frames of a clip of {edit.film.frames}")
    scaled = pictures.astype(np.float64) / (255 if pictures.dtype == np.uint8 else 1)
    read = _whole_right if edit.edit.scope == "global" else _place_right
    return tuple(read(picture, edit, frame) for frame, picture in enumerate(scaled))


def all_right(pictures: Picture, edit: ClipEdit) -> bool:
    """Whether every frame in which the result can be told shows it. Arguments as of `frames_right`."""
    return all(verdict is not False for verdict in frames_right(pictures, edit))


def read_pose(
    picture: Picture, film: Film, index: int, frame: int
) -> tuple[Look | None, NDArray[np.float64]]:
    """(the look that comes nearest where the index-th thing is in a frame, None for none; how far each of the
    256 looks and nothing at all are from the picture, [257]). picture: [S, S, 3] in 0..1."""
    size, thing, pose = len(picture), film.scene.things[index], film.pose(index, frame)
    x0, y0, x1, y1 = place_box_at(thing, pose, size)
    box = (slice(y0, y1), slice(x0, x1))
    behind = ground(film.scene.ground, size).copy()
    through, before = np.ones((size, size, 1)), np.zeros((size, size, 3))
    for other, each in enumerate(film.scene.things):
        if other == index:
            continue
        into, alpha, paint = painted(each, film.pose(other, frame), size)
        if other < index:
            behind[into] = behind[into] * (1 - alpha) + paint * alpha
        else:
            through[into] *= 1 - alpha
            before[into] = before[into] * (1 - alpha) + paint * alpha
    gain, offset = (np.asarray(part)[box] for part in weather_of(film.scene.weather, size))
    wanted = picture[box]
    apart = np.zeros(len(LOOKS) + 1)
    if wanted.size:

        def distance(canvas: NDArray[np.float64]) -> NDArray[np.float64]:
            drawn = (canvas * through[box] + before[box]) * gain + offset
            return np.square(np.clip(drawn, 0, 1) - wanted).mean((-3, -2, -1))

        alpha, dark, light = _stamps(thing, pose, size, box)
        by_colour = [
            distance(behind[box] * (1 - alpha) + paint_of(colour, dark, light) * alpha) for colour in COLOURS
        ]
        apart[:-1] = np.stack(by_colour, 1).ravel()  # in the order of LOOKS: shape, colour, texture
        apart[-1] = distance(behind[box])
    best = int(np.argmin(apart))
    return LOOKS[best] if best < len(LOOKS) else None, apart


def _stamps(
    thing: Thing, pose: Pose, size: int, box: tuple[slice, slice]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(coverage [8, 4, h, w, 1], shares of dark and of white paint [8, 4, h, w]) in a box of a thing of every
    shape and texture."""
    radius = round(thing.radius * pose.scale, 6)
    (fx, fy), into, cut = place_at(pose.x, pose.y, radius, size, pose.angle)
    whole = np.zeros((len(SHAPES), len(TEXTURES), 3, size, size))
    for (i, shape), (j, texture) in product(enumerate(SHAPES), enumerate(TEXTURES)):
        parts = stamp(shape, texture, radius, fx, fy, size / LATTICE, pose.angle)
        whole[i, j, :, into[0], into[1]] = np.stack([part[cut] for part in parts])
    alpha, dark, light = (whole[:, :, part, box[0], box[1]] for part in range(3))
    return alpha[..., None], dark, light


def _place_right(picture: Picture, clip: ClipEdit, frame: int) -> bool | None:
    film = clip.film if clip.edit.target is not None else clip.result
    thing = clip.edit.target or clip.edit.outcome
    assert thing is not None
    if film.cut is not None and frame >= film.cut:
        return None
    size, index = len(picture), film.scene.things.index(thing)
    pose = film.pose(index, frame)
    middle = replace(pose, x=32.0, y=32.0)  # the same thing, all of it in the picture
    visible = (film.owners(frame, size) == index).sum()
    if visible < SHARE * silhouette_at(thing, middle, size).sum():
        return None
    x0, y0, x1, y1 = place_box_at(thing, pose, size)
    before, after = (each.render_frame(frame, size)[y0:y1, x0:x1] / 255 for each in (clip.film, clip.result))
    if np.square(before - after).mean() < TELLS:
        return None
    _, apart = read_pose(picture, film, index, frame)
    outcome = clip.edit.outcome
    return bool(apart[len(LOOKS) if outcome is None else LOOKS.index(outcome.look)] <= apart.min() + TIE)


def _whole_right(picture: Picture, clip: ClipEdit, frame: int) -> bool:
    """By the nearest rendering of the clip under every weather, ground or style."""
    op, value = clip.edit.op, clip.edit.value
    film, at = clip.film.at(frame)
    apart = {}
    for each in VALUES["style" if op == "restyle" else op]:
        drawn = replace(film, scene=with_value(film.scene, op, each), cut=None).render_frame(at, len(picture))
        apart[each] = np.square(drawn / 255 - picture).mean()
    return bool(apart[value] <= min(apart.values()) + TIE)
