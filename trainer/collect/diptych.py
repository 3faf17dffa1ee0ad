"""Two pictures side by side in one, as image makers draw a before and after: the seam, and the halves.

halves = split(Image.open("diptych.png"))     # None where it is no diptych
halves.left, halves.right                     # of one size

A seam is looked for in the middle of the picture: columns where most rows jump, flat bands, the middle
itself. Which of them it is, the agreement of the halves decides: before and after have most edges in common.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_REACH = 0.24  # of the columns, around the middle: a seam lies there
_JUMPS = 12  # columns that are looked at for a jump
_STRONG = 90  # percentile of a row's own steps above which it jumps
_FLAT, _ROWS = 14, 0.97  # how near to a column's median so many of its rows are, where it is flat
_SIDE = 64  # at which edges are compared
_FOR_JUMP, _FOR_FLAT = 0.5, 0.3  # beside an agreement of up to 1
_LEAST = 16  # pixels of a half
_AGREES = 0.5  # more than of a pair: poles of one picture agree by less, and stand where a seam may be
_SEEN = 0.4  # share of rows that jump at a seam, where it is no flat band


class Seam(NamedTuple):
    """The columns `start` to `stop` lie between the halves (none, where they touch). jumps: share of the rows
    that jump there; flat: of those that a band is flat in."""

    start: int
    stop: int
    jumps: float = 0.0
    flat: float = 0.0


class Halves(NamedTuple):
    """Of one size: the wider one is cropped where that makes them agree better, at its outer or its inner
    side. agrees: correlation of their edges."""

    left: Image.Image
    right: Image.Image
    seam: Seam
    agrees: float


def split(picture: Image.Image) -> Halves | None:
    """The halves of a diptych; None for any other picture."""
    picture = picture.convert("RGB")
    grey = picture.convert("L")
    best: tuple[float, Halves] | None = None
    for seam in _candidates(np.asarray(grey, np.float32)):
        for left, right in _boxes(picture.size, seam):
            agrees = _correlation(_edges(grey, left), _edges(grey, right))
            score = agrees + _FOR_JUMP * seam.jumps + _FOR_FLAT * seam.flat
            if best is None or score > best[0]:
                best = score, Halves(picture.crop(left), picture.crop(right), seam, agrees)
    if best is None or best[1].agrees < _AGREES:
        return None
    seam = best[1].seam
    return best[1] if seam.flat or seam.jumps >= _SEEN else None


def _candidates(grey: NDArray[np.float32]) -> list[Seam]:
    """All that a seam may be."""
    width = grey.shape[1]
    low, high = round(width * (0.5 - _REACH / 2)), round(width * (0.5 + _REACH / 2))
    low, high = max(low, _LEAST), min(high, width - _LEAST)
    if low >= high:
        return []
    steps = np.abs(np.diff(grey, axis=1))
    jumps = (steps > np.percentile(steps, _STRONG, axis=1, keepdims=True)).mean(0)  # column c to c + 1
    middle = grey[:, low:high]
    flat = (np.abs(middle - np.median(middle, axis=0)) <= _FLAT).mean(0)
    share = lambda column: float(jumps[column - 1])  # noqa: E731
    strongest = low + np.argsort(-jumps[low - 1 : high - 1], kind="stable")[:_JUMPS]
    seams = [Seam(int(column), int(column), share(column)) for column in strongest]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat >= _ROWS, [0]])))
    for start, stop in zip(edges[::2] + low, edges[1::2] + low, strict=True):
        jump = max(share(start), share(min(stop, width - 1)))
        seams.append(Seam(int(start), int(stop), jump, float(flat[start - low : stop - low].mean())))
    seams.append(Seam(width // 2, width // 2, share(width // 2)))
    return seams


_Box = tuple[int, int, int, int]


def _boxes(size: tuple[int, int], seam: Seam) -> list[tuple[_Box, _Box]]:
    """The halves' boxes, the wider one cropped at its outer or at its inner side."""
    width, height = size
    first, second = seam.start, width - seam.stop
    side = min(first, second)
    if side < _LEAST:
        return []
    outer = (first - side, 0, first, height), (seam.stop, 0, seam.stop + side, height)
    if first == second:
        return [outer]
    return [outer, ((0, 0, side, height), (width - side, 0, width, height))]


def _edges(grey: Image.Image, box: _Box) -> NDArray[np.float64]:
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX, box), np.float64)
    down, right = np.gradient(small)
    return np.hypot(down, right)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / size) if size > 1e-6 else 0.0
