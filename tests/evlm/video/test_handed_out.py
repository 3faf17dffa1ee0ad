"""Keyframes out and back: the same clip where nothing was edited, what was edited where it was."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from evlm.errors import PictureError
from evlm.video.handed_out import carry_over, hand_out, one_look

COUNT, SIDE = 20, 64
DURATIONS = [Fraction(1, 24)] * COUNT


@pytest.fixture(scope="module")
def clip() -> tuple[Tensor, Tensor]:
    """(frames, mask): a textured square that goes to the right over noise, away in frames 8 and 9."""
    draw = torch.Generator().manual_seed(0)
    ground = 0.4 + 0.1 * torch.rand(SIDE, SIDE, 3, generator=draw)
    coarse = torch.rand(1, 3, 6, 6, generator=draw)
    square = torch.nn.functional.interpolate(coarse, (24, 24), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    frames, mask = ground.repeat(COUNT, 1, 1, 1), torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        if frame not in (8, 9):
            frames[frame, 20:44, 4 + frame : 28 + frame] = square
            mask[frame, 20:44, 4 + frame : 28 + frame] = 1
    return frames, mask


def test_keyframes_that_come_back_as_they_went_give_the_clip(clip: tuple[Tensor, Tensor]) -> None:
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask)
    assert keys.indices == (0, 7, 10, 19) and keys.times[1] == Fraction(7, 24)
    assert torch.equal(picked, frames[list(keys.indices)])
    carried, _ = carry_over(frames, picked, keys, mask)
    assert torch.equal(carried[mask < 0.5], frames[mask < 0.5])
    assert torch.equal(carried[list(keys.indices)], picked)
    assert (carried - frames).abs()[mask > 0.5].mean() < 0.01


def test_an_edit_goes_with_the_thing_and_stays_in_the_mask(clip: tuple[Tensor, Tensor]) -> None:
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask, 4)
    carried, _ = carry_over(frames, picked.flip(-1), keys, mask, feather=0)  # other colours, everywhere
    assert torch.equal(carried[mask < 0.5], frames[mask < 0.5])
    wanted = frames.flip(-1)
    there = mask > 0.5
    assert (carried - wanted).abs()[there].mean() < 0.02 < (frames - wanted).abs()[there].mean()


def test_keyframes_in_several_shades_come_to_one_look_inside_the_mask(clip: tuple[Tensor, Tensor]) -> None:
    """An editor that sees each alone: each keyframe has a shade of its own, also outside the mask."""
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask, 11)  # more than are evened out at once
    count, inside = len(keys.indices), mask[list(keys.indices)] > 0.5
    shade = (
        0.06 * torch.linspace(-1, 1, count)[torch.randperm(count, generator=torch.Generator().manual_seed(3))]
    )
    edited = (0.8 * picked.flip(-1) + 0.1 + shade[:, None, None, None]).clamp(0, 1)
    given, told = edited.clone(), list[tuple[int, int]]()
    found = one_look(frames, edited, keys, mask, lambda *done: told.append(done))
    assert torch.equal(edited, given) and torch.equal(found[~inside], edited[~inside])
    assert told[0] == (0, count) and told[-1] == (count, count) and told == sorted(told)
    assert {done for done, _ in told} == set(range(count + 1))

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # before the first of them is done
        one_look(frames, edited, keys, mask, cancel, flow=lambda *parts: pytest.fail("it went on"))

    def shades(keyframes: Tensor) -> Tensor:
        apart = keyframes - (0.8 * picked.flip(-1) + 0.1)
        return torch.stack([each[on].mean() for each, on in zip(apart, inside, strict=True)])

    assert float(shades(edited).std()) > 0.03 and float(shades(found).std()) < 0.01
    texture = found - (0.8 * picked.flip(-1) + 0.1) - shades(found)[:, None, None, None]
    assert float(texture.abs()[inside].mean()) < 0.015
    whole = one_look(frames, edited, keys)  # without a mask everywhere
    assert float((whole - edited).abs()[~inside].mean()) > 0.01


def test_keyframes_of_one_look_stay_as_they_are(clip: tuple[Tensor, Tensor]) -> None:
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask)
    assert (one_look(frames, picked, keys, mask) - picked).abs().max() < 0.1
    with pytest.raises(PictureError, match="1 edited keyframes came back of 4"):
        one_look(frames, picked[:1], keys, mask)


def test_a_stretch_without_a_keyframe_stays_and_is_told(clip: tuple[Tensor, Tensor]) -> None:
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask, 1)
    assert keys.indices == (0,)
    carried, notes = carry_over(frames, picked.flip(-1), keys, mask)
    assert torch.equal(carried[10:], frames[10:]) and not torch.equal(carried[:8], frames[:8])
    assert "frames 10 to 19 have no keyframe and stay as they are" in notes


def test_without_a_mask_the_whole_frame_is_carried(clip: tuple[Tensor, Tensor]) -> None:
    frames = clip[0][:1].expand(COUNT, -1, -1, -1)  # nothing moves
    picked, keys, _ = hand_out(frames, DURATIONS)
    assert keys.indices == (0, 16, 19)
    carried, _ = carry_over(frames, 1 - picked, keys)
    assert (carried - (1 - frames)).abs().mean() < 0.01


def test_what_does_not_belong_together_is_refused_by_number(clip: tuple[Tensor, Tensor]) -> None:
    frames, mask = clip
    picked, keys, _ = hand_out(frames, DURATIONS, mask)
    with pytest.raises(PictureError, match=r"3 edited keyframes came back of 4"):
        carry_over(frames, picked[:3], keys, mask)
    with pytest.raises(PictureError, match=r"are 32 x 64, and the clip is 64 x 64"):
        carry_over(frames, picked[:, :, :32], keys, mask)
    with pytest.raises(PictureError, match=r"of 20 frames of 64 x 64, and this one has 19 of 64 x 64"):
        carry_over(frames[:19], picked, keys, mask[:19])
    with pytest.raises(PictureError, match="another clip"):
        carry_over(1 - frames, picked, keys, mask)
    with pytest.raises(PictureError, match="no pixel"):
        hand_out(frames, DURATIONS, torch.zeros_like(mask))
