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
    from ..video.clip import Carry, Finished


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
    """What a step has finished, for the one after it, window by window.

    source: gives the frames in order. overlap: so many of those that were read last are kept: the next window
    begins with them. first, frames: those that are there from an earlier run, [n, H, W, 3] from number
    `first` on.
    """

    def __init__(
        self, source: Iterator[Finished], overlap: int = 0, first: int = 0, frames: Tensor | None = None
    ) -> None:
        self._source, self._overlap = source, overlap
        self._first = first
        self._held = [] if frames is None else [frames]
        self.carry: Carry = ()

    def read(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, H, W, 3]."""
        while self._first + sum(map(len, self._held)) < stop:
            finished = next(self._source)
            self._held.append(finished.frames)
            self.carry = finished.carry
            del finished
        whole = self._held[0] if len(self._held) == 1 else torch.cat(self._held)
        begin, end = start - self._first, stop - self._first
        kept = whole[max(end - self._overlap, 0) :].clone()  # a view would keep all of the window
        self._first += len(whole) - len(kept)
        self._held = [kept] if len(kept) else []  # one that is empty would have the next one copied
        return whole[begin:end]

    def tail(self, stop: int) -> Tensor:
        """The last frames before `stop`, at most `overlap`, for a run that goes on from there."""
        return self._held[0][: stop - self._first] if self._held else torch.empty(0)
