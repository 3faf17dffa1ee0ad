"""Depth maps from files: near is bright, whatever the file counts in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError
from .samples import Samples, view

if TYPE_CHECKING:
    import numpy as np

_SPAN = 0.01  # a drawn map of 16 bits or floats comes this near to both ends of its range


def load_depth(path: str | os.PathLike[str]) -> tuple[Tensor, tuple[str, ...]]:
    """(a depth map [1, H, W, 3] in 0..1 in which near is bright, what was done to it in words).

    A picture of 8 bits, and one of 16 bits or of floats that spans its whole range (0..65535, 0..1), is a
    drawn map and is taken as it is. Other maps of one channel are distances (in millimetres, metres, ...):
    linear from the nearest, which is 1, to the farthest, which is 0. 0, a negative number, NaN and infinity
    are no readings there; such a pixel gets the depth of the nearest one that has a reading.

    Raises PictureError: as `load_still`, and for a map without any reading.
    """
    from .pictures import opened_file
    from .still import read_samples

    with opened_file(path) as file:
        samples, _ = read_samples(file)
        numbers = _numbers(samples)
        if numbers is None or _is_drawn(numbers, samples.full):
            notes: list[str] = []
            return view(samples, None, notes), tuple(notes)
        return _of_distances(numbers)


def _numbers(samples: Samples) -> np.ndarray | None:
    """[H, W] float64 of one deep channel (or of three equal ones), NaN where it is transparent; None of 8
    bits and of colours."""
    import numpy as np

    colours = samples.colours()
    grey = samples.colour == "L" or (
        samples.colour == "RGB" and bool((colours == colours[..., :1])[~np.isnan(colours)].all())
    )
    if samples.values.dtype == np.uint8 or not grey:
        return None
    numbers = colours[..., 0].astype(np.float64)
    opacity = samples.opacity()
    if opacity is not None:
        numbers[opacity == 0] = np.nan
    return numbers


def _is_drawn(numbers: np.ndarray, full: int) -> bool:
    import numpy as np

    if not np.isfinite(numbers).all():
        return False
    low, high = numbers.min() / full, numbers.max() / full
    return bool(0 <= low <= _SPAN and 1 - _SPAN <= high <= 1)


def _of_distances(numbers: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    holes = ~np.isfinite(numbers) | (numbers <= 0)
    if holes.all():
        raise PictureError("a depth map without any reading: all pixels are 0, negative, NaN or infinite")
    near, far = numbers[~holes].min(), numbers[~holes].max()
    notes = [f"depth: distances of {near:g} to {far:g}, drawn from bright to dark"]
    if holes.any():
        rows, columns = distance_transform_edt(holes, return_distances=False, return_indices=True)
        numbers = numbers[rows, columns]
        notes.append(f"depth: {holes.mean():.1%} of the pixels have no reading and take their neighbour's")
    drawn = (far - numbers) / (far - near) if far > near else np.full_like(numbers, 0.5)
    return torch.from_numpy(drawn.astype(np.float32))[None, :, :, None].repeat(1, 1, 1, 3), tuple(notes)
