"""Noise and latents, as core makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prepare_noise(latent: Tensor, seed: int) -> Tensor:
    return torch.randn(latent.shape, generator=torch.manual_seed(seed), dtype=latent.dtype)


def fix_empty_latent_channels(model: Any, latent: Tensor) -> Tensor:
    return latent
