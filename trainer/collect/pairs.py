"""Before and after: whether a pair shows one edit of one picture, and where it was edited."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evlm.files.pictures import load_picture

Pixels = NDArray[np.float32]
SAME = 2 / 255  # mean difference up to which nothing was edited, where no part differs
AGREES = 0.3  # of the edges' correlation: below, it is another picture
MOST = 0.7  # of the pixels: more is no local edit
_SIDE = 64  # at which edges are compared
_BLUR = 3.0  # pixels, of a picture of 512; what JPEG and a resampling leave is finer
_LEAST = 8.0  # of the difference in Lab (where lightness goes to 100), scaled to 255: below is noise
_COLOUR = 0.5  # weight of a and b beside lightness, where an edge is sought: JPEG halves their resolution
_CLOSE = 0.03  # of the shorter side: stripes of a new texture are one part
_ROUNDING = 1.5 / 255
_PART = 0.001  # of the picture: smaller parts are noise


class Pair(NamedTuple):
    """differs: mean difference, 0..1. agrees: correlation of the edges, -1..1. changed: share of pixels."""

    differs: float
    agrees: float
    changed: float


def compared(original: Path, edited: Path) -> dict[str, Any]:
    """A `Pair` as JSON, and `packed` where it differs. Raises PictureError."""
    before, after = _both(original, edited)
    differs = float(np.abs(before - after).mean())
    where = changed_where(before, after)
    pair = Pair(differs, _agreement(before, after), float(where.mean()))
    return {**{name: round(value, 4) for name, value in pair._asdict().items()}, "where": packed(where)}


def packed(on: NDArray[np.bool_]) -> str:
    """A mask [H, W] as text, of one part a few hundred characters."""
    data = base64.b64encode(zlib.compress(np.packbits(on).tobytes())).decode()
    return f"{on.shape[0]} {on.shape[1]} {data}"


def unpacked(text: str) -> NDArray[np.bool_]:
    height, width, data = text.split(" ")
    shape = int(height), int(width)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def pair_problem(pair: dict[str, Any]) -> str:
    """Why it is no pair, "" where it is one."""
    if pair["differs"] <= SAME and not pair["changed"]:  # a small thing's new colour is a small mean
        return (
            f"before and after differ by {pair['differs']:.4f} on average, and nowhere by enough to be seen"
        )
    if pair["agrees"] <= AGREES:
        return f"the edges of before and after agree by {pair['agrees']:.2f}, not more than {AGREES}"
    return ""


def difference(original: Path, edited: Path) -> NDArray[np.bool_]:
    """Where a pair differs, [H, W] of the original. Raises PictureError."""
    return changed_where(*_both(original, edited))


def touched(original: Path, edited: Path) -> NDArray[np.bool_]:
    """Where a pair is not the same to the eye of a computer, [H, W]: by more than a rounding in any channel.
    Raises PictureError."""
    before, after = _both(original, edited)
    return np.asarray(np.abs(before - after).max(-1) > _ROUNDING, bool)


def changed_where(before: Pixels, after: Pixels) -> NDArray[np.bool_]:
    """Where two pictures [H, W, 3] in 0..1 differ: by their distance in Lab, blurred, above Otsu's threshold,
    opened; small parts left out."""
    from scipy import ndimage

    height, width = before.shape[:2]
    blur = _BLUR * min(height, width) / 512
    apart = (lab(before) - lab(after)) * np.float32(2.55)
    far = ndimage.gaussian_filter(np.sqrt(_total(apart**2)), blur)
    if far.max() < _LEAST:
        return np.zeros((height, width), bool)
    apart[..., 1:] *= _COLOUR
    form = ndimage.gaussian_filter(np.sqrt(_total(apart**2)), blur)
    on = (far > _LEAST) & (form > min(_otsu(form), 0.5 * float(form.max())))
    side = min(height, width)
    if opened := round(side / 256):  # a small picture has no specks to spare
        on = ndimage.binary_opening(on, iterations=opened)
    close = max(1, round(_CLOSE * side))
    padded = np.pad(on, close)  # or the edge of the picture would eat into what touches it
    on = ndimage.binary_closing(padded, iterations=close)[close:-close, close:-close]
    parts, count = ndimage.label(on)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    kept = sizes >= max(2, _PART * height * width)
    kept[0] = False
    return np.asarray(kept[parts], bool)


def lab(pixels: Pixels) -> Pixels:
    """CIE L*a*b* (D65) of sRGB in 0..1."""
    linear = _LINEAR[np.rint(pixels * 255).astype(np.uint8)]  # pictures have no more steps than these
    xyz = linear @ _TO_WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                 [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
_TO_WHITE = (_XYZ / _XYZ.sum(1, keepdims=True)).T.astype(np.float32)
_STEPS = np.arange(256) / 255
_LINEAR = np.where(_STEPS <= 0.04045, _STEPS / 12.92, ((_STEPS + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _both(original: Path, edited: Path) -> tuple[Pixels, Pixels]:
    """Both at the original's size."""
    import torch

    before, after = load_picture(original)[0], load_picture(edited)[0]
    if after.shape != before.shape:
        height, width = before.shape[:2]
        resized = torch.nn.functional.interpolate(
            after.permute(2, 0, 1)[None], (height, width), mode="bicubic", antialias=True
        )
        after = resized[0].permute(1, 2, 0).clamp(0, 1)
    return before.numpy(), after.numpy()


def _agreement(before: Pixels, after: Pixels) -> float:
    """Correlation of the edges at a small size; 1 where neither has any."""
    first, second = (_edges(each) for each in (before, after))
    first, second = first - first.mean(), second - second.mean()
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if size < 1e-6:
        return 1.0 if float(np.abs(first).max() + np.abs(second).max()) < 1e-3 else 0.0
    return float((first * second).sum() / size)


def _total(pixels: Pixels) -> Pixels:
    """Of the three channels: numpy's own sum takes three times as long over so short an axis."""
    return pixels[..., 0] + pixels[..., 1] + pixels[..., 2]


def _edges(pixels: Pixels) -> Pixels:
    from PIL import Image

    grey = Image.fromarray((_total(pixels) / 3 * 255).round().astype(np.uint8))
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64) / 255
    down, right = np.gradient(small)
    return np.hypot(down, right)


def _otsu(values: Pixels) -> float:
    """The threshold that parts values best into two (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    low, sums = np.cumsum(counts), np.cumsum(counts * middles)
    high = low[-1] - low
    with np.errstate(divide="ignore", invalid="ignore"):
        between = low * high * (sums / low - (sums[-1] - sums) / high) ** 2
    return float(middles[int(np.nanargmax(np.where(np.isfinite(between), between, 0)))])
