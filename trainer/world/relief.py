"""A scene of the flat world made solid: its things are upright slabs before a board that is the ground.

Seen from straight ahead it looks as `render` draws it; seen from aside the slabs show their rims and hide
parts of the board. In its own units, a lattice unit is one, x to the right, y down, and z away from the eye:
the board lies at z = DISTANCE, and the first camera stands in the origin and looks along z, as that of a
scene made from one photograph does.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from evlm.scene import Camera
from evlm.scene.camera import looking_at, pinhole

from .raytrace import SUPER, pool, rays
from .render import DARK, GROUND_RGB, TEXTURES, inside, paint_of, to_bytes
from .scene import LATTICE, Scene, Thing

Array = NDArray[np.float64]
FOV = 30.0  # degrees over the picture's side
DISTANCE = LATTICE / 2 / math.tan(math.radians(FOV) / 2)  # the board just fills the first picture
THICK = 4.0  # of a slab, in lattice units
LAYERS = 8  # in which its rim is met
BOARD = -1  # owner of rays that meet no slab


def cone(views: int, degrees: float = 20.0, size: int = 64, turn: float = 0.0) -> tuple[Camera, ...]:
    """The camera straight before the board, and others around it, at most `degrees` aside. turn: radians by
    which those others stand further around."""
    middle = torch.tensor([0.0, 0.0, DISTANCE], dtype=torch.float64)
    cameras = []
    for number in range(views):
        angle = turn + 2.399963229728653 * number  # the golden angle: even over the disc at any count
        off = math.radians(degrees) * math.sqrt(number / max(1, views - 1))
        way = [math.sin(off) * math.cos(angle), math.sin(off) * math.sin(angle), -math.cos(off)]
        eye = middle + DISTANCE * torch.tensor(way, dtype=torch.float64)
        seen = looking_at(eye, middle, torch.tensor([0.0, -1.0, 0.0]))
        focal = size / 2 / math.tan(math.radians(FOV) / 2)
        cameras.append(Camera(seen, pinhole(focal, size, size), size, size, name=f"{number:02d}.png"))
    return tuple(cameras)


def relief_view(scene: Scene, camera: Camera) -> NDArray[np.uint8]:
    """What a camera sees of it: uint8 [H, W, 3]. Raises ValueError as `trace_relief`."""
    colours = trace_relief(scene, *rays(camera, SUPER))[0]
    shape = camera.height, camera.width
    return to_bytes(np.stack([pool(colours[:, c], *shape) for c in range(3)], -1))


def trace_relief(scene: Scene, eye: Array, ways: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """(colours [R, 3], points [R, 3], owners int [R]: the number of the thing, or BOARD) of what rays [R, 3]
    from one eye [3], before the board, meet first. Raises ValueError: weather, style or a sign, which are of
    pictures."""
    if scene.weather != "clear" or scene.style != "plain" or scene.sign:
        raise ValueError("a relief is of clear, plain scenes without a sign")
    points = at_depth(eye, ways, DISTANCE)
    slope = np.clip(points[:, 1] / LATTICE, -0.5, 0.5) * -0.1
    colours = np.array(GROUND_RGB[scene.ground]) + slope[:, None]
    owners = np.full(len(ways), BOARD)
    for layer in range(LAYERS + 1):  # from the board to the front
        front = layer == LAYERS
        here = at_depth(eye, ways, DISTANCE - THICK * layer / LAYERS)
        for number, thing in enumerate(scene.things):
            u, v = local(thing, here)
            met = inside(thing.shape, u, v) & (np.maximum(abs(u), abs(v)) <= 1)
            paint = paint_of(thing.colour, *shares(thing.texture, u[met], v[met]))
            colours[met] = paint if front else paint * RIM
            points[met], owners[met] = here[met], number
    return colours, points, owners


RIM = (1 + DARK) / 2  # how bright a slab's rim is


def at_depth(eye: Array, ways: Array, z: float) -> Array:
    """[R, 3]: where rays are at that depth."""
    return eye + ((z - eye[2]) / ways[:, 2])[:, None] * ways


def local(thing: Thing, points: Array) -> tuple[Array, Array]:
    """A thing's own coordinates of points, [-1, 1] over it, v down."""
    x, y = thing.centre()
    return (
        (points[:, 0] + LATTICE / 2 - x) / thing.radius,
        (points[:, 1] + LATTICE / 2 - y) / thing.radius,
    )


def shares(texture: str, u: Array, v: Array) -> tuple[Array, Array]:
    """How much of the paint is dark and how much is white, as `render.stamp` has it."""
    dark = light = np.zeros(u.shape)
    if texture == "striped":
        dark = (np.floor((v + 1) * 3.0) % 2 == 1).astype(float)
    elif texture == "dotted":
        a, b = (u * 2.0 + 0.5) % 1 - 0.5, (v * 2.0 + 0.5) % 1 - 0.5
        dark = (a * a + b * b <= 0.075).astype(float)
    elif texture == "checkered":
        light = ((np.floor((u + 1) * 2.0) + np.floor((v + 1) * 2.0)) % 2 == 1).astype(float)
    elif texture != "plain":
        raise ValueError(f"unknown texture {texture!r}; one of {', '.join(TEXTURES)}")
    return dark, light
