"""Times at which a motion is known, and what every motion answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians

if TYPE_CHECKING:
    from typing_extensions import Self


class Motion(Protocol):
    """Gaussians as they lie at rest -> as they lie at a time.

    kind: its name in a file. keys: when it is known. moving: bool [N], the rows that it moves; all others
    keep their bits at every time.
    """

    @property
    def kind(self) -> str: ...

    @property
    def keys(self) -> Keys: ...

    @property
    def moving(self) -> Tensor: ...

    def at(self, gaussians: Gaussians, time: float) -> Gaussians:
        """The same rows at a time in 0..1, differentiable in the Gaussians and in what the motion learns.
        Raises SceneError: other Gaussians than the motion is of."""

    def taken(self, home: Tensor) -> Motion:
        """Of a scene whose rows were once those that home, int64 [M], says; -1 is a new one, which stands
        still."""

    def to(self, target: torch.device | str) -> Motion:
        """On another device; the keys stay where they are."""

    def learned(self) -> dict[str, Tensor]:
        """What a fit moves, by name."""

    def tensors(self) -> dict[str, Tensor]:
        """All that a file has to hold beside the keys."""


class Learned(Motion, Protocol):
    """A motion that a fit can learn."""

    def speed(self) -> Tensor:
        """How fast and unevenly it goes: a number that a fit keeps small."""

    def follow(self, last: int) -> None:
        """Keys behind that of number `last` are as that one is."""

    @classmethod
    def from_tensors(cls, keys: Keys, tensors: dict[str, Tensor]) -> Self: ...


@dataclass(frozen=True, eq=False)
class Keys:
    """times: float64 [K], rising, in 0..1; between two of them a motion is linear, before the first and
    behind the last it stands still. Raises SceneError."""

    times: Tensor

    def __post_init__(self) -> None:
        times = self.times
        if times.ndim != 1 or not len(times) or times.dtype != torch.float64:
            raise SceneError(
                f"times are {list(times.shape)} {times.dtype}, expected float64 [K], K of 1 or more"
            )
        if not torch.isfinite(times).all() or float(times[0]) < 0 or float(times[-1]) > 1:
            raise SceneError(f"times from {float(times[0]):g} to {float(times[-1]):g}, expected within 0..1")
        if bool((times.diff() <= 0).any()):
            at = int((times.diff() <= 0).nonzero()[0, 0]) + 1
            raise SceneError(f"time {at} is {float(times[at]):g}, not later than the one before it")

    @classmethod
    def even(cls, count: int) -> Keys:
        """`count` of them, from 0 to 1."""
        return cls(torch.linspace(0, 1, count, dtype=torch.float64) if count > 1 else torch.zeros(1).double())

    def __len__(self) -> int:
        return len(self.times)

    def between(self, time: float) -> tuple[int, int, float]:
        """The keys around a time and how far it is on the way from one to the other, 0..1. Raises
        SceneError: a time that is none."""
        if not 0 <= time <= 1:
            raise SceneError(f"time {time:g}: expected 0 to 1")
        last = len(self) - 1
        after = int(torch.searchsorted(self.times, torch.tensor(time, dtype=torch.float64), right=True))
        if after == 0 or after > last:
            at = min(after, last)
            return at, at, 0.0
        one, other = float(self.times[after - 1]), float(self.times[after])
        return after - 1, after, (time - one) / (other - one)


def fits(gaussians: Gaussians, moving: Tensor) -> None:
    """Raises SceneError: a motion of other Gaussians."""
    if len(gaussians) != len(moving):
        raise SceneError(f"the motion is of {len(moving)} Gaussians, the scene has {len(gaussians)}")


def carried(moving: Tensor, home: Tensor) -> tuple[Tensor, Tensor]:
    """(bool [M], which rows of a scene move whose rows were those that `home` says; of each of these its
    number among the moving ones before)."""
    if not len(moving):
        return home >= 0, home
    stays = (home >= 0) & moving[home.clamp(min=0)]
    return stays, (moving.cumsum(0) - 1)[home[stays]]


def posed(gaussians: Gaussians, camera: Camera, motion: Motion | None) -> Gaussians:
    """The Gaussians as they lie when a camera sees them; without its time, at the beginning."""
    return gaussians if motion is None else motion.at(gaussians, camera.time or 0.0)


def moved(gaussians: Gaussians, moving: Tensor, means: Tensor, quats: Tensor) -> Gaussians:
    """The moving rows [M] with these means and quaternions; the others have the very bits they had."""
    where = moving.nonzero().flatten()
    return Gaussians(
        means=gaussians.means.index_put((where,), means),
        log_scales=gaussians.log_scales,
        quats=gaussians.quats.index_put((where,), quats),
        logits=gaussians.logits,
        sh=gaussians.sh,
    )
