"""Points with colours: what a fit of Gaussians begins with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SceneError


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured point cloud, as COLMAP or a scanner gives it.

    positions: [N, 3] float32, world units. colours: [N, 3] float32 in 0..1. notes: what was dropped or
    guessed on the way, in words.

    Raises SceneError: shapes or types that do not fit, numbers that are not finite.
    """

    positions: Tensor
    colours: Tensor
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.positions)
        for name, tensor in (("positions", self.positions), ("colours", self.colours)):
            if tuple(tensor.shape) != (n, 3) or tensor.dtype != torch.float32:
                raise SceneError(
                    f"{name} is {list(tensor.shape)} {tensor.dtype}, expected [{n}, 3] torch.float32"
                )
            if not torch.isfinite(tensor).all():
                raise SceneError(f"{name} holds numbers that are not finite")

    def __len__(self) -> int:
        return len(self.positions)
