"""What every masked edit shares: the crop to work in, the latents to keep, the pixels to put back.

    frames, mask --work_on--> crops --the editor's model--> painted crops --put_back--> frames

Outside the mask the result is a copy of the original, bit for bit: pixels are chosen there, never blended.
A mask pixel is on from 0.5, as in evlm.masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..boxes import bounding_box
from ..errors import PictureError
from ..files.pictures import check_frames
from ..masks import check_mask, feather_inward, fit_mask
from .crop import CropBox, cover, crop_box, extract, resize, restore
from .regions import places
from .seamless import seamless as cloned

FEATHER = 0.02  # of the mask's shorter side, when nobody says


@dataclass(frozen=True)
class Work:
    """A part of a request that a model has to paint.

    which: [A] int64, the frames that have a mask. boxes: the crop in each of them, all of one size.
    crop: [A, box.height, box.width, 3] in 0..1. mask: [A, H, W] bool, or None for the whole frame.
    """

    boxes: tuple[CropBox, ...]
    which: Tensor
    crop: Tensor
    mask: Tensor | None

    @property
    def box(self) -> CropBox:
        """The first frame's; the others have its size."""
        return self.boxes[0]


def work_on(
    frames: Tensor,
    mask: Tensor | None,
    best_resolution: int,
    full_frame_resolution: int,
    multiple: int,
    context: float = 1.2,
    cell: int = 1,
) -> list[Work]:
    """The crops that follow the masks, one for each place apart (`regions.places`), or the whole frame
    without a mask.

    Args:
        frames: [F, H, W, 3] in 0..1. mask: [F, H, W], or [1, H, W] for all frames, in 0..1; or None.
        best_resolution, full_frame_resolution: in pixels, for a crop and for the whole frame.
        multiple, context, cell: as in follow.

    Returns:
        Nothing when no pixel of the mask is on.

    Raises:
        PictureError: frames or mask of a wrong shape or with values that are no numbers in 0..1.
    """
    frames = check_frames(frames)
    count, height, width, _ = frames.shape
    if mask is None:
        box = crop_box(torch.ones(1, height, width), 1.0, full_frame_resolution, multiple)
        assert box is not None
        return [Work((box,) * count, torch.arange(count), extract(frames, box), None)]
    mask = check_mask(mask)
    if mask.shape[1:] != frames.shape[1:3] or mask.shape[0] not in (1, count):
        raise PictureError(
            f"mask of shape {tuple(mask.shape)}, expected {(count, height, width)} or {(1, height, width)} "
            "like the frames; resize it first"
        )
    on = (mask >= 0.5).expand(count, -1, -1)
    works = []
    for place in places(on, context, best_resolution, multiple, cell):
        here = on & place.inside
        which = torch.nonzero(here.flatten(1).any(1)).flatten()
        crops = [
            extract(frames[at : at + 1], box) for at, box in zip(which.tolist(), place.boxes, strict=True)
        ]
        works.append(Work(place.boxes, which, torch.cat(crops), here[which]))
    return works


def begin(
    frames: Tensor,
    mask: Tensor | None,
    best_resolution: int,
    full_frame_resolution: int,
    multiple: int,
    context: float,
    notes: list[str],
    cell: int = 1,
) -> tuple[Tensor, list[Work]]:
    """The frames [F, H, W, 3] checked, and what there is to paint.

    Arguments and errors as `work_on`'s, the mask as `fit_mask` takes it. notes: what a user should know is
    appended.
    """
    frames = check_frames(frames, notes=notes)
    mask = None if mask is None else fit_mask(mask, frames, notes=notes)
    works = work_on(frames, mask, best_resolution, full_frame_resolution, multiple, context, cell)
    at_work = len({frame for work in works for frame in work.which.tolist()})
    if not works:
        notes.append("the mask is empty: nothing to edit")
    elif at_work < len(frames):
        notes.append(f"{len(frames) - at_work} of {len(frames)} frames have an empty mask and stay as is")
    if len(works) > 1:
        notes.append(f"{len(works)} places lie apart: each is painted in a crop of its own")
    return frames, works


def latent_mask(work: Work, height: int, width: int) -> Tensor | None:
    """[A, 1, height, width] of 0 and 1: a latent cell is painted if the mask touches it, however little."""
    if work.mask is None:
        return None
    inside = torch.stack([mask[window(box)] for mask, box in zip(work.mask, work.boxes, strict=True)])
    return cover(inside.float(), height, width).unsqueeze(1)


def inside_crops(work: Work) -> Tensor:
    """Float [A, box.height, box.width], the masks in the crops: a pixel that they touch is 1; ones for the
    whole frame."""
    cells = latent_mask(work, work.box.height, work.box.width)
    return torch.ones(work.crop.shape[:3]) if cells is None else cells[:, 0]


def put_back(
    frames: Tensor,
    work: Work,
    painted: Tensor,
    feather: int | None = None,
    steady: Tensor | None = None,
    own: bool = False,
    seamless: bool = False,
) -> Tensor:
    """The frames with the painted crops of one place in them.

    Args:
        frames: [F, H, W, 3], the original. painted: [A, box.height, box.width, 3] in 0..1.
        feather: pixels over which the paint fades in, inward from the mask's edge; None = 2 % of its
            shorter side.
        steady: [A, H, W] bool, the masks smoothed over time, from whose edge the paint fades in, so that a
            trembling mask makes no crawling rim; None: smoothed here.
        own: the frames themselves are changed, and no copy of them.
        seamless: the paint takes on the shade of its surroundings; see seamless.py.

    Returns:
        [F, H, W, 3]; every pixel outside the mask equals the original bit for bit.
    """
    result = frames if own else frames.clone()
    if steady is None and work.mask is not None:
        steady = smoothed(work.mask, work.which)
    if seamless:
        painted = cloned(painted, work.crop, inside_crops(work) > 0)
    for frame, (paint, index) in enumerate(zip(restore(painted, work.box), work.which.tolist(), strict=True)):
        if work.mask is None or steady is None:
            result[index] = paint
            continue
        here = window(work.boxes[frame])
        alpha = fade(work.mask[frame], feather, steady[frame])[here]
        result[index][here] = blend(result[index][here], paint, alpha)
    return result


def window(box: CropBox) -> tuple[slice, slice]:
    """The rows and columns of a frame that the box covers."""
    return slice(box.y0, box.y1), slice(box.x0, box.x1)


def smoothed(masks: Tensor, which: Tensor) -> Tensor:
    """Masks [A, H, W] bool of the frames `which` [A]: in each, what at least two of it and its two neighbours
    say, the neighbours moved by the way between the middles of their boxes. A frame without both stays."""
    result = masks.clone()
    frames = which.tolist()
    for at in range(1, len(masks) - 1):
        if frames[at + 1] - frames[at - 1] != 2:
            continue
        own = masks[at]
        before, behind = (_onto(masks[other], own) for other in (at - 1, at + 1))
        result[at] = (before & behind) | (own & (before | behind))
    return result


def _onto(mask: Tensor, other: Tensor) -> Tensor:
    """A mask [H, W] moved by whole pixels, so that the middle of its box is the other's."""
    a, b = bounding_box(mask), bounding_box(other)
    if a is None or b is None or a == b:
        return mask
    dx, dy = round((b[0] + b[2] - a[0] - a[2]) / 2), round((b[1] + b[3] - a[1] - a[3]) / 2)
    height, width = mask.shape
    x0, x1 = max(a[0], -dx), min(a[2], width - dx)
    y0, y1 = max(a[1], -dy), min(a[3], height - dy)
    moved = torch.zeros_like(mask)
    moved[y0 + dy : y1 + dy, x0 + dx : x1 + dx] = mask[y0:y1, x0:x1]
    return moved


def put_all_back(
    frames: Tensor,
    works: Sequence[Work],
    painted: Sequence[Tensor],
    feather: int | None = None,
    seamless: bool = False,
) -> tuple[Tensor, Tensor, CropBox]:
    """As `put_back`, of all places. Also the crops [A, h, w, 3] of the largest place, and its box: what an
    editor shows of its work."""
    for work, crops in zip(works, painted, strict=True):
        frames = put_back(frames, work, crops, feather, seamless=seamless)
    largest = max(range(len(works)), key=lambda at: _size(works[at].box))
    return frames, painted[largest], works[largest].box


def _size(box: CropBox) -> int:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def composite(
    original: Tensor,
    edited: Tensor,
    mask: Tensor,
    feather: int | None = None,
    notes: list[str] | None = None,
) -> Tensor:
    """Any editor's frames inside the mask, the original outside it, bit for bit.

    original: [F, H, W, 3].
    edited: [F or 1, h, w, 3], resized where its size is another.
    mask: [F or 1, h, w], as `fit_mask` takes it; where it counts as none, all of `edited` is taken.
    feather: as in `put_back`.
    notes: as in `fit_mask`.
    Raises PictureError.
    """
    original, edited = check_frames(original, "original"), check_frames(edited, "edited")
    count, height, width = original.shape[:3]
    if len(edited) not in (1, count):
        raise PictureError(f"edited: {len(edited)} frames for an original of {count}; give one, or one each")
    fitted = fit_mask(mask, original, notes=notes)
    on = (torch.ones(1, height, width) if fitted is None else fitted) >= 0.5
    paint = resize(edited, height, width).clamp(0, 1).expand(count, -1, -1, -1)
    result = original.detach().to("cpu", torch.float32).clone()
    for frame, each in enumerate(on.expand(count, -1, -1)):
        if not bool(each.any()):
            continue
        result[frame] = blend(result[frame], paint[frame], fade(each, feather))
    return result


def fade(on: Tensor, feather: int | None = None, steady: Tensor | None = None) -> Tensor:
    """How much of the paint each pixel takes: [H, W] bool -> [H, W] in 0..1, 0 outside the mask.

    feather: as in `put_back`. steady: bool [H, W], the mask from whose edge the paint fades in instead; what
    is on beyond it takes as much as the edge.
    """
    edge = on if steady is None else steady
    pixels = default_feather(edge) if feather is None else feather
    alpha = feather_inward(edge.float(), pixels)
    if edge is on:
        return alpha
    return torch.where(on, alpha.clamp(min=1 / (pixels + 1)), 0.0)


def blend(original: Tensor, paint: Tensor, alpha: Tensor) -> Tensor:
    """Paint over the original, both [H, W, C], by alpha [H, W]; where alpha is 0 the original bit for bit."""
    alpha = alpha[..., None]
    return torch.where(alpha > 0, torch.lerp(original, paint, alpha), original)


def default_feather(on: Tensor) -> int:
    """2 % of the shorter side of the bounding box of `on` [H, W], in whole pixels; 0 where
    nothing is on."""
    corners = bounding_box(on)
    if corners is None:
        return 0
    x0, y0, x1, y1 = corners
    return int(FEATHER * min(y1 - y0, x1 - x0))
