"""Paint set into its surroundings without a shade at the seam: seamless cloning (Perez, Gangnet and Blake
2003, "Poisson image editing"; as a membrane: Farbman et al. 2009, "Coordinates for instant image cloning").

An editor's pixels are a little off everywhere, as its VAE is: outside the mask the original is put back,
inside it what is off would stay and show as a patch. So the difference at the mask's rim is continued into
the mask harmonically, and added to the paint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

GRID = 64
"""Cells along the shorter side at most: what is off is a shade, not detail, and the grid smooths it."""
MOST = 0.1
"""Of 0..1. Where the surroundings differ by more in any colour, they were painted anew: that says nothing of
a shade."""
SOFT = 1.5  # cells; sigma of the Gaussian over which the rim's differences are averaged


def seamless(paint: Tensor, original: Tensor, inside: Tensor) -> Tensor:
    """The paint with the shade of its surroundings.

    Args:
        paint: [A, h, w, 3] in 0..1, what an editor made of `original`, [A, h, w, 3] in 0..1.
        inside: [A, h, w] bool, the masks.

    Returns:
        [A, h, w, 3] in 0..1, the paint plus a smooth difference of at most `MOST`; a picture as it is where
        no pixel outside its mask tells a shade.
    """
    return torch.stack([_one(*each) for each in zip(paint, original, inside, strict=True)])


def _one(paint: Tensor, original: Tensor, inside: Tensor) -> Tensor:
    told = ~inside & ((original - paint).abs().amax(-1) <= MOST)
    if not bool(told.any()) or not bool(inside.any()):
        return paint
    height, width = inside.shape
    scale = min(1.0, GRID / min(height, width))
    rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
    off = (original - paint).movedim(-1, 0) * told
    weighed = F.adaptive_avg_pool2d(torch.cat([off, told[None].float()]), (rows, columns))
    within = F.adaptive_max_pool2d(inside[None].float(), (rows, columns))[0] > 0
    shade = membrane(*_softened(weighed[:3], weighed[3]), within)
    smooth = F.interpolate(shade[None], (height, width), mode="bilinear", align_corners=False)[0]
    return (paint + smooth.movedim(0, -1)).clamp(0, 1)


def _softened(off: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(mean difference [3, h, w] about each cell, whether the cell itself tells one [h, w]) of differences
    times weight, and weight."""
    reach = round(3 * SOFT)
    bell = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * SOFT**2))
    kernel = (bell[:, None] * bell)[None, None] / bell.sum() ** 2
    sums = F.conv2d(torch.cat([off, weight[None]])[:, None], kernel, padding=reach)[:, 0]
    return sums[:3] / sums[3].clamp(min=1e-6), weight > 0


def membrane(values: Tensor, known: Tensor, inside: Tensor) -> Tensor:
    """Values [C, h, w] where known ([h, w] bool) and not inside ([h, w] bool), elsewhere harmonic: each is
    the mean of its neighbours in the picture. Zeros where nothing is known."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    fixed = (known & ~inside).numpy()
    result = torch.where(torch.from_numpy(fixed), values, 0.0)
    unknown = np.flatnonzero(~fixed)
    if not len(unknown) or not fixed.any():
        return result
    height, width = fixed.shape
    number = np.full(height * width, -1)
    number[unknown] = np.arange(len(unknown))
    pairs = _neighbours(height, width)
    a, b = np.concatenate([pairs, pairs[::-1]], 1)
    a, b = a[number[a] >= 0], b[number[a] >= 0]
    degree = np.bincount(number[a], minlength=len(unknown))
    loose = number[b] >= 0
    matrix = coo_array(
        (
            np.concatenate([degree, np.full(loose.sum(), -1.0)]),
            (
                np.concatenate([np.arange(len(unknown)), number[a[loose]]]),
                np.concatenate([np.arange(len(unknown)), number[b[loose]]]),
            ),
        ),
        shape=(len(unknown), len(unknown)),
    ).tocsc()
    flat = result.flatten(1).numpy().astype(np.float64)
    right = np.zeros((len(unknown), len(flat)))
    np.add.at(right, number[a[~loose]], flat[:, b[~loose]].T)
    flat[:, unknown] = splu(matrix).solve(right).T
    return torch.from_numpy(flat.reshape(result.shape)).to(values.dtype)


def _neighbours(height: int, width: int) -> NDArray[np.int64]:
    """[2, n]: the pairs of cells side by side and one above the other, by their numbers."""
    cells = np.arange(height * width).reshape(height, width)
    beside = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()])
    below = np.stack([cells[:-1].ravel(), cells[1:].ravel()])
    return np.concatenate([beside, below], 1)
