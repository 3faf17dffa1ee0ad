"""Mask clean-up with exact semantics: what each function gives for a pixel can be said in one sentence.

A mask is float32 in 0..1 with the shape [F, H, W] (or [H, W]); a pixel is on where the mask is at least 0.5.
Distances are Euclidean, between pixel centres, and beyond the edge of the frame there is nothing: the edge
neither grows nor eats a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import PictureError
from .ranges import clamped

_log = logging.getLogger(__name__)


def fill_holes(mask: Tensor) -> Tensor:
    """The mask with its holes on: off pixels that no path of off pixels (up, down, left, right) joins to the
    frame's edge.

    mask: [F, H, W] or [H, W]. Returns the same shape, float32 of 0 and 1.
    """
    from scipy.ndimage import binary_fill_holes

    return _each_frame(mask, lambda on: binary_fill_holes(on).astype(np.float32))


def grow(mask: Tensor, pixels: float) -> Tensor:
    """The mask grown, or for negative `pixels` shrunk. Returns the same shape, float32 of 0 and 1.

    Growing turns on what lies within `pixels` of an on pixel; shrinking turns off what lies within -`pixels`
    of an off one.
    """
    from scipy.ndimage import distance_transform_edt

    def grown(on: NDArray[np.bool_]) -> NDArray[np.float32]:
        if pixels == 0 or on.all() or not on.any():
            return on.astype(np.float32)
        if pixels > 0:
            return (distance_transform_edt(~on) <= pixels).astype(np.float32)
        return (distance_transform_edt(on) > -pixels).astype(np.float32)

    return _each_frame(mask, grown)


def feather_inward(mask: Tensor, pixels: float) -> Tensor:
    """A soft edge that lies inside the mask: off pixels stay exactly 0, so that nothing outside can change.

    An on pixel at distance d from the nearest off pixel (1 for the outermost ones) gets min(1, d / (pixels +
    1)); `pixels` 0 gives the hard mask. mask: [F, H, W] or [H, W]. Returns the same shape, float32 in 0..1.
    """
    from scipy.ndimage import distance_transform_edt

    if pixels < 0:
        raise PictureError(f"feather of {pixels} pixels: expected 0 or more; it always lies inside the mask")

    def feathered(on: NDArray[np.bool_]) -> NDArray[np.float32]:
        soft = on.astype(np.float32)
        if pixels == 0 or on.all() or not on.any():
            return soft
        rows, columns = (np.flatnonzero(on.any(axis)) for axis in (1, 0))
        # The nearest off pixel of each lies at most one row or column beside all that is on.
        here = tuple(slice(max(each[0] - 1, 0), each[-1] + 2) for each in (rows, columns))
        soft[here] = np.minimum(1, distance_transform_edt(on[here]) / (pixels + 1))
        return soft

    return _each_frame(mask, feathered)


def union(masks: Tensor) -> Tensor:
    """All objects in one mask: [N, F, H, W] in 0..1 -> [F, H, W], the largest value at each pixel; zeros when
    N is 0."""
    if masks.ndim != 4:
        raise PictureError(f"masks of shape {tuple(masks.shape)}: expected [N, F, H, W]")
    return masks.amax(0) if len(masks) else masks.new_zeros(masks.shape[1:])


def box_mask(box: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    """Float32 [height, width]: 1 where a pixel's centre lies inside the box (x0, y0, x1, y1 in pixels), else
    0."""
    x0, y0, x1, y1 = box
    xs, ys = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    return (((ys >= y0) & (ys < y1))[:, None] & ((xs >= x0) & (xs < x1))[None]).float()


def check_mask(mask: Tensor, name: str = "mask", notes: list[str] | None = None) -> Tensor:
    """The mask as float32 [F, H, W] on the CPU, or a PictureError that says why not. [H, W] becomes one
    frame. Values and notes: as `ranges.clamped` takes them."""
    if not isinstance(mask, Tensor):
        raise PictureError(f"{name}: expected a tensor [F, H, W], got {type(mask).__name__}")
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise PictureError(f"{name}: shape {tuple(mask.shape)}, expected [F, H, W] with nothing empty")
    mask = clamped(mask, name, notes)
    return mask[None] if mask.ndim == 2 else mask


def fit_mask(
    mask: Tensor,
    frames: Tensor,
    name: str = "mask",
    notes: list[str] | None = None,
) -> Tensor | None:
    """A mask from anywhere, for these frames.

    mask: [F, H, W] or [H, W]; of another size it is resized as ComfyUI's own nodes do it (bilinear). The
        empty mask of 64 x 64 that ComfyUI's picture loader gives for a picture without alpha counts as none.
    frames: [F, H, W, C].
    notes: what was decided is added here, or without a list said in the log.

    Returns [1 or F, H, W], float32 in 0..1 on the CPU; None where it counts as none.
    Raises PictureError for other numbers of frames, and as `check_mask`.
    """
    decided: list[str] = []
    mask = check_mask(mask, name, decided)
    count, height, width = frames.shape[:3]
    if mask.shape[1:] != (height, width):
        size = f"{mask.shape[2]} x {mask.shape[1]}"
        if mask.shape[1:] == (64, 64) and not bool(mask.any()):
            decided.append(
                f"{name}: the empty one of 64 x 64 is a picture's without alpha; it counts as none"
            )
            _say(decided, notes)
            return None
        decided.append(f"{name}: resized from {size} to the picture's {width} x {height}")
        mask = torch.nn.functional.interpolate(mask[:, None], (height, width), mode="bilinear")[:, 0]
    if len(mask) not in (1, count):
        raise PictureError(f"{name}: {len(mask)} masks for {count} frames; give one, or one each")
    highest = float(mask.max())
    if highest < 0.5:
        why = "it is empty" if highest == 0 else f"the highest value is {highest:.2g}, and 0.5 is on"
        decided.append(f"{name}: no pixel of it is on ({why}), so nothing is chosen by it")
    _say(decided, notes)
    return mask


def fit_step_masks(
    mask: Tensor,
    frames: Tensor,
    steps: int,
    name: str = "mask",
    notes: list[str] | None = None,
) -> list[Tensor | None]:
    """A mask for each of a plan's steps, as `fit_mask` gives them.

    mask: [steps * F, H, W], step after step with all its frames, as EVLM Segment gives them; or as `fit_mask`
        takes it, and then it counts for every step.
    frames: [F, H, W, C]. Raises PictureError.
    """
    mask, count = check_mask(mask, name, notes), len(frames)
    if steps == 1 or len(mask) in (1, count):
        return [fit_mask(mask, frames, name, notes)] * steps
    if len(mask) != steps * count:
        raise PictureError(
            f"{name}: {len(mask)} masks for {count} frames and {steps} steps; give {count} for all steps, or "
            f"{steps * count}, those of each step"
        )
    return [
        fit_mask(each, frames, f"{name} of step {number}", notes)
        for number, each in enumerate(mask.split(count), 1)
    ]


def _say(decided: list[str], notes: list[str] | None) -> None:
    if notes is not None:
        notes.extend(decided)
        return
    for note in decided:
        _log.warning(note)


def _each_frame(mask: Tensor, work: Callable[[NDArray[np.bool_]], NDArray[np.float32]]) -> Tensor:
    frames = check_mask(mask).numpy() >= 0.5
    return torch.from_numpy(np.stack([work(frame) for frame in frames])).reshape(mask.shape)


def union_of(masks: Sequence[Tensor | None]) -> Tensor | None:
    """All places as one, [F, H, W]; None, the whole frame, where one of them is that."""
    known = [mask for mask in masks if mask is not None]
    return torch.stack(known).amax(0) if known and len(known) == len(masks) else None
