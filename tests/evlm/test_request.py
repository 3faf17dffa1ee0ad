"""A request is checked once, where it is made, and each refusal says what to do."""

from __future__ import annotations

import pytest
import torch

from evlm.errors import RequestError
from evlm.request import MAX_PROMPT, Reference, Request

PICTURE = torch.rand(1, 5, 7, 3, generator=torch.Generator().manual_seed(0))


def test_a_prompt_or_a_reference_is_enough():
    assert Request(PICTURE, "brighter").references == ()
    reference = Reference("image", torch.rand(1, 300, 20, 3), note="this colour")
    assert Request(PICTURE, references=[reference]).references == (reference,)
    assert Request(PICTURE, "  ", (Reference("text", text="like autumn"),)).prompt == "  "


@pytest.mark.parametrize("prompt", ["", "  \n\t"])
def test_nothing_asked_is_refused(prompt):
    with pytest.raises(RequestError, match="nothing is asked: give a prompt, a reference, or both"):
        Request(PICTURE, prompt)


def test_long_prompts():
    assert len(Request(PICTURE, "é" * 10_000).prompt) == 10_000
    with pytest.raises(RequestError, match=f"at most {MAX_PROMPT:,}"):
        Request(PICTURE, "x" * (MAX_PROMPT + 1))


def test_videos_and_frames_per_second():
    video = PICTURE.expand(4, -1, -1, -1)
    request = Request(video, "slower", (Reference("video", video, fps=8),), fps=24.0)
    assert request.original.shape == (4, 5, 7, 3) and request.references[0].fps == 8
    for fps in (0, -1, float("nan"), float("inf"), 5000, "8", True):
        with pytest.raises(RequestError, match="fps"):
            Request(video, "x", fps=fps)
        with pytest.raises(RequestError, match="fps"):
            Reference("video", video, fps=fps)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (torch.rand(0, 5, 7, 3), "nothing empty"),
        (torch.rand(1, 0, 7, 3), "nothing empty"),
        (torch.rand(5, 7, 3), r"expected \[F, H, W, 3\]"),
        (torch.rand(1, 3, 5, 7), r"expected \[F, H, W, 3\]"),
        (torch.rand(1, 5, 7, 4), r"expected \[F, H, W, 3\]"),
        (torch.zeros(1, 5, 7, 3, dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.full((1, 5, 7, 3), float("nan")), "finite"),
        (torch.full((1, 5, 7, 3), float("inf")), "finite"),
        (torch.full((1, 5, 7, 3), 2.5), "finite numbers in 0..1"),
        (torch.full((1, 5, 7, 3), -1.5), "finite numbers in 0..1"),
        ("a.png", "expected a tensor"),
        (None, "expected a tensor|needs frames"),
    ],
)
def test_bad_frames_are_refused_everywhere(frames, reason):
    with pytest.raises(RequestError, match=reason):
        Request(frames, "x")
    for kind in ("image", "video", "depth"):
        with pytest.raises(RequestError, match=reason):
            Reference(kind, frames)


def test_frames_become_float32_on_the_cpu_and_rounding_noise_is_clamped():
    noisy = PICTURE.double()
    noisy[0, 0, 0, 0] = 1 + 1e-6
    original = Request(noisy.requires_grad_(), "x").original
    assert original.dtype == torch.float32 and original.max() <= 1 and not original.requires_grad
    assert Request(PICTURE.half(), "x").original.dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_sizes_are_accepted(size):
    assert Request(torch.zeros(1, *size, 3), "x").original.shape[1:3] == size


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Reference("audio", PICTURE), "kind 'audio': expected one of image, video, text, depth"),
        (lambda: Reference("text", PICTURE, "words"), "no frames"),
        (lambda: Reference("text", text=" "), "has words"),
        (lambda: Reference("image", PICTURE, text="words"), "say what it is for in `note`"),
        (lambda: Reference("image", PICTURE.expand(2, -1, -1, -1)), "has 1 frame, got 2; use kind 'video'"),
        (lambda: Reference("image", PICTURE, note=3), "expected text, got int"),
        (lambda: Request(PICTURE, None), "expected text, got NoneType"),
        (lambda: Request(PICTURE, "x", [PICTURE]), "expected a sequence of Reference"),
        (lambda: Request(PICTURE, "x", Reference("image", PICTURE)), "expected a sequence of Reference"),
        (lambda: Request(PICTURE, "x", 5), "expected a sequence of Reference"),
        (lambda: Request(PICTURE, "x", None), "expected a sequence of Reference"),
    ],
)
def test_each_refusal_says_why(make, reason):
    with pytest.raises(RequestError, match=reason):
        make()
