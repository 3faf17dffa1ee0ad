"""A textured square that moves over a still ground: a clip small enough for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def moving(count: int, step: float, noise: int = 0) -> tuple[Tensor, Tensor]:
    """(frames [count, 48, 48, 3], inside bool): a textured square that goes right on a still ground."""
    generator = torch.Generator().manual_seed(noise)
    ground = torch.full((48, 48, 3), 0.4)
    thing = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 6, generator=generator), (16, 16), mode="bicubic"
    )
    frames, inside = ground.expand(count, -1, -1, -1).clone(), torch.zeros(count, 48, 48, dtype=torch.bool)
    for frame in range(count):
        x = 4 + round(step * frame)
        frames[frame, 16:32, x : x + 16] = thing[0].movedim(0, -1).clamp(0, 1)
        inside[frame, 16:32, x : x + 16] = True
    return frames, inside
