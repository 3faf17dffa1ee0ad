"""What latents show, without the model that decodes them."""

from __future__ import annotations

import torch
from torch import Tensor

from .crop import resize


class LatentPreview:
    """Latents [A, C, h, w] as a small picture [A, h, w, 3] in 0..1, without the VAE.

    The linear map from latents to colours is fitted to the original, whose latents [A, C, h, w] and colours,
    crop [A, H, W, 3] in 0..1, are known.
    """

    def __init__(self, original: Tensor, crop: Tensor) -> None:
        colours = resize(crop, *original.shape[-2:]).reshape(-1, 3)
        known = _with_one(original)
        square = known.T @ known + 1e-3 * torch.eye(known.shape[1])
        self.colours = torch.linalg.lstsq(square, known.T @ colours).solution

    def __call__(self, latents: Tensor) -> Tensor:
        count, _, height, width = latents.shape
        return (_with_one(latents) @ self.colours).clamp(0, 1).reshape(count, height, width, 3)


def _with_one(latents: Tensor) -> Tensor:
    """[A, C, h, w] -> [A*h*w, C + 1], float32 on the CPU."""
    cells = latents.float().cpu().movedim(1, -1).flatten(0, 2)
    return torch.cat([cells, cells.new_ones(len(cells), 1)], dim=1)
