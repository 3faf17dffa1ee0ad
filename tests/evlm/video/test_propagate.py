"""Keyframes carried along the motion: which they are, what is carried, what is painted anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from moving_square import moving
from torch import Tensor

from evlm.edit.crop import CropBox
from evlm.edit.masked import Work
from evlm.video.carried import nearness
from evlm.video.propagate import Key, carry, keyframes, spread
from evlm.video.settings import VideoSettings
from evlm.video.windows import Route


def route_of(inside: Tensor) -> Route:
    box = CropBox(0, 0, inside.shape[2], inside.shape[1], inside.shape[1], inside.shape[2])
    frames = inside.flatten(1).any(1).nonzero().flatten().tolist()
    return Route(inside, dict.fromkeys(frames, box))


def squares(*sides: int) -> Tensor:
    on = torch.zeros(len(sides), 32, 32, dtype=torch.bool)
    for frame, side in enumerate(sides):
        on[frame, :side, :side] = True
    return on


def test_keyframes_are_the_ends_the_changes_and_one_in_sixteen() -> None:
    assert keyframes([route_of(squares(*[10] * 40))]) == [0, 16, 32, 39]
    assert keyframes([route_of(squares(*[10] * 5, *[12] * 5))]) == [0, 5, 9]  # 44 % larger
    assert keyframes([route_of(squares(10, 10, 10, 0, 0, 10, 10, 10))]) == [0, 2, 5, 7]
    assert keyframes([route_of(squares(10, 10, 10, 0)), route_of(squares(0, 0, 10, 10))]) == [0, 2, 3]
    route = route_of(squares(0, *[10] * 9))
    assert keyframes([route], 3) == [1, 5, 9] and keyframes([route], 99) == list(range(1, 10))
    assert keyframes([route], (0, 4, 7)) == [4, 7]
    assert keyframes([], "auto") == []


def keys_of(frames: Tensor, inside: Tensor, which: tuple[int, ...]) -> list[Key]:
    return [Key(frames[f], 1 - frames[f], inside[f].float()) for f in which]


def work_of(frames: Tensor, inside: Tensor) -> Work:
    box = CropBox(0, 0, 48, 48, 48, 48)
    return Work((box,) * len(frames), torch.arange(len(frames)), frames, inside)


def test_what_was_painted_goes_with_the_thing() -> None:
    """The truth: the same paint, an inverted thing, in every frame."""
    frames, inside = moving(7, 2)
    work = work_of(frames[1:6], inside[1:6])
    keys = keys_of(frames, inside, (0, 6))
    crops, anew = carry(work, nearness((0, 6), range(1, 6)), keys, None)
    error = (crops - (1 - frames[1:6])).abs().mean(-1)[inside[1:6]]
    assert float(error.mean()) < 0.02 and anew == 0
    still = (torch.stack([keys[0].painted] * 5) - (1 - frames[1:6])).abs().mean(-1)[inside[1:6]]
    assert float(still.mean()) > 0.08  # what it would be without the motion


def test_nearness_is_linear_in_time() -> None:
    assert torch.allclose(nearness((2, 6), [3, 4]), torch.tensor([[0.75, 0.5], [0.25, 0.5]]))
    assert nearness((2,), [3, 9]).tolist() == [[1.0, 1.0]]


class Paints:
    """A painter that remembers what it was asked for, and paints white."""

    video = VideoSettings(window=4)

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def repaint(self, crops: Tensor, keys: Any, begin: Tensor, missing: Tensor, strength: float) -> Tensor:
        self.asked.append((len(crops), len(keys), missing, strength))
        return torch.ones_like(crops)


def test_what_no_keyframe_reaches_is_painted_and_much_of_it_means_all() -> None:
    frames, inside = moving(5, 2)
    masks = inside.clone()
    masks[2, 12:16, :] = inside[2, 16:20, :]  # something more, that was in no keyframe: 20 % of it
    masks[3, 2:16, :] = inside[3, 18:32, :]  # and so much more that all is uncertain
    painter: Any = Paints()
    keys = keys_of(frames, inside, (0, 4))
    crops, anew = carry(work_of(frames[1:4], masks[1:4]), nearness((0, 4), (1, 2, 3)), keys, painter)
    assert anew == 2 and [each[:2] for each in painter.asked] == [(2, 2)]
    _, _, missing, strength = painter.asked[0]
    assert strength == 0.6 and torch.equal(missing[1], masks[3])
    assert 0 < missing[0].sum() < masks[2].sum() and not (missing[0] & ~masks[2]).any()
    assert (crops[1][missing[0]] == 1).all() and not (crops[1][masks[2] & ~missing[0]] == 1).all()


def test_a_rim_that_no_keyframe_reaches_takes_the_paint_beside_it() -> None:
    """Nothing is painted for it, and nothing of the keyframe's surroundings comes in."""
    frames, inside = moving(5, 2)
    masks = inside.clone()
    masks[2, 15], masks[2, 32] = inside[2, 16], inside[2, 31]  # a row above and below: an eighth more
    painter: Any = Paints()
    keys = keys_of(frames, inside, (0, 4))
    keys = [replace(key, painted=torch.where(key.inside[..., None] > 0, key.painted, 9.0)) for key in keys]
    crops, anew = carry(work_of(frames[1:4], masks[1:4]), nearness((0, 4), (1, 2, 3)), keys, painter)
    assert anew == 0 and not painter.asked
    for row, beside in ((15, 16), (32, 31)):
        apart = crops[1, row][masks[2, row]] - (1 - frames[2, beside])[masks[2, row]]
        assert float(apart.abs().max()) < 0.2


def test_specks_that_no_keyframe_reaches_are_not_worth_a_painting() -> None:
    frames, inside = moving(5, 2)
    masks = inside.clone()
    masks[2, 40:42, 40:42] = True  # far from all paint: 1.5 % of the mask
    painter: Any = Paints()
    keys = keys_of(frames, inside, (0, 4))
    crops, anew = carry(work_of(frames[1:4], masks[1:4]), nearness((0, 4), (1, 2, 3)), keys, painter)
    assert anew == 0 and float((crops[1] - (1 - frames[2])).abs().mean(-1)[inside[2]].mean()) < 0.02


def test_paint_spreads_as_pixel_by_pixel() -> None:
    """The oracle: rounds in which each missing pixel takes the mean of those beside it that are known."""
    draw = torch.Generator().manual_seed(1)
    crops = torch.rand(2, 9, 11, 3, generator=draw)
    on, known = (torch.rand(2, 9, 11, generator=draw) < share for share in (0.8, 0.2))
    for reach in (0, 1, 2, 20):
        wanted, there = crops.clone(), known & on
        for _ in range(reach):
            before, seen = wanted.clone(), there.clone()
            for at, y, x in (on & ~seen).nonzero().tolist():
                part = (at, slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
                if seen[part].any():
                    wanted[at, y, x], there[at, y, x] = before[part][seen[part]].mean(0), True
        found, reached = spread(crops, known, on, reach)
        assert torch.equal(reached, there) and torch.allclose(found, wanted, atol=1e-6)
    assert torch.equal(found[~on], crops[~on]) and torch.equal(found[known], crops[known])
