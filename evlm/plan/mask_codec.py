"""A mask as a few words that a language model can read and write, and back.

    none                                   nothing
    box 120 80 430 390 full                exactly this rectangle
    box 120 80 430 390 rows 2-5 1-6 . 0-1+5-7 0-7 0-7 1-6 2-5

The box is x0 y0 x1 y1 in thousandths of the picture's width and height (the backbone's own coordinates). It
is cut into G x G cells (G = 8 or 16), and each of the G rows names the cells that are on: "a-b" inclusive,
several joined by "+", "." for none. A cell is on when at least half of it is covered. Existing text tokens
only, no decoder weights.
EVLM (arXiv 2412.10566) leaves the form of its mask tokens open; this one is our own.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..boxes import bounding_box
from ..errors import MaskTextError

MASK_CODEC_VERSION = 1
GRIDS = (8, 16)


class BoxSpans:
    """The codec at one grid. `encode` and `decode` at any size and aspect ratio."""

    def __init__(self, grid: int = 8) -> None:
        if grid not in GRIDS:
            raise MaskTextError(f"grid {grid!r}: expected one of {GRIDS}")
        self.grid = grid
        self.name = f"box-spans-{grid}"

    def encode(self, mask: Tensor) -> str:
        """mask: [H, W], any dtype, on where >= 0.5. Raises MaskTextError for another shape or no pixels."""
        on = _binary(mask)
        if on.ndim != 2 or 0 in on.shape:
            raise MaskTextError(
                f"mask of shape {tuple(on.shape)}: expected [H, W]; take one frame of a video at a time"
            )
        height, width = on.shape
        corners = bounding_box(on)
        if corners is None:
            return "none"
        left, top, right, bottom = corners
        x0, x1 = _thousandths(left, right, width)
        y0, y1 = _thousandths(top, bottom, height)
        box = f"box {x0} {y0} {x1} {y1}"
        if bool(on[top:bottom, left:right].all()):
            return f"{box} full"
        left, right = _pixels(x0, x1, width)  # as decoding will see it
        top, bottom = _pixels(y0, y1, height)
        crop = on[top:bottom, left:right].float()
        cover, decides = _cover(crop, self.grid)
        # A web of thin lines covers no cell by half; its densest cells stand for it rather than nothing.
        threshold = min(0.5, float(cover[decides].max())) - 1e-4
        return f"{box} rows " + " ".join(_spans(row) for row in (cover >= threshold).tolist())

    def decode(self, text: str, height: int, width: int) -> Tensor:
        """text -> [height, width] float32 of 0 and 1. Raises MaskTextError if the text breaks the grammar."""
        if height < 1 or width < 1:
            raise MaskTextError(f"cannot decode a mask to {height} x {width} pixels: both must be at least 1")
        mask = torch.zeros(height, width)
        parsed = _parse(text)
        if parsed is None:
            return mask
        (x0, y0, x1, y1), rows = parsed
        left, right = _pixels(x0, x1, width)
        top, bottom = _pixels(y0, y1, height)
        if rows is None:
            mask[top:bottom, left:right] = 1
            return mask
        cells = _cells(rows, self.grid)
        ys = (
            (torch.arange(bottom - top) * 2 + 1) * self.grid // (2 * (bottom - top))
        )  # the cell of a pixel's centre
        xs = (torch.arange(right - left) * 2 + 1) * self.grid // (2 * (right - left))
        mask[top:bottom, left:right] = cells[ys][:, xs]
        return mask

    def box(self, text: str) -> tuple[int, int, int, int] | None:
        """The box (x0, y0, x1, y1) in 0..1000; None for the empty mask. Raises MaskTextError."""
        parsed = _parse(text)
        if parsed is None:
            return None
        box, rows = parsed
        if rows is not None:
            _cells(rows, self.grid)
        return box


def decode_mask(text: str, height: int, width: int) -> Tensor:
    """Like `BoxSpans.decode`, with the grid taken from the number of rows in the text."""
    return _codec_of(text).decode(text, height, width)


def is_rectangle(text: str) -> bool:
    """Whether the text asks for room, an exact rectangle, and not for a silhouette. Raises MaskTextError."""
    parsed = _parse(text)
    return parsed is not None and parsed[1] is None


def get_codec(name: str) -> BoxSpans:
    """ "box-spans-8" or "box-spans-16". Raises MaskTextError for another name."""
    for grid in GRIDS:
        if name == f"box-spans-{grid}":
            return BoxSpans(grid)
    raise MaskTextError(f"no mask codec {name!r}: expected one of {[f'box-spans-{grid}' for grid in GRIDS]}")


def mask_iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks of one shape, on where >= 0.5. Two empty masks agree: 1.0."""
    first, second = _binary(a), _binary(b)
    if first.shape != second.shape:
        raise MaskTextError(
            f"masks of shapes {tuple(first.shape)} and {tuple(second.shape)}: expected equal shapes"
        )
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def mask_text_iou(text: str | None, truth: Tensor) -> float:
    """IoU of what a model wrote with the true mask, [H, W] or [1, H, W]. Missing or malformed text is 0."""
    if truth.ndim == 3 and truth.shape[0] == 1:
        truth = truth[0]
    try:
        mask = decode_mask(text or "", *truth.shape[-2:])
    except MaskTextError:
        return 0.0
    return mask_iou(mask, truth)


# --- text ---

_NUMBER = re.compile(r"[0-9]{1,4}")
_SPAN = re.compile(r"([0-9]{1,2})-([0-9]{1,2})")


def _parse(text: str) -> tuple[tuple[int, int, int, int], list[str] | None] | None:
    """None: the empty mask; else the box and its rows, unread; rows None: full."""
    words = text.split() if isinstance(text, str) else []
    if words == ["none"]:
        return None
    if len(words) < 6 or words[0] != "box" or words[5] not in ("full", "rows"):
        raise MaskTextError(
            f"mask text {text!r:.80}: expected 'none', 'box X0 Y0 X1 Y1 full' or 'box ... rows ...'"
        )
    for word in words[1:5]:
        if not _NUMBER.fullmatch(word) or int(word) > 1000:
            raise MaskTextError(f"mask text: {word!r:.40} is not an integer in 0..1000")
    x0, y0, x1, y1 = (int(word) for word in words[1:5])
    if x0 >= x1 or y0 >= y1:
        raise MaskTextError(
            f"mask text: box {x0} {y0} {x1} {y1} is empty or inside out; expected x0 < x1, y0 < y1"
        )
    if words[5] == "rows":
        return (x0, y0, x1, y1), words[6:]
    if len(words) > 6:
        raise MaskTextError(f"mask text: {words[6]!r:.40} after 'full'; nothing may follow it")
    return (x0, y0, x1, y1), None


def _codec_of(text: str) -> BoxSpans:
    parsed = _parse(text)
    rows = parsed[1] if parsed is not None else None
    if rows is None:
        return BoxSpans()
    if len(rows) not in GRIDS:
        raise MaskTextError(f"mask text has {len(rows)} rows: expected one of {GRIDS}")
    return BoxSpans(len(rows))


def _cells(rows: list[str], grid: int) -> Tensor:
    """[grid, grid] float of 0 and 1. Spans may touch or overlap; what they name is on."""
    if len(rows) != grid:
        raise MaskTextError(f"mask text has {len(rows)} rows: expected {grid}")
    cells = torch.zeros(grid, grid)
    for index, row in enumerate(rows):
        for span in row.split("+") if row != "." else ():
            ends = _SPAN.fullmatch(span)
            if not ends or not int(ends[1]) <= int(ends[2]) < grid:
                raise MaskTextError(
                    f"mask text, row {index}: {span!r:.40} is not a span a-b with 0 <= a <= b < {grid}"
                )
            cells[index, int(ends[1]) : int(ends[2]) + 1] = 1
    return cells


def _spans(row: list[bool]) -> str:
    spans, start = [], None
    for index, on in enumerate([*row, False]):
        if on and start is None:
            start = index
        elif not on and start is not None:
            spans.append(f"{start}-{index - 1}")
            start = None
    return "+".join(spans) or "."


# --- geometry ---


def _binary(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask >= 0.5


def _thousandths(start: int, end: int, size: int) -> tuple[int, int]:
    """Pixels [start, end) of size -> 0..1000, never empty."""
    low, high = round(1000 * start / size), round(1000 * end / size)
    return (low, high) if low < high else (min(low, 999), min(low, 999) + 1)


def _pixels(low: int, high: int, size: int) -> tuple[int, int]:
    """0..1000 -> pixels [start, end) of size, never empty."""
    start, end = round(low * size / 1000), round(high * size / 1000)
    return (start, end) if start < end else (min(start, size - 1), min(start, size - 1) + 1)


def _cover(crop: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """How much of each cell is on, and which cells hold the centre of a pixel; both [grid, grid].

    Counted over those pixels, as decoding paints them. A cell between the centres, in a box of fewer pixels
    than cells, is measured by area: it matters when the text is decoded for a larger picture.
    """
    ys, xs = (torch.eye(grid)[:, _cell_of_pixel(grid, size)] for size in crop.shape)
    pixels = ys.sum(1)[:, None] * xs.sum(1)
    area = _overlaps(grid, crop.shape[0]) @ crop @ _overlaps(grid, crop.shape[1]).T
    return torch.where(pixels > 0, ys @ crop @ xs.T / pixels.clamp(min=1), area), pixels > 0


def _cell_of_pixel(grid: int, pixels: int) -> Tensor:
    """[pixels]: the cell in which each pixel's centre lies, along one side of the box."""
    return (torch.arange(pixels) * 2 + 1) * grid // (2 * pixels)


def _overlaps(cells: int, pixels: int) -> Tensor:
    """[cells, pixels]: the share of each cell that lies in each pixel, along one side. Rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    starts = torch.arange(pixels, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], starts[None])
    high = torch.minimum(edges[1:, None], starts[None] + 1)
    return ((high - low).clamp(min=0) * cells / pixels).float()
