"""Votes -> rows that may change: those mostly inside the masks, without crumbs that lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussians import Gaussians
from .votes import Votes

SHARE = 0.5  # of what a Gaussian fills in the pictures, inside the masks
RIM = 0.2  # from here on it is the rim: partly inside, and frozen all the same
SEEN = 0.05  # pixels in all views, below which nobody has seen it
NEIGHBOURS = 10
CRUMB = 0.02  # of all votes: a group apart from the others that has fewer is dropped


@dataclass(frozen=True, eq=False)
class Selected:
    """rows: bool [N], what an edit may change. rim: bool [N], what lies across the masks' borders; frozen.
    notes: what was left out, in words."""

    rows: Tensor
    rim: Tensor
    notes: tuple[str, ...] = ()


def select_rows(gaussians: Gaussians, votes: Votes, share: float = SHARE) -> Selected:
    """share: how much of a Gaussian must lie inside the masks; more of it is stricter. Rows keep their
    order."""
    known = votes.seen > SEEN
    rows = known & (votes.share > share)
    rim = known & (votes.share > min(RIM, share)) & ~rows
    dropped = rows & ~_whole(gaussians.means, rows, votes.inside)
    notes = [f"view {number} abstained: {why}" for number, why in votes.abstained]
    if dropped.any():
        notes.append(f"{int(dropped.sum())} Gaussians apart from the thing are left out")
    return Selected(rows & ~dropped, rim, tuple(notes))


def _whole(means: Tensor, rows: Tensor, mass: Tensor) -> Tensor:
    """bool [N]: of `rows`, those in groups that hold at least CRUMB of their mass. Two are of one group when
    each is among the other's nearest NEIGHBOURS, so that a stray one joins nobody."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    where = rows.nonzero().flatten()
    count = len(where)
    if count < 2:
        return rows
    points = means[where].detach().cpu().double().numpy()
    _, near = cKDTree(points).query(points, min(NEIGHBOURS + 1, count))
    pairs = torch.from_numpy(near)
    ones = torch.ones(pairs.numel()).numpy()
    at = torch.arange(count).repeat_interleave(pairs.shape[1]).numpy()
    one_way = coo_matrix((ones, (at, pairs.flatten().numpy())), shape=(count, count)).tocsr()
    _, groups = connected_components(one_way.minimum(one_way.T), directed=False)
    group = torch.from_numpy(groups).long().to(mass.device)
    masses = torch.zeros(int(group.max()) + 1, dtype=mass.dtype, device=mass.device)
    masses.index_add_(0, group, mass[where])
    kept = torch.zeros_like(rows)
    kept[where] = masses[group] >= CRUMB * masses.sum()
    return kept
