"""The frames of a clip's file, one at a time, for what goes through it mostly forward: a tracker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..errors import PictureError
from ..files.selection import as_float

if TYPE_CHECKING:
    from ..files.clip_reader import ClipFile
    from ..files.selection import Picked

HELD = 32  # frames that are kept; what goes backward reads so many again at once


class Frames(Protocol):
    """What is tracked through: a tensor [F, H, W, 3] in 0..1, or a `ReadFrames`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """F, H, W, 3."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> Tensor:
        """[H, W, 3]."""


class ReadFrames:
    """The frames of a clip, of which no more than `held` are in memory."""

    def __init__(self, clip: ClipFile, held: int = HELD) -> None:
        self._clip, self._most = clip, held
        self._coming: Iterator[Picked] = clip.frames()
        self._first = 0
        self._held: list[Tensor] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._clip.count, self._clip.height, self._clip.width, 3)

    def __len__(self) -> int:
        return self._clip.count

    def __getitem__(self, frame: int, /) -> Tensor:
        """float32 [H, W, 3] in 0..1. Raises PictureError where the file has it no more."""
        if not 0 <= frame < len(self):
            raise IndexError(f"frame {frame} of a clip of {len(self)}")
        if frame < self._first:
            self._first, self._held = max(frame - self._most + 1, 0), []
            self._coming = self._clip.frames(self._first)
        while frame >= self._first + len(self._held):
            picked = next(self._coming, None)
            if picked is None:
                end = self._first + len(self._held)
                raise PictureError(f"{self._clip.path}: frame {frame} cannot be read, it ends at {end}")
            self._held.append(picked.pixels)
            if len(self._held) > self._most:
                del self._held[0]
                self._first += 1
        return as_float([self._held[frame - self._first]])[0, ..., :3]
