"""The frames of a clip's file, one at a time, for what goes through it mostly forward: a tracker."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..errors import PictureError
from ..files.selection import as_float

if TYPE_CHECKING:
    from ..files.clip_reader import ClipFile
    from ..files.selection import Picked

HELD = 32  # frames that are kept at most; what goes backward reads so many again at once
_BYTES = 256_000_000  # of frames that are kept


class Frames(Protocol):
    """What is tracked through: a tensor [F, H, W, 3] in 0..1, or a `ReadFrames`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """F, H, W, 3."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> Tensor:
        """[H, W, 3]."""


class ReadFrames:
    """The frames of a clip, of which no more than `held` are in memory. most: no more of them are taken."""

    def __init__(self, clip: ClipFile, held: int | None = None, most: int | None = None) -> None:
        size = clip.height * clip.width * (3 + clip.alpha) * clip.bits // 8
        self._clip, self._most = clip, held or max(min(HELD, _BYTES // size), 2)
        self._count = clip.count if most is None else min(clip.count, most)
        self._coming: Iterator[Picked] = clip.frames()
        self._first = 0
        self._held: list[Tensor] = []
        self._durations: dict[int, Fraction] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._count, self._clip.height, self._clip.width, 3)

    def __len__(self) -> int:
        """At most: a file may say that it has more frames than come out of it."""
        return self._count

    def __getitem__(self, frame: int, /) -> Tensor:
        """float32 [H, W, 3] in 0..1. Raises PictureError where the file has it no more."""
        if not 0 <= frame < len(self):
            raise IndexError(f"frame {frame} of a clip of {len(self)}")
        if not self._reach(frame):
            end = self._first + len(self._held)
            raise PictureError(f"{self._clip.path}: frame {frame} cannot be read, it ends at {end}")
        return as_float([self._held[frame - self._first]])[0, ..., :3]

    def has(self, frame: int) -> bool:
        """Whether the clip goes on as far as there; what was not read yet is read."""
        return 0 <= frame < len(self) and (frame in self._durations or self._reach(frame))

    def durations(self, first: int, stop: int) -> list[Fraction]:
        """Seconds that each frame is shown, as far as the clip goes."""
        return [self._durations[frame] for frame in range(first, stop) if self.has(frame)]

    def _reach(self, frame: int) -> bool:
        if not self._first <= frame <= self._first + len(self._held) + self._most:
            self._first, self._held = max(frame - self._most + 1, 0), []
            self._coming = self._clip.frames(self._first)
        while frame >= self._first + len(self._held):
            picked = next(self._coming, None)
            if picked is None:
                return False
            self._durations[self._first + len(self._held)] = picked.duration
            self._held.append(picked.pixels)
            if len(self._held) > self._most:
                del self._held[0]
                self._first += 1
        return True


def numbers(frames: Frames, begin: int = 0) -> Iterator[int]:
    """The numbers of the frames from `begin` on, as far as the clip goes."""
    for frame in range(begin, len(frames)):
        if isinstance(frames, ReadFrames) and not frames.has(frame):
            return
        yield frame
