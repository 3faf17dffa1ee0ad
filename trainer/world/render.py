"""Scenes to pixels: numpy, 4 x 4 supersampling, the same bytes on every machine.

Coverage is a count of sixteenths and every colour passes through uint8 once at the end, so that no last-digit
difference between machines survives.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .scene import LATTICE, SHAPES, STYLES, TEXTURES, WEATHERS, Scene, Thing

Array = NDArray[np.float64]
SUPER = 4
REACH = 1.35  # a turned shape reaches beyond its radius: the triangle's feet by so much
MARGIN = 1  # units of room left around a thing when its whole place is edited

RGB = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.10, 0.72, 0.20),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.50, 0.12, 0.65),
    "orange": (0.95, 0.50, 0.08),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (0.98, 0.55, 0.75),
}
GROUND_RGB = {
    "grey": (0.55, 0.55, 0.55),
    "sand": (0.80, 0.72, 0.52),
    "grass": (0.30, 0.42, 0.22),
    "sea": (0.22, 0.36, 0.50),
}
DARK, LIGHT = 0.35, 0.97  # a stripe's share of its colour; the white of a check

_GLYPHS = {  # 3 x 5 pixels a letter, rows as bits
    "a": "25755",
    "b": "65656",
    "c": "34443",
    "d": "65556",
    "e": "74647",
    "f": "74644",
    "g": "34553",
    "h": "55755",
    "i": "72227",
    "k": "55655",
    "l": "44447",
    "m": "57755",
    "n": "65555",
    "o": "25552",
    "p": "65644",
    "r": "65655",
    "s": "34216",
    "t": "72222",
    "u": "55557",
    "v": "55552",
    "w": "55775",
    "y": "55222",
}


def render(scene: Scene, size: int = 64, frame: int = 0) -> NDArray[np.uint8]:
    """One frame of a scene. Returns uint8 [size, size, 3]."""
    canvas = ground(scene.ground, size).copy()
    if scene.sign:
        canvas = _draw_sign(canvas, scene.sign, scene.sign_large)
    for thing in scene.things:
        _draw_thing(canvas, thing, size, frame)
    return to_bytes(restyle(under_weather(canvas, scene.weather), scene.style))


def render_frames(scene: Scene, size: int = 64, frames: int = 1) -> NDArray[np.uint8]:
    """Frames of a scene whose things drift. Returns uint8 [frames, size, size, 3]."""
    return np.stack([render(scene, size, f) for f in range(frames)])


def silhouette(thing: Thing, size: int = 64, frame: int = 0) -> NDArray[np.bool_]:
    """Where a thing covers at least half of a pixel. Returns bool [size, size]."""
    return thing_alpha(thing, size, frame) >= 0.5


def place_box(thing: Thing, size: int = 64, frame: int = 0) -> tuple[int, int, int, int]:
    """The thing's place with room around it, whatever its shape: (x0, y0, x1, y1) in pixels, x1 and y1
    exclusive."""
    x, y = thing.centre(frame)
    r, scale = thing.radius + MARGIN, size / LATTICE
    low = [int(np.floor(max(0.0, v - r) * scale + 1e-9)) for v in (x, y)]
    high = [int(np.ceil(min(float(LATTICE), v + r) * scale - 1e-9)) for v in (x, y)]
    return low[0], low[1], high[0], high[1]


def optical_flow(scene: Scene, size: int = 64, frame: int = 0) -> NDArray[np.float32]:
    """Analytic forward flow from `frame` to the next: float32 [size, size, 2] as (dx, dy) in pixels; the
    ground is still."""
    flow = np.zeros((size, size, 2), np.float32)
    for thing in scene.things:
        flow[silhouette(thing, size, frame)] = np.array([thing.vx, thing.vy]) * size / LATTICE
    return flow


def to_bytes(canvas: Array) -> NDArray[np.uint8]:
    return np.floor(np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=64)
def ground(name: str, size: int) -> Array:
    """The bare ground, a little lighter at the top: [size, size, 3]."""
    slope = np.linspace(0.05, -0.05, size)[:, None, None]
    return np.array(GROUND_RGB[name])[None, None] + slope + np.zeros((size, size, 3))


def inside(shape: str, u: Array, v: Array) -> NDArray[np.bool_]:
    """Which points of the square [-1, 1]^2 (v down) a shape holds."""
    r2 = u * u + v * v
    if shape == "circle":
        return r2 <= 1
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.86
    if shape == "triangle":
        return (v <= 0.85) & (abs(u) <= 0.55 * (v + 1))
    if shape == "diamond":
        return abs(u) + abs(v) <= 1
    if shape == "cross":
        return ((abs(u) <= 0.34) & (abs(v) <= 1)) | ((abs(v) <= 0.34) & (abs(u) <= 1))
    if shape == "ring":
        return (r2 <= 1) & (r2 >= 0.25)
    if shape == "heart":
        x, y = u * 1.15, 0.1 - v * 1.15
        return (x * x + y * y - 1) ** 3 <= x * x * y**3
    if shape == "star":
        return _in_star(u, v)
    raise ValueError(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}")


# a five-pointed star, outer radius 1, inner .46, to six digits so that every machine has the same
_STAR = (
    (0.0, -1.0),
    (0.270382, -0.372148),
    (0.951057, -0.309017),
    (0.437486, 0.142148),
    (0.587785, 0.809017),
    (0.0, 0.46),
    (-0.587785, 0.809017),
    (-0.437486, 0.142148),
    (-0.951057, -0.309017),
    (-0.270382, -0.372148),
)


def _in_star(u: Array, v: Array) -> NDArray[np.bool_]:
    hit = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(_STAR, (*_STAR[1:], _STAR[0]), strict=True):  # even-odd rule
        hit ^= ((y0 > v) != (y1 > v)) & (u < (x1 - x0) * (v - y0) / (y1 - y0 + 1e-12) + x0)
    return hit


@lru_cache(maxsize=16)
def _sample_points(size: int) -> tuple[Array, Array]:
    at = (np.arange(size * SUPER) + 0.5) / SUPER * (LATTICE / size)
    return at[None, :], at[:, None]


def _pool(samples: Array) -> Array:
    h, w = samples.shape[0] // SUPER, samples.shape[1] // SUPER
    return samples.reshape(h, SUPER, w, SUPER).mean((1, 3))


@lru_cache(maxsize=4096)
def stamp(
    shape: str, texture: str, radius: float, fx: float, fy: float, scale: float, angle: float = 0.0
) -> tuple[Array, Array, Array]:
    """A thing's (coverage, share of dark paint, share of white paint), each [n, n], around a centre that lies
    (fx, fy) pixels into the patch's middle pixel. Coverage counts sixteenths. angle: by which shape and
    pattern are turned, clockwise, in radians."""
    half = _half(radius * scale, angle)
    at = (np.arange((2 * half + 1) * SUPER) + 0.5) / SUPER - half
    u, v = np.broadcast_arrays((at[None, :] - fx) / (radius * scale), (at[:, None] - fy) / (radius * scale))
    if angle:
        cos, sin = round(math.cos(angle), 6), round(math.sin(angle), 6)  # six digits: alike on every machine
        u, v = cos * u + sin * v, cos * v - sin * u
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
    return _pool(inside(shape, u, v).astype(float)), _pool(dark), _pool(light)


def place(
    thing: Thing, size: int, frame: int = 0
) -> tuple[tuple[float, float], tuple[slice, slice], tuple[slice, slice]]:
    """Where a thing's stamp lies: (fraction of a pixel, slices of the picture, slices of the stamp), rows
    first."""
    return place_at(*thing.centre(frame), thing.radius, size)


def place_at(
    x: float, y: float, radius: float, size: int, angle: float = 0.0
) -> tuple[tuple[float, float], tuple[slice, slice], tuple[slice, slice]]:
    """`place` of a stamp of this radius and angle at a centre, all in lattice units."""
    scale = size / LATTICE
    x, y = x * scale, y * scale
    ix, iy = int(np.floor(x)), int(np.floor(y))
    half = _half(radius * scale, angle)
    low = [min(size, max(0, c - half)) for c in (iy, ix)]
    high = [min(size, c + half + 1) for c in (iy, ix)]
    cut = tuple(
        slice(lo - c + half, max(lo, hi) - c + half) for lo, hi, c in zip(low, high, (iy, ix), strict=True)
    )
    into = tuple(slice(lo, max(lo, hi)) for lo, hi in zip(low, high, strict=True))
    return (round(x - ix, 6), round(y - iy, 6)), into, cut  # type: ignore[return-value]


def _half(radius: float, angle: float) -> int:
    """Pixels from a stamp's middle to its edge."""
    return int(np.ceil(radius * (REACH if angle else 1))) + 1


def paint_of(colour: str, dark: Array, light: Array) -> Array:
    """Paint [..., 3] of a colour under a texture's shares of dark and white."""
    paint = np.array(RGB[colour]) * (1 - (1 - DARK) * dark)[..., None]
    return paint * (1 - light)[..., None] + LIGHT * light[..., None]


def thing_alpha(thing: Thing, size: int, frame: int = 0) -> Array:
    """Coverage of the whole picture, [size, size] in 0..1."""
    (fx, fy), into, cut = place(thing, size, frame)
    alpha = np.zeros((size, size))
    alpha[into] = stamp(thing.shape, thing.texture, thing.radius, fx, fy, size / LATTICE)[0][cut]
    return alpha


def painted_at(
    thing: Thing, x: float, y: float, radius: float, size: int, angle: float = 0.0
) -> tuple[tuple[slice, slice], Array, Array]:
    """A thing drawn at a centre, with a radius and an angle of its own: (slices of the picture, rows first;
    coverage [h, w, 1]; paint [h, w, 3])."""
    (fx, fy), into, cut = place_at(x, y, radius, size, angle)
    stamped = stamp(thing.shape, thing.texture, radius, fx, fy, size / LATTICE, angle)
    alpha, dark, light = (part[cut] for part in stamped)
    return into, alpha[..., None], paint_of(thing.colour, dark, light)


def _draw_thing(canvas: Array, thing: Thing, size: int, frame: int) -> None:
    into, alpha, paint = painted_at(thing, *thing.centre(frame), thing.radius, size)
    canvas[into] = canvas[into] * (1 - alpha) + paint * alpha


@lru_cache(maxsize=16)
def _flakes(size: int) -> Array:
    px, py = _sample_points(size)
    hit = np.zeros((size * SUPER, size * SUPER), bool)
    for k in range(40):  # a low-discrepancy sprinkle: the same everywhere
        x, y = (k * 0.754877) % 1 * LATTICE, (k * 0.569840) % 1 * LATTICE
        hit |= (px - x) ** 2 + (py - y) ** 2 <= 1.1
    return _pool(hit.astype(float))


@lru_cache(maxsize=16)
def _streaks(size: int) -> Array:
    px, py = _sample_points(size)
    lane, along = np.broadcast_arrays(px + 0.35 * py, py)
    index = np.floor(lane / 5.0)
    hit = (lane % 5.0 < 1.2) & ((along + index * 7.0) % 13.0 < 7.0)
    return _pool(hit.astype(float))


def under_weather(canvas: Array, weather: str) -> Array:
    """Weather over a picture [..., S, S, 3]: pointwise, with a fixed pattern for rain and snow."""
    size = canvas.shape[-2]
    if weather == "clear":
        return canvas
    if weather == "night":
        return canvas * np.array([0.38, 0.40, 0.60])
    if weather == "fog":
        return canvas * 0.55 + np.array([0.82, 0.84, 0.86]) * 0.45
    if weather == "rain":
        a = 0.6 * _streaks(size)[..., None]
        return canvas * 0.88 * (1 - a) + np.array([0.70, 0.80, 0.98]) * a
    if weather == "snow":
        a = 0.95 * _flakes(size)[..., None]
        return (canvas * 0.85 + 0.12) * (1 - a) + a
    raise ValueError(f"unknown weather {weather!r}; one of {', '.join(WEATHERS)}")


def restyle(canvas: Array, style: str) -> Array:
    """A whole-picture style, computed from the picture [S, S, 3] alone."""
    if style == "plain":
        return canvas
    canvas = np.clip(canvas, 0, 1)
    if style == "negative":
        return 1 - canvas
    grey = (canvas @ np.array([0.30, 0.59, 0.11]))[..., None]
    if style == "black and white":
        return np.repeat(grey, 3, -1)
    if style == "sepia":
        return np.clip(grey * np.array([1.10, 0.90, 0.65]), 0, 1)
    if style == "sketch":
        return np.repeat(np.clip(0.96 - 1.8 * _edges(canvas), 0, 1)[..., None], 3, -1)
    raise ValueError(f"unknown style {style!r}; one of {', '.join(STYLES)}")


def _edges(canvas: Array) -> Array:
    """How much a pixel differs from its right and lower neighbours, the largest channel."""
    right = abs(np.diff(canvas, axis=1, append=canvas[:, -1:]))
    down = abs(np.diff(canvas, axis=0, append=canvas[-1:]))
    return np.maximum(right, down).max(-1)


def _draw_sign(canvas: Array, word: str, large: bool) -> Array:
    """A white plate with the word in black: across the bottom left, or large in the middle of the picture."""
    size = canvas.shape[0]
    pixel = 2 if large else 1
    width, height = (4 * len(word) + 1) * pixel, 7 * pixel
    left, top = ((LATTICE - width) // 2, (LATTICE - height) // 2) if large else (4, 50)
    plate = np.zeros((LATTICE, LATTICE)), np.zeros((LATTICE, LATTICE))
    plate[0][top : top + height, left : left + width] = 1
    for k, letter in enumerate(word):
        if letter not in _GLYPHS:
            raise ValueError(f"a sign cannot say {word!r}: no glyph for {letter!r}")
        for row, bits in enumerate(_GLYPHS[letter]):
            for col in range(3):
                if int(bits) >> (2 - col) & 1:
                    y, x = top + (1 + row) * pixel, left + (1 + 4 * k + col) * pixel
                    plate[1][y : y + pixel, x : x + pixel] = 1
    board, ink = (_resample(p, size)[..., None] for p in plate)
    canvas = canvas * (1 - board) + 0.95 * board
    return canvas * (1 - ink) + 0.05 * ink


def _resample(lattice: Array, size: int) -> Array:
    at = ((np.arange(size * SUPER) + 0.5) / SUPER * (LATTICE / size)).astype(int)
    return _pool(lattice[np.ix_(at, at)])
