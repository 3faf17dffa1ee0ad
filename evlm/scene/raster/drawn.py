"""What a backend hands back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """values [H, W, C]: sums over what lies at each pixel, without background. alpha [H, W]. depth [H, W]:
    the mean along the camera's axis, 0 where nothing is. pixels, reach [N, 2], drawn [N]: see Meta."""

    values: Tensor
    alpha: Tensor
    depth: Tensor
    pixels: Tensor
    reach: Tensor
    drawn: Tensor
