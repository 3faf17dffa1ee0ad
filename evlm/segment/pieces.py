"""What a tracker's mask holds besides the thing: specks, and pieces of others far from where it was."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..boxes import bounding_box
from .tracks import Tracks

SPECK = 0.1  # share of the largest piece, below which one is none of the thing
SEVERAL = 0.5  # from which on one is: a thing may be hidden in its middle
REACH = 0.25  # of its sides, as far as a thing may have gone from one frame to the next


def of_one_thing(mask: Tensor, last: Tensor | None) -> Tensor:
    """Bool [H, W] without pieces that are none of the thing: those that are small beside the largest one, and
    those smaller than half of it that lie, for the most part, away from where the thing was. What was shown
    in several pieces keeps them: one that overlaps the thing as it was stays. Pieces touch at sides and
    corners.

    last: bool [H, W], the thing in the frame before, or None where it was not seen.
    """
    from scipy.ndimage import label

    pieces, count = label(mask.numpy(), np.ones((3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    kept = sizes >= SPECK * sizes.max()
    corners = None if last is None else bounding_box(last)
    if last is not None and corners is not None:
        x0, y0, x1, y1 = corners
        wide, high = int(REACH * (x1 - x0)) + 1, int(REACH * (y1 - y0)) + 1
        here = pieces[max(0, y0 - high) : y1 + high, max(0, x0 - wide) : x1 + wide]
        near = np.bincount(here.ravel(), minlength=count + 1)[1:]
        kept &= (near > 0.5 * sizes) | (sizes >= SEVERAL * sizes.max())
        kept |= np.bincount(pieces[last.numpy()], minlength=count + 1)[1:] > 0
    return torch.from_numpy(np.concatenate([[False], kept])[pieces])


def seen_last(tracks: Tracks, number: int, frame: int, until: int) -> Tensor | None:
    """Bool [H, W]: an object in the frame nearest to `frame` in which it has a mask, as far as `until`; None
    where there is none."""
    step = 1 if until > frame else -1
    there = (at for at in range(frame + step, until + step, step) if tracks.there(number, at))
    nearest = next(there, None)
    return None if nearest is None else tracks.mask(number, nearest)
