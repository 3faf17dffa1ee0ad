"""Where a masked edit looks: the crop around a mask, and the way into it and back.

Pure functions of tensors and numbers. Inference (masked.py) and training (trainer/bundle/editor.py) call the
same ones, so the model meets at work exactly the pictures that it was trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..boxes import bounding_box

# Inside this range of scales the box grows to the working size and nothing is resampled: two passes of an
# interpolation filter cost more detail than a model loses a little off its best resolution.
NATIVE_SCALES = (0.8, 1.5)
# A box is enlarged at most this much; a smaller region gets more surroundings instead.
MAX_ZOOM = 8
# Working sizes keep the box's aspect up to this ratio; a thinner box is stretched to it.
MAX_ASPECT = 4.0


@dataclass(frozen=True)
class CropBox:
    """Pixels [y0:y1, x0:x1] of the frame, shown to the model as height x width pixels."""

    x0: int
    y0: int
    x1: int
    y1: int
    height: int
    width: int

    @property
    def native(self) -> bool:
        """True when the crop is shown pixel for pixel, without resampling."""
        return (self.y1 - self.y0, self.x1 - self.x0) == (self.height, self.width)


def crop_box(
    mask: Tensor, context: float = 1.2, best_resolution: int = 512, multiple: int = 64
) -> CropBox | None:
    """The crop that a masked edit works in.

    One box holds the mask of every frame, so that the frames of a video stay aligned with each other.

    Args:
        mask: [F, H, W], any dtype; everything above 0 is inside.
        context: how much larger than the mask's bounding box the crop is, per side (1.0 = none).
        best_resolution: side in pixels of the square whose area the model works best at.
        multiple: height and width are multiples of it (VAE factor times UNet factor).

    Returns:
        The box, inside the frame and around the whole mask; None when the mask is empty.
    """
    frame_height, frame_width = mask.shape[-2:]
    inside = (mask > 0).reshape(-1, frame_height, frame_width).any(0)
    corners = bounding_box(inside)
    if corners is None:
        return None
    return crop_around(corners, frame_height, frame_width, context, best_resolution, multiple)


def crop_around(
    corners: tuple[int, int, int, int],
    frame_height: int,
    frame_width: int,
    context: float = 1.2,
    best_resolution: int = 512,
    multiple: int = 64,
) -> CropBox:
    """As `crop_box`, around corners (x0, y0, x1, y1) in pixels of a frame, x1 and y1 exclusive."""
    left, top, right, bottom = corners
    smallest = best_resolution / MAX_ZOOM
    width = max((right - left) * context, smallest)
    height = max((bottom - top) * context, smallest)
    # A sliver says little about its surroundings: the short side gets at least half of the long one.
    width, height = max(width, height / 2), max(height, width / 2)
    width, height = min(width, frame_width), min(height, frame_height)

    scale = best_resolution / math.sqrt(width * height)
    thin = not 1 / MAX_ASPECT <= width / height <= MAX_ASPECT
    if NATIVE_SCALES[0] <= scale <= NATIVE_SCALES[1] and not thin:
        working_width = _native(width, frame_width, multiple)
        working_height = _native(height, frame_height, multiple)
        width, height = max(width, working_width), max(height, working_height)
    else:
        aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        working_width = _nearest(best_resolution * math.sqrt(aspect), multiple)
        working_height = _nearest(best_resolution / math.sqrt(aspect), multiple)
        if not thin:  # rounding changed the aspect: more surroundings on one side put it right
            shrink = min(working_width / width, working_height / height)
            width, height = working_width / shrink, working_height / shrink

    x0, x1 = _place(left, right, math.ceil(width - 1e-6), frame_width)
    y0, y1 = _place(top, bottom, math.ceil(height - 1e-6), frame_height)
    return CropBox(x0, y0, x1, y1, working_height, working_width)


def extract(frames: Tensor, box: CropBox) -> Tensor:
    """The crop as the model sees it: [F, H, W, C] in 0..1 -> [F, box.height, box.width, C] in 0..1."""
    return resize(frames[:, box.y0 : box.y1, box.x0 : box.x1], box.height, box.width)


def extract_mask(mask: Tensor, box: CropBox) -> Tensor:
    """The crop of a mask, [F, H, W] -> [F, box.height, box.width]; a pixel that it touches is inside."""
    return cover(mask[:, box.y0 : box.y1, box.x0 : box.x1], box.height, box.width)


def restore(crop: Tensor, box: CropBox) -> Tensor:
    """The way back, to the box's own pixels: [F, box.height, box.width, C] -> [F, y1 - y0, x1 - x0, C]."""
    return resize(crop, box.y1 - box.y0, box.x1 - box.x0)


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """[F, H, W, C] in 0..1 -> [F, height, width, C] in 0..1, bicubic, antialiased; no-op at the same size."""
    if tuple(frames.shape[1:3]) == (height, width):
        return frames
    channels_first = frames.movedim(-1, 1)
    resized = F.interpolate(channels_first, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1).movedim(1, -1)


def cover(mask: Tensor, height: int, width: int) -> Tensor:
    """[F, H, W] -> [F, height, width]: each cell has the largest value that it overlaps, however little."""
    return F.adaptive_max_pool2d(mask.unsqueeze(1), (height, width)).squeeze(1)


def _native(size: float, frame: int, multiple: int) -> int:
    """The next multiple upward, or the nearest one when the frame is too small to fill it."""
    upward = math.ceil(size / multiple - 1e-6) * multiple
    return upward if upward <= frame else _nearest(size, multiple)


def _nearest(size: float, multiple: int) -> int:
    return max(round(size / multiple), 1) * multiple


def _place(start: int, end: int, size: int, frame: int) -> tuple[int, int]:
    """A span of `size` around the middle of start..end, shifted into 0..frame."""
    size = min(size, frame)
    first = min(max((start + end - size) // 2, 0), frame - size)
    return first, first + size
