"""Which frames of a clip are taken: a range, a rate, or a handful spread evenly; and when each is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import PictureError


class Shot(NamedTuple):
    """One frame on its way in. start, end: seconds, when it is shown. pixels: makes [H, W, 3], uint8 in
    0..255 or float in 0..1; only called for a frame that is taken, before the next one is asked for."""

    start: Fraction
    end: Fraction
    pixels: Callable[[], Tensor]


class Taken(NamedTuple):
    """frames: float32 [F, H, W, 3] in 0..1. durations: seconds that each is shown."""

    frames: Tensor
    durations: tuple[Fraction, ...]


@dataclass(frozen=True)
class Selection:
    """first, end, step: of the clip's frames, as a slice. fps: at most so many of those a second, the one
    that is shown at each 1/fps. at_most: so many, spread evenly, the first and the last among them.
    most_pixels: of all taken frames together."""

    first: int = 0
    end: int | None = None
    step: int = 1
    fps: Fraction | None = None
    at_most: int | None = None
    most_pixels: int = 256_000_000  # 3 GB as float

    @classmethod
    def parse(cls, frames: str | None = None, fps: str | float | Fraction | None = None) -> Selection:
        """frames: "FIRST:END" or "FIRST:END:STEP", counted from 0, END not included, each may be left out.
        fps: a number or a fraction such as "30000/1001". Raises PictureError."""
        first, end, step = 0, None, 1
        if frames is not None:
            match = re.fullmatch(r"(\d{0,9}):(\d{0,9})(?::(\d{0,9}))?", frames, re.ASCII)
            if not match:
                raise PictureError(
                    f"frames {frames!r:.80}: expected FIRST:END or FIRST:END:STEP, from 0, such as 0:120"
                )
            first, step = int(match[1] or 0), int(match[3] or 1)
            end = int(match[2]) if match[2] else None
            if step < 1 or (end is not None and end <= first):
                raise PictureError(
                    f"frames {frames!r:.80}: no frame lies in there; expected FIRST < END, STEP >= 1"
                )
        return cls(first, end, step, None if fps is None else _rate(fps))

    def count(self, total: int, seconds: Fraction | None) -> int:
        """How many of `total` frames that last `seconds` are taken, at most."""
        taken = len(range(*slice(self.first, self.end, self.step).indices(total)))
        if self.fps is not None and seconds is not None:
            taken = min(taken, math.ceil(seconds * self.fps) + 1)
        return taken if self.at_most is None else min(taken, self.at_most)

    def check(self, total: int, height: int, width: int, seconds: Fraction | None = None) -> None:
        """Raises PictureError where what would be taken is more than is read; it names a choice that fits."""
        count = self.count(total, seconds)
        if count * height * width <= self.most_pixels:
            return
        most = self.most_pixels // (height * width)
        text = f"{count:,} frames of {width} x {height} are {count * height * width:,} pixels; at most "
        text += f"{self.most_pixels:,} are read"
        if most < 1:
            raise PictureError(f"{text}; scale it down first")
        text += f", which is {most:,} frame{'s' * (most != 1)}: take fewer frames with --frames {self.first}:"
        text += f"{self.first + most * self.step}" + (f":{self.step}" if self.step > 1 else "")
        if seconds is not None and seconds > 0 and most > 1:
            rate = math.floor((most - 1) / seconds * 100) / 100
            text += f" or --fps {rate:g}" if rate > 0 else ""
        raise PictureError(f"{text}, or scale it down first")

    def collect(self, shots: Iterable[Shot], name: str) -> Taken:
        """Takes what is selected, `at_most` aside: that is the reader's, who knows the count. Raises
        PictureError."""
        kept: list[Tensor] = []
        starts: list[Fraction] = []
        origin: Fraction | None = None
        stop, seen = Fraction(0), 0
        for index, shot in enumerate(shots):
            seen = index + 1
            if self.end is not None and index >= self.end:
                break
            if index < self.first:
                continue
            stop, start = shot.end, shot.start
            origin = start if origin is None else origin
            if (index - self.first) % self.step:
                continue
            if self.fps is not None:
                slot = math.ceil((start - origin) * self.fps)  # the first 1/fps that falls on this frame
                start = origin + slot / self.fps
                if start >= shot.end and kept:
                    continue
            pixels = shot.pixels()
            if kept and pixels.shape != kept[0].shape:
                sizes = sorted({tuple(kept[0].shape[:2]), tuple(pixels.shape[:2])})
                raise PictureError(
                    f"{name}: frames of different sizes {sizes} (height, width); the frames of one "
                    "clip, or the pictures of a folder that is read as one, have one size"
                )
            kept.append(pixels)
            starts.append(start)
            if len(kept) * pixels.shape[0] * pixels.shape[1] > self.most_pixels:
                self.check(seen, *pixels.shape[:2])  # more than the file had promised
        if not kept:
            raise PictureError(
                f"{name}: it has {seen or 'no'} frame{'s' * (seen != 1)}; nothing is left to take"
            )
        durations = [after - before for before, after in pairwise(starts)]
        return Taken(_stacked(kept), (*durations, max(stop - starts[-1], Fraction(0))))


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..total - 1, evenly, the first and the last among them."""
    count = min(total, most)
    step = (total - 1) / (count - 1) if count > 1 else 0.0
    return [int(i * step + 0.5) for i in range(count)]


def frame_rate(durations: Sequence[Fraction]) -> Fraction | None:
    """Frames a second on average; None where no time passes."""
    seconds = sum(durations, Fraction(0))
    return len(durations) / seconds if seconds > 0 else None


def _rate(value: str | float | Fraction) -> Fraction:
    try:
        rate = Fraction(value) if not isinstance(value, float) else Fraction(str(value))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise PictureError(
            f"fps {value!r:.80}: expected a number above 0 and at most 1000, or a fraction such as 30000/1001"
        )
    return rate


def _stacked(kept: list[Tensor]) -> Tensor:
    """Float frames; each picture is let go as soon as it is copied, so that they never lie there twice."""
    frames = torch.empty(len(kept), *kept[0].shape)
    while kept:
        pixels, at = kept.pop(), len(kept)
        frames[at] = pixels
        if pixels.dtype == torch.uint8:
            frames[at] /= 255
    return frames
