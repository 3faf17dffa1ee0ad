"""What was tracked through a clip: a mask of each object in each frame, each packed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

CUT = 0.35  # difference of two frames' colour histograms from which they are two shots
_BINS = 8


class Tracks:
    """Masks of N objects in F frames of H x W pixels, packed: one of full HD is two kilobytes or so.

    labels: N names. scores: float32 [N, F], how sure it is that the object is there, 0..1. notes: what
    happened, in words: cuts, objects lost and found.
    """

    def __init__(self, count: int, height: int, width: int) -> None:
        self.count, self.height, self.width = count, height, width
        self.labels: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.scores = torch.zeros(0, count)
        self._bits: list[dict[int, bytes]] = []
        self._new: dict[tuple[int, int], None] = {}

    def __len__(self) -> int:
        return len(self._bits)

    def add(self, label: str) -> int:
        """A new object, nowhere yet; its number."""
        self.labels = (*self.labels, label)
        self.scores = torch.cat([self.scores, torch.zeros(1, self.count)])
        self._bits.append({})
        return len(self._bits) - 1

    def put(self, number: int, frame: int, mask: Tensor, score: float) -> None:
        """mask: bool [H, W]; an empty one says that the object is not there."""
        self.scores[number, frame] = score
        if bool(mask.any()):
            self._bits[number][frame] = zlib.compress(np.packbits(mask.numpy()).tobytes(), 1)
        else:
            self._bits[number].pop(frame, None)
        self._new[number, frame] = None

    def end(self, count: int) -> None:
        """There are only so many frames."""
        self.count, self.scores = count, self.scores[:, :count]

    def news(self) -> list[Any]:
        """[number, frame, score, packed mask or None] of all that was put since the time before."""
        found = [
            [number, frame, float(self.scores[number, frame]), None if bits is None else _tensor(bits)]
            for number, frame in self._new
            for bits in [self._bits[number].get(frame)]
        ]
        self._new.clear()
        return found

    def take(self, news: Iterable[Any]) -> None:
        """What `news` gave, of objects that are there."""
        for number, frame, score, bits in news:
            self.scores[number, frame] = score
            if bits is None:
                self._bits[number].pop(frame, None)
            else:
                self._bits[number][frame] = bits.numpy().tobytes()

    def mask(self, number: int, frame: int) -> Tensor:
        """Bool [H, W]."""
        bits = self._bits[number].get(frame)
        if bits is None:
            return torch.zeros(self.height, self.width, dtype=torch.bool)
        packed = np.frombuffer(zlib.decompress(bits), np.uint8)
        flat = np.unpackbits(packed, count=self.height * self.width).astype(bool)
        return torch.from_numpy(flat).reshape(self.height, self.width)

    def there(self, number: int, frame: int) -> bool:
        """Whether an object has a mask in a frame."""
        return frame in self._bits[number]

    @property
    def present(self) -> Tensor:
        """Bool [N, F]: where an object has a mask."""
        there = torch.zeros(len(self), self.count, dtype=torch.bool)
        for number, frames in enumerate(self._bits):
            there[number, list(frames)] = True
        return there

    @property
    def masks(self) -> Tensor:
        """Float32 [N, F, H, W] of 0 and 1, as a `Segmentation` has them; all of them at once."""
        found = torch.zeros(len(self), self.count, self.height, self.width)
        for number, frames in enumerate(self._bits):
            for frame in frames:
                found[number, frame] = self.mask(number, frame).float()
        return found

    def union(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Bool [stop - start, H, W]: where any object is, in these frames."""
        stop = self.count if stop is None else stop
        together = torch.zeros(stop - start, self.height, self.width, dtype=torch.bool)
        for number, frames in enumerate(self._bits):
            for frame in range(start, stop):
                if frame in frames:
                    together[frame - start] |= self.mask(number, frame)
        return together

    def silhouette(self, frame: int) -> Tensor:
        """Float [H, W] of 0 and 1: where any object is in a frame."""
        return self.union(frame, frame + 1)[0].float()

    def gaps(self, number: int) -> list[tuple[int, int]]:
        """(first, last) frame of each stretch in which an object is away between two in which it is there."""
        there = sorted(self._bits[number])
        return [(a + 1, b - 1) for a, b in pairwise(there) if b > a + 1]


def _tensor(bits: bytes) -> Tensor:
    return torch.frombuffer(bytearray(bits), dtype=torch.uint8)


def colours(frame: Tensor) -> Tensor:
    """The colour histogram of a frame [H, W, 3] in 0..1: [3, 8], each row sums to 1."""
    bins = (frame.float().cpu() * _BINS).long().clamp(0, _BINS - 1).reshape(-1, 3)
    counts = torch.stack([torch.bincount(bins[:, channel], minlength=_BINS) for channel in range(3)])
    return counts / max(len(bins), 1)


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether two histograms of `colours` are two shots': they differ by more than `CUT` (L1, mean of the
    channels)."""
    return float((before - after).abs().sum(1).mean()) > CUT


def match(boxes: Sequence[Tensor], others: Sequence[Tensor], least: float = 0.5) -> list[tuple[int, int]]:
    """Pairs (box, other) that belong together: the assignment with the largest sum of IoU, from `least` on.
    Boxes are [4] tensors, x0 y0 x1 y1."""
    from scipy.optimize import linear_sum_assignment

    from ..boxes import box_iou

    if not boxes or not others:
        return []
    overlap = np.array([[box_iou(_corners(a), _corners(b)) for b in others] for a in boxes])
    rows, columns = linear_sum_assignment(-overlap)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= least]


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box.tolist()
    return x0, y0, x1, y1
