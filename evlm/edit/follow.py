"""The crop that goes with a mask through a clip: one size for all frames, and a place for each.

A box that holds the masks of all frames would show a thing that crosses the picture as a speck. One that goes
along shows it as large as in a single picture, and the noise, which is the same in every crop, stays with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..boxes import bounding_box
from .crop import CropBox, crop_around

SMOOTH = 2.0
"""Standard deviation, in frames, of the Gaussian over the centres: a mask that trembles shakes no crop."""

Corners = tuple[int, int, int, int]
Track = Sequence["Corners | None"]


def track_of(on: Tensor) -> list[Corners | None]:
    """The box around what is on in each frame, bool [F, H, W]; None where nothing is."""
    return [bounding_box(frame) for frame in on]


def follow(
    track: Track,
    frame_height: int,
    frame_width: int,
    context: float = 1.2,
    best_resolution: int = 512,
    multiple: int = 64,
    cell: int = 1,
) -> list[CropBox]:
    """The crop of each frame in which the track has a box, all of one size and each around its box.

    The size is that of `crop_around` for the largest box. The centres are the boxes', smoothed over time, and
    they move in whole latent cells, so that what stands still lies on the same cells in every crop. Where
    nothing moves, every crop is `crop_around`'s.

    cell: pixels of the crop as the model sees it that are one latent cell. The rest as for `crop_around`.
    """
    known = [corners for corners in track if corners is not None]
    if not known:
        return []
    wide = max(x1 - x0 for x0, _, x1, _ in known)
    high = max(y1 - y0 for _, y0, _, y1 in known)
    size = crop_around((0, 0, wide, high), frame_height, frame_width, context, best_resolution, multiple)
    width, height = size.x1 - size.x0, size.y1 - size.y0
    crops: list[CropBox] = []
    for run in _runs(track, width, height):
        lefts = _starts([(x0, x1) for x0, _, x1, _ in run], width, frame_width, cell * width / size.width)
        tops = _starts([(y0, y1) for _, y0, _, y1 in run], height, frame_height, cell * height / size.height)
        for x, y in zip(lefts, tops, strict=True):
            crops.append(replace(size, x0=x, y0=y, x1=x + width, y1=y + height))
    return crops


def _runs(track: Track, width: int, height: int) -> list[list[Corners]]:
    """The track's boxes, in pieces between which the thing was away or left its crop at once, as at a cut."""
    runs: list[list[Corners]] = []
    last: Corners | None = None
    for corners in track:
        if corners is not None:
            if last is None or _jumps(last, corners, width, height):
                runs.append([])
            runs[-1].append(corners)
        last = corners
    return runs


def _jumps(a: Corners, b: Corners, width: int, height: int) -> bool:
    return abs(a[0] + a[2] - b[0] - b[2]) > 2 * width or abs(a[1] + a[3] - b[1] - b[3]) > 2 * height


def _starts(spans: Sequence[tuple[int, int]], size: int, frame: int, cell: float) -> list[int]:
    """Where spans of `size` pixels begin in 0..frame, each around its own span (start, end)."""
    centres = smooth(torch.tensor([(start + end) / 2 for start, end in spans], dtype=torch.float64))
    first = (spans[0][0] + spans[0][1] - size) // 2
    origin = sum(spans[0]) / 2
    starts = []
    for (start, end), centre in zip(spans, centres.tolist(), strict=True):
        begin = first + round(round((centre - origin) / cell) * cell)
        starts.append(min(max(begin, end - size, 0), start, frame - size))
    return starts


def smooth(values: Tensor, sigma: float = SMOOTH) -> Tensor:
    """Values [F] under a Gaussian over time. Beyond its ends the curve goes on turned about them, so that a
    steady motion stays as it is."""
    reach = min(math.ceil(3 * sigma), len(values) - 1)
    if reach < 1:
        return values
    before = 2 * values[0] - values[1 : reach + 1].flip(0)
    behind = 2 * values[-1] - values[-reach - 1 : -1].flip(0)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=values.dtype) / sigma) ** 2)
    padded = torch.cat([before, values, behind]).unfold(0, 2 * reach + 1, 1)
    return padded @ (weights / weights.sum())
