"""Which Gaussians touch which tile of 8 x 8 pixels, front to back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .project import Projection

TILE = 8
PAIRS = 1 << 19  # of a Gaussian and a tile, listed at once


@dataclass(frozen=True, eq=False)
class Piece:
    """The lists of some tiles.

    tiles [T]: their numbers, row by row over the whole picture. counts [T]: how many Gaussians touch each.
    rows [M]: those Gaussians, tile after tile, front to back. homes [M]: each one's place in `tiles`.
    """

    tiles: Tensor
    counts: Tensor
    rows: Tensor
    homes: Tensor


class Tiles:
    """The tiles of one picture, with the Gaussians that a projection puts there.

    At most PAIRS pairs (or, in one tile, as many as there are Gaussians) are listed at a time: a picture with
    more is gone through piece by piece, and the pieces are made anew when they are asked for again.
    """

    def __init__(self, seen: Projection, width: int, height: int) -> None:
        self.columns, self.rows = -(-width // TILE), -(-height // TILE)
        with torch.no_grad():
            drawn = seen.drawn.nonzero().flatten()
            # By depth; equal depths in the order of the rows.
            self._order = drawn[torch.sort(seen.depth[drawn], stable=True).indices]
            pixels, reach = seen.pixels[self._order], seen.reach[self._order]
            most = torch.tensor([self.columns, self.rows]).to(pixels)
            zero = torch.zeros_like(most)
            self._low = torch.floor((pixels - reach) / TILE).clamp(zero, most).long()
            self._high = torch.ceil((pixels + reach) / TILE).clamp(zero, most).long()
        self._all: list[Piece] | None = None

    def pieces(self) -> Iterator[Piece]:
        """All tiles that anything touches."""
        if self._all is not None:
            yield from self._all
            return
        whole = (0, 0, self.columns, self.rows)
        if self._count(whole) <= PAIRS:
            self._all = [self._listed(whole)]
            yield from self._all
            return
        yield from self._parts(whole)

    def _parts(self, box: tuple[int, int, int, int]) -> Iterator[Piece]:
        left, top, right, bottom = box
        count = self._count(box)
        if count <= PAIRS or (right - left) * (bottom - top) == 1:
            if count:
                yield self._listed(box)
        elif right - left >= bottom - top:
            middle = (left + right) // 2
            yield from self._parts((left, top, middle, bottom))
            yield from self._parts((middle, top, right, bottom))
        else:
            middle = (top + bottom) // 2
            yield from self._parts((left, top, right, middle))
            yield from self._parts((left, middle, right, bottom))

    def _within(self, box: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
        """The corner [N, 2] and the extent [N, 2] in tiles of every Gaussian inside the box."""
        first = torch.tensor(box[:2], device=self._low.device)
        last = torch.tensor(box[2:], device=self._low.device)
        low = self._low.clamp(first, last)
        return low, self._high.clamp(first, last) - low

    def _count(self, box: tuple[int, int, int, int]) -> int:
        return int(self._within(box)[1].clamp(min=0).prod(-1).sum())

    def _listed(self, box: tuple[int, int, int, int]) -> Piece:
        low, extent = self._within(box)
        counts = extent.clamp(min=0).prod(-1)
        which = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        step = torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]
        wide = extent[which, 0]
        column, row = low[which, 0] + step % wide, low[which, 1] + step // wide
        tile = row * self.columns + column
        # The pairs stand by depth already, and a stable sort keeps that within each tile.
        tile, order = torch.sort(tile, stable=True)
        tiles, homes, per_tile = torch.unique_consecutive(tile, return_inverse=True, return_counts=True)
        return Piece(tiles, per_tile, self._order[which[order]], homes)
