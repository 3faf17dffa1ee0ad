"""A decoded frame as pixels, as a player shows it: upright, square, cropped, in the colours that it says."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .clip_writer import SIZE_TAG

_WIDEST = 16  # sample aspect ratios beyond this, either way, are a damaged header
_MATRICES = (1, 4, 5, 6, 7, 9)  # ITU-T H.273, matrix coefficients that FFmpeg's scaler knows
_RGB = 5  # of pictures in RGB no matrix is asked; FFmpeg wants a number all the same


def pixels(frame: Any, stream: Any, whole: bool = False) -> Tensor:
    """uint8 [H, W, 3], upright, pixels square.

    whole: with what else the frame has, uint16 for more than 8 bits a channel, [H, W, 4] where there is
    opacity.
    """
    matrix = display_matrix(frame)
    height, width = square_size(frame.height, frame.width, pixel_ratio(stream))
    alpha, deep = (whole and has_alpha(frame)), (whole and bits_of(frame) > 8)
    name = ("rgba64le" if alpha else "rgb48le") if deep else ("rgba" if alpha else "rgb24")
    rgb = frame.reformat(width=width, height=height, format=name, interpolation="BICUBIC", **_colours(frame))
    values = rgb.to_ndarray()
    picture = torch.from_numpy(values)
    rows, columns = _written_size(stream, height, width)
    picture = picture[:rows, :columns]
    transpose, mirror, flip = (turn(matrix) if matrix is not None else None) or (False, False, False)
    if transpose:
        picture = picture.transpose(0, 1)
    dims = [axis for axis, wanted in ((1, mirror), (0, flip)) if wanted]
    return picture.flip(dims) if dims else picture


def has_alpha(frame: Any) -> bool:
    return any(each.is_alpha for each in frame.format.components)


def says_alpha(stream: Any) -> bool:
    """Whether opacity is stored beside the picture, as VP8 and VP9 do."""
    return any(name.lower() == "alpha_mode" and value == "1" for name, value in stream.metadata.items())


def bits_of(frame: Any) -> int:
    """Of a channel."""
    return max((each.bits for each in frame.format.components), default=8)


def _colours(frame: Any) -> dict[str, int]:
    """What old PyAV does not take from the frame by itself: its matrix and its range."""
    matrix = int(getattr(frame, "colorspace", 0) or 0)
    if frame.format.is_rgb or matrix not in _MATRICES:
        return {}
    limited, full = 1, 2
    return {
        "src_colorspace": matrix,
        "src_color_range": int(frame.color_range) or limited,
        "dst_colorspace": _RGB,
        "dst_color_range": full,
    }


def _written_size(stream: Any, height: int, width: int) -> tuple[int, int]:
    """(height, width) of what our own writer had padded; else the given ones."""
    tags = getattr(stream.container, "metadata", {})
    said = next((value for name, value in tags.items() if name.lower() == SIZE_TAG), "")
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", said, re.ASCII)
    if not match:
        return height, width
    columns, rows = int(match[1]), int(match[2])
    fits = height - 1 <= rows <= height and width - 1 <= columns <= width and rows and columns
    return (rows, columns) if fits else (height, width)


def shown_size(stream: Any) -> tuple[int, int]:
    """(height, width) of a stream's frames before they are turned, pixels square."""
    context = stream.codec_context
    return _written_size(stream, *square_size(context.height, context.width, pixel_ratio(stream)))


def display_matrix(frame: Any) -> tuple[int, ...] | None:
    """(a, b, c, d) of a frame's display matrix, in 16.16 fixed point: x' = a x + c y, y' = b x + d y."""
    from av.sidedata.sidedata import SideDataContainer

    # Not `frame.side_data`, by which frame and list hold each other: the pixels of every frame that was
    # looked at then stay until Python looks for such rings, which it hardly does while tensors come and go.
    data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if data is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    return a, b, c, d


def turn(matrix: tuple[int, ...]) -> tuple[bool, bool, bool] | None:
    """(transpose, then mirror left and right, then upside down); None for what is no quarter turn."""
    a, b, c, d = matrix
    tolerance = max(abs(value) for value in matrix) / 50  # about one degree
    if min(abs(a), abs(d)) > tolerance >= max(abs(b), abs(c)):
        return False, a < 0, d < 0
    if min(abs(b), abs(c)) > tolerance >= max(abs(a), abs(d)):
        return True, c < 0, b < 0
    return None


def pixel_ratio(stream: Any) -> Fraction:
    ratio = stream.sample_aspect_ratio or 1
    return Fraction(ratio) if Fraction(1, _WIDEST) <= ratio <= _WIDEST else Fraction(1)


def square_size(height: int, width: int, ratio: Fraction) -> tuple[int, int]:
    """The size with square pixels: one side grows, none shrinks."""
    return (height, round(width * ratio)) if ratio >= 1 else (round(height / ratio), width)
