"""Which frames of a clip are taken: a range, a rate, or a handful spread evenly; and when each is shown."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
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


class Picked(NamedTuple):
    """One frame that is taken. pixels: as Shot's. start: seconds. duration: until the next one that is
    taken."""

    pixels: Tensor
    start: Fraction
    duration: Fraction


class Taken(NamedTuple):
    """frames: float32 [F, H, W, 3] in 0..1. durations: seconds that each is shown."""

    frames: Tensor
    durations: tuple[Fraction, ...]


@dataclass(frozen=True)
class Selection:
    """first, end, step: of the clip's frames, as a slice. fps: at most so many of those a second, the one
    that is shown at each 1/fps. at_most: so many, spread evenly, the first and the last among them. limit: no
    more than so many, from the first.
    most_pixels: of all taken frames together."""

    first: int = 0
    end: int | None = None
    step: int = 1
    fps: Fraction | None = None
    at_most: int | None = None
    limit: int | None = None
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
        taken = taken if self.limit is None else min(taken, self.limit)
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

    def take(self, shots: Iterable[Shot], name: str, begin: int = 0) -> Iterator[Picked]:
        """What is selected of a clip, one frame after the other, `at_most` aside: that is the reader's, who
        knows the count. begin: so many of what is selected are left out, unseen. Raises PictureError."""
        held: tuple[Tensor | None, Fraction] | None = None
        origin: Fraction | None = None
        size: tuple[int, ...] | None = None
        stop, seen, count = Fraction(0), 0, 0
        for index, shot in enumerate(shots):
            seen = index + 1
            if self.end is not None and index >= self.end:
                break
            if index < self.first:
                continue
            start = shot.start
            origin = start if origin is None else origin
            due = not (index - self.first) % self.step
            if due and self.fps is not None:
                slot = math.ceil((start - origin) * self.fps)  # the first 1/fps that falls on this frame
                start = origin + slot / self.fps
                due = start < shot.end or not count
            if due and count == self.limit:
                break
            stop = shot.end
            if not due:
                continue
            pixels = shot.pixels() if count >= begin else None
            if held is not None and held[0] is not None:
                yield Picked(held[0], held[1], start - held[1])
            if pixels is not None and size is not None and tuple(pixels.shape[:2]) != size:
                raise PictureError(
                    f"{name}: frame {index}, counted from 0, is {pixels.shape[1]} x {pixels.shape[0]}, and "
                    f"those before it are {size[1]} x {size[0]}; the frames of one clip, or the pictures of "
                    "a folder that is read as one, have one size"
                )
            size = size if pixels is None else tuple(pixels.shape[:2])
            held = pixels, start
            count += 1
        if held is None:
            raise PictureError(
                f"{name}: it has {seen or 'no'} frame{'s' * (seen != 1)}; nothing is left to take"
            )
        if held[0] is not None:
            yield Picked(held[0], held[1], max(stop - held[1], Fraction(0)))

    def collect(self, shots: Iterable[Shot], name: str) -> Taken:
        """All that `take` gives. Raises PictureError, also for more pixels than are read."""
        kept: list[Tensor] = []
        durations: list[Fraction] = []
        for pixels, _, duration in self.take(shots, name):
            kept.append(pixels)
            durations.append(duration)
            height, width = pixels.shape[:2]
            if len(kept) * height * width > self.most_pixels:
                seen = self.first + len(kept) * self.step
                self.check(seen, height, width)  # more than the file had promised
        return Taken(as_float(kept), tuple(durations))


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..total - 1, evenly, the first and the last among them."""
    count = min(total, most)
    step = (total - 1) / (count - 1) if count > 1 else 0.0
    return [int(i * step + 0.5) for i in range(count)]


def rate_of(times: Sequence[Fraction]) -> float | None:
    """Frames a second of some that begin at these seconds, 1000 at most; None where no time passes."""
    length = times[-1] - times[0] if times else 0
    return min(float((len(times) - 1) / length), 1000.0) if length > 0 else None


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


def over_white(values: Tensor) -> Tensor:
    """Floats [..., 3 or 4] in 0..1 -> [..., 3]: what is not opaque lies over white."""
    if values.shape[-1] == 3:
        return values
    colours, alpha = values[..., :3], values[..., 3:]
    return colours * alpha + (1 - alpha)


def as_float(kept: list[Tensor]) -> Tensor:
    """Float frames [F, H, W, C] in 0..1 of pictures in integers or floats; each is let go as soon as it is
    copied, so that they never lie there twice."""
    frames = torch.empty(len(kept), *kept[0].shape)
    while kept:
        pixels, at = kept.pop(), len(kept)
        frames[at] = pixels
        if not pixels.is_floating_point():
            frames[at] /= 255 if pixels.dtype == torch.uint8 else 65535
    return frames
