"""The exact reader of reliefs: what views show where a thing stands, by the nearest rendering; then the
majority of the views. No model in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from evlm.scene import Camera

from .edits import Edit
from .raytrace import SUPER
from .reader import LOOKS, Look
from .relief import DISTANCE, LAYERS, RIM, THICK, at_depth, local, shares, trace_relief
from .render import DARK, LIGHT, RGB, inside
from .scene import COLOURS, LATTICE, SHAPES, TEXTURES, Scene, Thing
from .solid_reader import Picture, Reading, distance, looked_into, most_read, nearest, pooled, wanted

ROOM = 1.1  # of a place, in radii


def relief_right(pictures: Sequence[Picture], edit: Edit, cameras: Sequence[Camera]) -> bool:
    """Whether views of a relief show what an edit of one of its things orders. pictures: for each camera
    [H, W, 3] of its size, uint8 or floats in 0..1. Raises ValueError: an edit of the whole, pictures that do
    not fit, or views of which none can tell."""
    if edit.scope == "global":
        raise ValueError(f"{edit.op!r}: expected an edit of one thing")
    return all(read_relief(pictures, edit.result, where, cameras) == look for where, look in wanted(edit))


def read_relief(
    pictures: Sequence[Picture], scene: Scene, where: Thing, cameras: Sequence[Camera]
) -> Look | None:
    """The look that most views show where `where` stands, or None for nothing; of answers with equal votes
    the nearer one. Raises ValueError: views of which none can tell."""
    return most_read(read_slab, pictures, scene, where, cameras, LOOKS)


def read_slab(picture: Picture, scene: Scene, where: Thing, camera: Camera) -> Reading | None:
    """What one view shows where `where` stands (its place and size), among the scene's other things; None
    where too little of the place is seen, or two answers look alike. picture: [H, W, 3]."""
    box = slab_box(where, camera)
    if box is None:
        return None
    size, pixels, eye, ways = looked_into(picture, camera, box)
    others = tuple(thing for thing in scene.things if thing.centre() != where.centre())
    behind, points, _ = trace_relief(replace(scene, things=others), eye, ways)
    layers = np.rint((DISTANCE - points[:, 2]) / THICK * LAYERS)  # 0 of the board, and of a slab's foot
    apart, seen = np.zeros((len(SHAPES), len(COLOURS), len(TEXTURES))), 0.0
    for i, shape in enumerate(SHAPES):
        on, u, v = np.full(len(ways), -1), np.zeros(len(ways)), np.zeros(len(ways))
        for layer in range(LAYERS + 1):
            here = local(where, at_depth(eye, ways, DISTANCE - THICK * layer / LAYERS))
            met = inside(shape, *here) & (np.maximum(*np.abs(here)) <= 1)
            on[met], u[met], v[met] = layer, here[0][met], here[1][met]
        rows = np.flatnonzero((on >= 0) & (on >= layers))
        seen = max(seen, len(rows) / SUPER**2)
        rim = np.where(on[rows] == LAYERS, 1.0, RIM)[:, None]
        for k, texture in enumerate(TEXTURES):
            dark, light = (share[:, None] for share in shares(texture, u[rows], v[rows]))
            fixed, tinted = behind.copy(), np.zeros(behind.shape)
            fixed[rows] = rim * LIGHT * light
            tinted[rows] = rim * (1 - (1 - DARK) * dark) * (1 - light)
            drawn, tint = pooled(fixed, size), pooled(tinted, size)
            for j, colour in enumerate(COLOURS):
                apart[i, j, k] = distance(drawn + tint * np.array(RGB[colour]), pixels)
    return nearest([*apart.ravel(), distance(pooled(behind, size), pixels)], LOOKS, seen)


def slab_box(thing: Thing, camera: Camera) -> tuple[int, int, int, int] | None:
    """The box of a thing's place in a view, whatever its shape: (x0, y0, x1, y1) in pixels, x1 and y1
    exclusive; None outside the picture."""
    x, y = (at - LATTICE / 2 for at in thing.centre())
    reach = thing.radius * ROOM
    corners = product((x - reach, x + reach), (y - reach, y + reach), (DISTANCE - THICK, DISTANCE))
    pixels, _ = camera.project(torch.tensor(list(corners), dtype=torch.float64))
    low, high = np.floor(pixels.amin(0).numpy()), np.ceil(pixels.amax(0).numpy())
    x0, y0 = (max(0, int(at)) for at in low)
    x1, y1 = (min(most, int(at)) for at, most in zip(high, (camera.width, camera.height), strict=True))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
