"""A few rigid motions that all moving rows share, each by weights of its own (Wang et al. 2024, Shape of
Motion, arXiv 2407.13764, section 3.1).

x(t) = sum over b of w_b [R_b(t) (x - c_b) + c_b + T_b(t)], and the row's own turn is the bases' mean turn in
front of it. Between keys both are linear, turns by the shorter way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import SceneError
from ..gaussians import Gaussians
from .keys import Keys, carried, fits, moved
from .turns import averaged, matrices, mixed, product

NEAR = 3.0  # of a row's first weights: how fast they fall with the distance, in extents


@dataclass(frozen=True, eq=False)
class RigidBases:
    """centres: [B, 3], about which bases turn. shifts: [B, K, 3], world units. turns: [B, K, 4], quaternions
    of any length > 0. weights: [M, B] of the moving rows, before the softmax. Raises SceneError: shapes that
    do not fit each other."""

    keys: Keys
    moving: Tensor
    centres: Tensor
    shifts: Tensor
    turns: Tensor
    weights: Tensor
    kind: ClassVar[str] = "bases"

    def __post_init__(self) -> None:
        count = len(self.centres) if self.centres.ndim else 0
        k, m = len(self.keys), int(self.moving.sum())
        wanted: dict[str, tuple[int, ...]] = {
            "centres": (count, 3),
            "shifts": (count, k, 3),
            "turns": (count, k, 4),
            "weights": (m, count),
        }
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape or not count:
                raise SceneError(f"the motion's {name} are {list(found)}, expected {list(shape)}")

    @classmethod
    def begin(
        cls, gaussians: Gaussians, moving: Tensor, keys: Keys, count: int = 16, seed: int = 0
    ) -> RigidBases:
        """At rest: centres by k-means on the moving rows' means, weights by how near they are. moving: bool
        [N]. Raises SceneError: nothing moves."""
        points = gaussians.means.detach()[moving]
        if not len(points):
            raise SceneError("nothing of the scene moves: it needs no motion")
        # On the CPU: a card adds up in no fixed order, and a fit that goes on knows its motion by its bits.
        points = points.cpu()
        centres = _means_of(points, min(count, len(points)), seed)
        away = torch.cdist(points, centres)
        spread = float((points - points.mean(0)).norm(dim=1).max()) or 1.0
        rest = torch.zeros(len(centres), len(keys), 4, dtype=points.dtype)
        rest[..., 0] = 1
        made = centres, torch.zeros_like(rest[..., :3]), rest, -NEAR * away / spread
        return cls(keys, moving, *(each.to(gaussians.means.device) for each in made))

    def at(self, gaussians: Gaussians, time: float) -> Gaussians:
        """See Motion."""
        fits(gaussians, self.moving)
        before, after, share = self.keys.between(time)
        turns = mixed(self.turns[:, before], self.turns[:, after], share)
        shifts = torch.lerp(self.shifts[:, before], self.shifts[:, after], share)
        means = gaussians.means[self.moving]
        weights = self.weights.softmax(1)
        # Of each base an affine map, of each row their mean: cheaper than B maps of M rows.
        rotations = matrices(turns)
        places = self.centres + shifts - (rotations @ self.centres[..., None])[..., 0]
        rotation = (weights @ rotations.flatten(1)).unflatten(1, (3, 3))
        means = (rotation @ means[..., None])[..., 0] + weights @ places
        quats = product(averaged(turns, weights), gaussians.quats[self.moving])
        return moved(gaussians, self.moving, means, quats)

    def speed(self) -> Tensor:
        """How far bases go from key to key, in units and in quaternions: a number that a fit keeps small."""
        if len(self.keys) == 1:
            return self.shifts.new_zeros(())
        return self.shifts.diff(dim=1).abs().mean() + F.normalize(self.turns, dim=-1).diff(dim=1).abs().mean()

    def follow(self, last: int) -> None:
        """Keys behind that of number `last` stand where that one stands."""
        for tensor in (self.shifts, self.turns):
            tensor[:, last + 1 :] = tensor[:, last : last + 1]

    def learned(self) -> dict[str, Tensor]:
        return {"shifts": self.shifts, "turns": self.turns, "weights": self.weights}

    def tensors(self) -> dict[str, Tensor]:
        return {"moving": self.moving, "centres": self.centres, **self.learned()}

    def taken(self, home: Tensor) -> RigidBases:
        """See Motion."""
        stays, rows = carried(self.moving, home)
        return RigidBases(self.keys, stays, self.centres, self.shifts, self.turns, self.weights[rows])

    def to(self, target: torch.device | str) -> RigidBases:
        """See Motion."""
        return self.from_tensors(self.keys, {name: each.to(target) for name, each in self.tensors().items()})

    @classmethod
    def from_tensors(cls, keys: Keys, tensors: dict[str, Tensor]) -> RigidBases:
        names = ("moving", "centres", "shifts", "turns", "weights")
        return cls(keys=keys, **{name: tensors[name] for name in names})


def _means_of(points: Tensor, count: int, seed: int, rounds: int = 20) -> Tensor:
    """Lloyd's k-means from rows that lie far apart: [count, 3]."""
    draw = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(points), (1,), generator=draw))
    centres = points[first : first + 1]
    while len(centres) < count:
        farthest = torch.cdist(points, centres).amin(1).argmax()
        centres = torch.cat([centres, points[farthest : farthest + 1]])
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add(0, nearest, points)
        counts = torch.bincount(nearest, minlength=count).to(points)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres
