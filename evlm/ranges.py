"""Numbers that are meant to be 0..1: what a filter left a little outside is clamped, the rest refused."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from .errors import PictureError

_UNSEEN = 0.5 / 255  # half a step of 8 bits outside 0..1 is rounding
_log = logging.getLogger(__name__)


def clamped(values: Tensor, name: str, notes: list[str] | None = None) -> Tensor:
    """The numbers as float32 on the CPU within 0..1.

    A blur, an enlargement or a gain leaves some outside: within -1..2 they are clamped. Where that is more
    than half a step of 8 bits it is said: in `notes`, or without them in the log. name: in messages.
    Raises PictureError for NaN, infinity and what lies further out.
    """
    values = values.detach().to("cpu", torch.float32)
    low, high = (float(value) for value in values.aminmax())  # NaN in, NaN out
    if not (low >= -1 and high <= 2):
        remedy = "; divide 8-bit values by 255" if math.isfinite(low) and math.isfinite(high) else ""
        raise PictureError(f"{name}: values {low:g}..{high:g}, expected finite numbers in 0..1{remedy}")
    if low >= 0 and high <= 1:
        return values
    if low < -_UNSEEN or high > 1 + _UNSEEN:
        note = f"{name}: values {low:g}..{high:g} are clamped to 0..1"
        if notes is None:
            _log.warning(note)
        else:
            notes.append(note)
    return values.clamp(0, 1)
