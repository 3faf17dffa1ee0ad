"""Each moving row's own way through the keys: what a sequence of files says, or the freest of motions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import SceneError
from ..gaussians import Gaussians
from .keys import Keys, carried, fits, moved
from .turns import mixed


@dataclass(frozen=True, eq=False)
class Table:
    """means: [K, M, 3] and quats: [K, M, 4] of the moving rows at the keys, in the place of the Gaussians'
    own. Raises SceneError: shapes that do not fit each other."""

    keys: Keys
    moving: Tensor
    means: Tensor
    quats: Tensor
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        k, m = len(self.keys), int(self.moving.sum())
        for name, width in (("means", 3), ("quats", 4)):
            found = tuple(getattr(self, name).shape)
            if found != (k, m, width):
                raise SceneError(f"the motion's {name} are {list(found)}, expected {[k, m, width]}")

    @classmethod
    def of(cls, frames: Sequence[Gaussians], keys: Keys) -> Table:
        """Of scenes whose rows correspond, one a key; rows that never move are the still ones. Raises
        SceneError: other counts, or frames that are not of one scene (another scale, opacity or colour)."""
        if len(frames) != len(keys):
            raise SceneError(f"{len(frames)} frames for {len(keys)} times")
        first = frames[0]
        for number, frame in enumerate(frames):
            if len(frame) != len(first):
                raise SceneError(
                    f"frame {number} has {len(frame)} Gaussians, the first {len(first)}: their rows do not "
                    "correspond"
                )
            for name in ("log_scales", "logits", "sh"):
                if not torch.equal(frame.tensors()[name], first.tensors()[name]):
                    raise SceneError(
                        f"frame {number} has other {name} than the first: only places and turns may change "
                        "from one frame to the next"
                    )
        means = torch.stack([frame.means for frame in frames])
        quats = torch.stack([frame.quats for frame in frames])
        moving = (means != means[0]).any(-1).any(0) | (quats != quats[0]).any(-1).any(0)
        return cls(keys, moving, means[:, moving], quats[:, moving])

    def at(self, gaussians: Gaussians, time: float) -> Gaussians:
        """See Motion. At a key the rows have the very bits of the table."""
        fits(gaussians, self.moving)
        before, after, share = self.keys.between(time)
        if share == 0:
            return moved(gaussians, self.moving, self.means[before], self.quats[before])
        means = torch.lerp(self.means[before], self.means[after], share)
        return moved(gaussians, self.moving, means, mixed(self.quats[before], self.quats[after], share))

    def learned(self) -> dict[str, Tensor]:
        return {"means": self.means, "quats": self.quats}

    def tensors(self) -> dict[str, Tensor]:
        return {"moving": self.moving, **self.learned()}

    def taken(self, home: Tensor) -> Table:
        """See Motion."""
        stays, rows = carried(self.moving, home)
        return Table(self.keys, stays, self.means[:, rows], self.quats[:, rows])

    def to(self, target: torch.device | str) -> Table:
        """See Motion."""
        return self.from_tensors(self.keys, {name: each.to(target) for name, each in self.tensors().items()})

    @classmethod
    def from_tensors(cls, keys: Keys, tensors: dict[str, Tensor]) -> Table:
        return cls(keys, tensors["moving"], tensors["means"], tensors["quats"])
