"""How steady an edited clip of the world is: against its own motion, and against the truth over time."""

from __future__ import annotations

import torch
from torch import Tensor

from evlm.motion.flow import warp

from .clips import Film


def warp_errors(film: Film, frames: Tensor, mask: Tensor) -> dict[int, float]:
    """By frame: how far it is from the one after it along the film's true motion, where that is seen in both;
    mean of squares. frames: [F, H, W, 3] in 0..1. mask: bool [F, H, W], where it is looked at."""
    errors = {}
    for frame in range(len(frames) - 1):
        flow, hidden = film.flow(frame, frame + 1)
        there = torch.from_numpy(flow)[None]
        moved = warp(frames[frame + 1 : frame + 2], there)[0]
        both = mask[frame] & ~torch.from_numpy(hidden)
        both &= warp(mask[frame + 1 : frame + 2, ..., None].float(), there)[0, ..., 0] > 0.99
        if bool(both.any()):
            errors[frame] = float((moved - frames[frame]).square()[both].mean())
    return errors


def flicker(error: Tensor, mask: Tensor) -> float:
    """Standard deviation over time of the mean of an error [F, H, W, 3] in a mask, bool [F, H, W]."""
    means = [each[here].mean(0) for each, here in zip(error, mask, strict=True) if bool(here.any())]
    return float(torch.stack(means).std(0).mean()) if len(means) > 1 else 0.0
