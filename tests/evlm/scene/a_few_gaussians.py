"""Gaussians for the tests of cameras."""

from __future__ import annotations

import torch

from evlm.scene import Gaussians


def some(n: int = 50) -> Gaussians:
    """n small Gaussians around the origin."""
    draw = torch.Generator().manual_seed(n)
    return Gaussians(
        means=torch.randn(n, 3, generator=draw),
        log_scales=torch.randn(n, 3, generator=draw) - 2,
        quats=torch.randn(n, 4, generator=draw),
        logits=torch.randn(n, generator=draw),
        sh=torch.randn(n, 1, 3, generator=draw),
    )
