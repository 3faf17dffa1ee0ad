"""Frames on their way through the steps of an edit: those of the file, and those that a step has finished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError
from ..files.selection import as_float

if TYPE_CHECKING:
    from ..files.clip_reader import ClipFile
    from ..video.clip import Finished


class FileFrames:
    """The frames of a clip's file from number `begin` on, read forward; what is behind is forgotten."""

    def __init__(self, clip: ClipFile, begin: int = 0) -> None:
        self._coming = clip.frames(begin)
        self._first = begin
        self._held: list[Tensor] = []

    def read(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, H, W, 3]."""
        return self._span(start, stop)[..., :3]

    def one(self, frame: int) -> Tensor:
        """float32 [H, W, 3], of a frame that was read last."""
        return as_float([self._held[frame - self._first]])[0, ..., :3]

    def opacity(self, start: int, stop: int) -> Tensor | None:
        """[stop - start, H, W, 1] of frames that were read last; None where all is opaque."""
        if self._held[0].shape[-1] == 3:
            return None
        return self._span(start, stop)[..., 3:]

    def _span(self, start: int, stop: int) -> Tensor:
        while self._first + len(self._held) < stop:
            picked = next(self._coming, None)
            if picked is None:
                raise PictureError(
                    f"the clip has only {self._first + len(self._held)} frames now: it was changed while it "
                    "was edited; begin again"
                )
            self._held.append(picked.pixels)
            while self._held and self._first < start:
                del self._held[0]
                self._first += 1
        gone = max(start - self._first, 0)
        del self._held[:gone]
        self._first += gone
        begin = start - self._first
        return as_float(self._held[begin : begin + stop - start])


class FinishedFrames:
    """What a step has finished, for the one after it.

    source: gives the frames in order. first, frames: those that are there from an earlier run, [n, H, W, 3]
    from number `first` on.
    """

    def __init__(self, source: Iterator[Finished], first: int = 0, frames: Tensor | None = None) -> None:
        self._source = source
        self._first = first
        self._held = [] if frames is None else list(frames)
        self.last: Finished | None = None

    def read(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, H, W, 3]."""
        while self._first + len(self._held) < stop:
            self.last = next(self._source)
            self._held += list(self.last.frames)
        del self._held[: max(start - self._first, 0)]
        self._first = max(self._first, start)
        begin = start - self._first
        return torch.stack(self._held[begin : begin + stop - start])

    def tail(self, stop: int, overlap: int) -> Tensor:
        """The last frames before `stop`, at most `overlap`, for a run that goes on from there."""
        at = stop - self._first
        return torch.stack(self._held[max(at - overlap, 0) : at]) if overlap and at else torch.empty(0)
