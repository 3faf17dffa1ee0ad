"""Values a little outside 0..1, as filters leave them, through the calls that people make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from evlm import Reference, Request
from evlm.edit.masked import composite
from evlm.errors import EVLMError
from evlm.masks import grow

PICTURE = torch.rand(1, 12, 16, 3, generator=torch.Generator().manual_seed(2))


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or its refusal in words."""
    try:
        return call()
    except EVLMError as error:
        return str(error)


def enlarged() -> Tensor:
    """A black and white pattern, enlarged: bicubic overshoots."""
    small = (torch.arange(48).reshape(1, 1, 6, 8) % 2).float().expand(-1, 3, -1, -1)
    large = interpolate(small, scale_factor=4.0, mode="bicubic").movedim(1, -1)
    assert -1 < large.min() < -0.05 and 1.05 < large.max() < 2
    return large


def test_a_picture_that_overshoots_is_clamped_and_it_is_said() -> None:
    """(C21)"""
    for frames in (enlarged(), PICTURE * 1.3 - 0.2):
        request = outcome(lambda frames=frames: Request(frames, "x"))
        assert isinstance(request, Request), request
        assert torch.equal(request.original, frames.clamp(0, 1))
        assert len(request.notes) == 1 and "clamped to 0..1" in request.notes[0]
        reference = outcome(lambda frames=frames: Reference("image", frames))
        assert isinstance(reference, Reference), reference
        assert Request(PICTURE, "x", (reference,)).notes == reference.notes != ()


def test_rounding_is_clamped_without_a_word() -> None:
    """(C21)"""
    frames = PICTURE.clone()
    frames[0, 0, :2, 0] = torch.tensor([1.001, -0.001])
    request = outcome(lambda: Request(frames, "x"))
    assert isinstance(request, Request), request
    assert torch.equal(request.original, frames.clamp(0, 1)) and request.notes == ()


def test_a_blurred_mask_is_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    """(C21)"""
    mask = torch.zeros(1, 12, 16)
    mask[:, 3:9, 4:12] = 1
    soft = mask * (1 + 2.4e-7)
    grown = outcome(lambda: grow(soft, 1))
    assert isinstance(grown, Tensor), grown
    assert torch.equal(grown, grow(mask, 1))
    assert isinstance(outcome(lambda: composite(PICTURE, PICTURE, soft, 0)), Tensor)
    assert not caplog.records
    assert isinstance(outcome(lambda: grow(mask * 1.2, 1)), Tensor)
    assert "mask: values 0..1.2 are clamped to 0..1" in caplog.text


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (PICTURE * 255, "divide 8-bit values by 255"),
        (PICTURE * 2.5, "divide 8-bit values by 255"),
        (PICTURE - 1.5, "expected finite numbers in 0..1"),
        (PICTURE / 0, "expected finite numbers in 0..1"),
        (PICTURE * float("nan"), "expected finite numbers in 0..1"),
    ],
)
def test_what_lies_further_out_is_refused(values: Tensor, reason: str) -> None:
    """(C21)"""
    for call in (
        lambda: Request(values, "x"),
        lambda: Reference("depth", values),
        lambda: grow(values[..., 0], 1),
    ):
        assert reason in str(outcome(call))
