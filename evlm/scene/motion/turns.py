"""Unit quaternions w x y z, as many as there are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def product(one: Tensor, other: Tensor) -> Tensor:
    """The turn `other`, then the turn `one`. Both [..., 4], broadcast."""
    a, b, c, d = one.unbind(-1)
    e, f, g, h = other.unbind(-1)
    return torch.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ],
        -1,
    )


def matrices(turns: Tensor) -> Tensor:
    """[..., 4] of any length > 0 -> rotations [..., 3, 3]."""
    w, x, y, z = F.normalize(turns, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def mixed(one: Tensor, other: Tensor, share: float) -> Tensor:
    """From one to the other by the shorter way, normalised; `share` 0 is one. [..., 4]."""
    one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
    sign = torch.where((one * other).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return F.normalize((1 - share) * one + share * sign * other, dim=-1)


def averaged(turns: Tensor, weights: Tensor) -> Tensor:
    """turns: [B, 4] of length 1. weights: [M, B]. [M, 4] of length 1: the mean, on the side of each row's
    heaviest."""
    lead = turns[weights.detach().argmax(1)]
    sign = torch.where(lead @ turns.T < 0, -1.0, 1.0)
    return F.normalize((weights * sign) @ turns, dim=-1)
