"""Pictures under a warm lamp: a domain that the bundled reasoner was not trained on, so that there is
something to adapt to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evlm.request import Request

LAMP = (0.0, 0.4, 0.9)  # what is taken of red, green and blue at full strength


def under_lamp(frames: Tensor, strength: float) -> Tensor:
    """[F, H, W, 3] in 0..1, with less green and far less blue; strength 0 changes nothing."""
    return frames * (1 - strength * torch.tensor(LAMP))


def lit(request: Request, strength: float) -> Request:
    """The request with every picture under the lamp."""
    if not strength:
        return request
    references = tuple(
        each if each.frames is None else replace(each, frames=under_lamp(each.frames, strength))
        for each in request.references
    )
    return replace(request, original=under_lamp(request.original, strength), references=references)
