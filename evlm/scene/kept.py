"""What an edit of a scene kept, read from the two files: rows that were not selected must be there still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import SceneError

if TYPE_CHECKING:
    from .gaussians import Gaussians
    from .moving import LoadedScene

_ODD = 0x9E3779B97F4A7C15  # Fibonacci hashing's (Knuth, TAOCP 3, 6.4)
_MIX = 0x100000001B3  # FNV's 64-bit prime


@dataclass(frozen=True)
class Kept:
    """Rows counted. before, after: of the two scenes. selected: of `before`, what an edit might change.
    lost: rows of `before`, not selected, that `after` does not hold in their order, bit for bit; in order.
    same: selected rows that are there unchanged nevertheless. motion: whether what was found moves as it did.
    """

    before: int
    after: int
    selected: int
    lost: tuple[int, ...]
    same: int
    motion: bool

    @property
    def whole(self) -> bool:
        """Whether nothing but the selection was touched."""
        return not self.lost and self.motion

    @property
    def new(self) -> int:
        """Rows of `after` that `before` does not hold: changed ones, and ones that were added."""
        return self.after - (self.before - self.selected - len(self.lost)) - self.same


def compare(before: LoadedScene, after: LoadedScene, selected: Tensor | None = None) -> Kept:
    """Looks for each row of `before` in `after`. selected: bool [N]; None for no row.

    What a .ply holds besides Gaussians (normals, labels) is compared where both files have it alike. A row is
    looked for behind the one before it, for an edit keeps their order. Raises SceneError: a selection of
    another length, scenes whose harmonics have other degrees.
    """
    count = len(before.gaussians)
    if selected is None:
        selected = torch.zeros(count, dtype=torch.bool)
    if tuple(selected.shape) != (count,) or selected.dtype != torch.bool:
        raise SceneError(
            f"{before.path}: has {count} Gaussians, the selection is {list(selected.shape)} "
            f"{selected.dtype}: give the selection.npz of this scene's edit"
        )
    if before.gaussians.degree != after.gaussians.degree:
        raise SceneError(
            f"{after.path}: harmonics of degree {after.gaussians.degree}, {before.path} has "
            f"{before.gaussians.degree}: no row of one can be a row of the other; give the edit's own file"
        )
    one, other = _rows(before, after)
    chosen = selected.numpy()
    stay = _found(one[~chosen], other)
    lost = np.flatnonzero(~chosen)[stay < 0]
    left = np.ones(len(other), bool)
    left[stay[stay >= 0]] = False
    same = _found(one[chosen], other[left])
    here, there = np.flatnonzero(~chosen)[stay >= 0], stay[stay >= 0]
    return Kept(
        count,
        len(other),
        int(chosen.sum()),
        tuple(lost.tolist()),
        int((same >= 0).sum()),
        _moves_alike(before, after, torch.from_numpy(here), torch.from_numpy(there)),
    )


def _rows(before: LoadedScene, after: LoadedScene) -> tuple[np.ndarray, np.ndarray]:
    """Each scene's rows as uint32 [N, W]."""
    one, other = (_words(each.gaussians) for each in (before, after))
    sources = before.source, after.source
    if sources[0] is None or sources[1] is None or sources[0].rows.dtype != sources[1].rows.dtype:
        return one, other
    besides = [_padded(source.rows) for source in sources if source is not None]
    return np.concatenate([one, besides[0]], 1), np.concatenate([other, besides[1]], 1)


def _words(gaussians: Gaussians) -> np.ndarray:
    parts = [tensor.float().reshape(len(gaussians), -1) for tensor in gaussians.tensors().values()]
    return torch.cat(parts, 1).contiguous().numpy().view(np.uint32)


def _padded(rows: np.ndarray) -> np.ndarray:
    """Structured rows as whole words."""
    flat = np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8).reshape(len(rows), -1)
    return np.ascontiguousarray(np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4)))).view(np.uint32)


def _found(wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 [len(wanted)]: which of `rows` each one is, always behind the last one found; -1 for none."""
    keys = _hashes(rows)
    order = np.argsort(keys, kind="stable")  # of equal rows the first first
    ordered = keys[order]
    mine = _hashes(wanted)
    first, end = (np.searchsorted(ordered, mine, side) for side in ("left", "right"))
    out, last = np.full(len(wanted), -1, np.int64), -1
    for number in np.flatnonzero(first < end):
        among = order[first[number] : end[number]]
        at = int(np.searchsorted(among, last, "right"))
        if at < len(among) and np.array_equal(wanted[number], rows[among[at]]):
            out[number] = last = int(among[at])
    return out


def _hashes(rows: np.ndarray) -> np.ndarray:
    """uint64 [N] of uint32 [N, W]. What is alike by them is compared word for word afterwards."""
    out = np.full(len(rows), _ODD, np.uint64)
    for column in rows.T:
        out = (out ^ column.astype(np.uint64)) * np.uint64(_MIX)
        out ^= out >> np.uint64(29)
    return out


def _moves_alike(before: LoadedScene, after: LoadedScene, here: Tensor, there: Tensor) -> bool:
    """Whether rows `here` of the one move as rows `there` of the other, in all bits."""
    if before.motion is None or after.motion is None:
        return before.motion is after.motion
    one, other = before.motion.taken(here), after.motion.taken(there)
    mine, theirs = one.tensors(), other.tensors()
    return (
        one.kind == other.kind
        and torch.equal(one.keys.times, other.keys.times)
        and mine.keys() == theirs.keys()
        and all(torch.equal(mine[name], theirs[name]) for name in mine)
    )
