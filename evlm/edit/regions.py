"""Places that lie apart: each gets a crop of its own, so that none is painted as a speck of a large one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import bounding_box
from .crop import NATIVE_SCALES, CropBox, crop_around

MOST_CROPS = 4
"""A crop costs as much as a whole edit of its own."""
_MOST_PIECES = 256  # of a mask; one in more pieces is a texture, not several places

Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
    """inside: bool [H, W], where the mask of some frame is on. box: the crop around it."""

    inside: Tensor
    box: CropBox


def places(on: Tensor, context: float, best_resolution: int, multiple: int) -> list[Place]:
    """The places of a mask, bool [F, H, W], that are painted each in its own crop; all frames share them.

    One crop is enough where it shows everything at a size that the model paints well. Else each connected
    piece gets one; pieces whose crops overlap, or that one crop holds in less of the frame, share it, and
    there are at most `MOST_CROPS`. Arguments as `crop_around`'s. Empty for an empty mask.
    """
    union = on.any(0)
    corners = bounding_box(union)
    if corners is None:
        return []
    height, width = union.shape

    def crop(around: Corners) -> CropBox:
        return crop_around(around, height, width, context, best_resolution, multiple)

    whole = crop(corners)
    if _scale(whole) >= NATIVE_SCALES[0]:
        return [Place(union, whole)]
    labels, pieces = _pieces(union)
    if not 1 < len(pieces) <= _MOST_PIECES:
        return [Place(union, whole)]
    groups = [([number], each, crop(each)) for number, each in enumerate(pieces, 1)]
    while len(groups) > 1:
        pairs = [(a, b) for b in range(len(groups)) for a in range(b)]
        both = {(a, b): crop(_around(groups[a][1], groups[b][1])) for a, b in pairs}
        growth = {(a, b): _area(both[a, b]) - _area(groups[a][2]) - _area(groups[b][2]) for a, b in pairs}
        a, b = next(
            (pair for pair in pairs if _overlap(groups[pair[0]][2], groups[pair[1]][2])),
            min(pairs, key=lambda pair: growth[pair]),
        )
        shared = _overlap(groups[a][2], groups[b][2]) or growth[a, b] <= 0
        if not shared and len(groups) <= MOST_CROPS:
            break
        merged = (groups[a][0] + groups[b][0], _around(groups[a][1], groups[b][1]), both[a, b])
        groups = [group for at, group in enumerate(groups) if at not in (a, b)] + [merged]
    found = [Place(torch.isin(labels, torch.tensor(numbers)), box) for numbers, _, box in groups]
    return sorted(found, key=lambda place: (place.box.y0, place.box.x0))


def _pieces(union: Tensor) -> tuple[Tensor, list[Corners]]:
    """(int [H, W], the number of each pixel's connected piece, 0 outside; the corners of each)."""
    from scipy import ndimage

    labels, _ = ndimage.label(union.numpy(), structure=[[1, 1, 1]] * 3)
    corners = [(c.start, r.start, c.stop, r.stop) for r, c in ndimage.find_objects(labels)]
    return torch.from_numpy(labels), corners


def _scale(box: CropBox) -> float:
    """Of the crop as the model sees it, against the frame."""
    return min(box.height / (box.y1 - box.y0), box.width / (box.x1 - box.x0))


def _around(a: Corners, b: Corners) -> Corners:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _area(box: CropBox) -> int:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _overlap(a: CropBox, b: CropBox) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
