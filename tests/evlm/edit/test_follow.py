"""The crop that goes with a mask through a clip, and the rim that does not crawl."""

from __future__ import annotations

from dataclasses import replace

import tiny_ip2p
import torch
from torch import Tensor

from evlm.edit.crop import crop_box
from evlm.edit.follow import follow, smooth, track_of
from evlm.edit.ip2p import IP2P
from evlm.edit.masked import fade, put_back, smoothed, work_on
from evlm.edit.protocol import EditSettings

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)


def moving(count: int, step: int, side: int = 12, size: int = 128, y: int = 40) -> Tensor:
    """A square of `side` pixels that goes right by `step` pixels a frame, bool [count, size, size]."""
    on = torch.zeros(count, size, size, dtype=torch.bool)
    for frame in range(count):
        on[frame, y : y + side, 4 + step * frame : 4 + step * frame + side] = True
    return on


def test_a_thing_that_crosses_the_picture_is_shown_as_large_as_in_one_frame() -> None:
    on = moving(13, 6, side=24)
    boxes = follow(track_of(on), 128, 128, 1.2, 32, 8, 2)
    alone = crop_box(on[:1], 1.2, 32, 8)
    union = crop_box(on, 1.2, 32, 8)
    assert alone is not None and union is not None
    assert {(box.x1 - box.x0, box.height) for box in boxes} == {(alone.x1 - alone.x0, alone.height)}
    assert union.x1 - union.x0 > 2 * (boxes[0].x1 - boxes[0].x0)
    assert all((box.x0 - boxes[0].x0) % 2 == 0 for box in boxes[3:-3])  # in whole latent cells
    for frame, box in enumerate(boxes[3:-3], 3):  # away from the picture's edges it stays in the middle
        assert abs((box.x0 + box.x1) / 2 - (4 + 6 * frame + 12)) <= 1.5


def test_a_trembling_mask_does_not_shake_the_crop() -> None:
    on = torch.stack([moving(1, 0, y=60 + (-1) ** frame)[0] for frame in range(12)])
    boxes = follow(track_of(on), 128, 128, 1.2, 32, 8, 2)
    assert len(set(boxes[4:-4])) == 1 and max(abs(box.y0 - boxes[5].y0) for box in boxes) <= 1


def test_a_cut_and_an_absence_end_the_smoothing() -> None:
    on = moving(8, 0)
    on[4:] = on[4:].flip(-1)
    on[2] = False
    boxes = follow(track_of(on), 128, 128, 1.2, 32, 8, 2)
    assert len(boxes) == 7 and len(set(boxes[:3])) == len(set(boxes[3:])) == 1 and boxes[0] != boxes[3]


def test_a_steady_motion_is_not_held_back_at_its_ends() -> None:
    line = torch.arange(9, dtype=torch.float64) * 3.5
    assert torch.allclose(smooth(line), line)
    assert float(smooth((torch.arange(9) % 2).double())[4].sub(0.5).abs()) < 0.1


def test_what_is_painted_comes_back_where_it_was_in_every_frame() -> None:
    frames, on = torch.rand(8, 128, 128, 3), moving(8, 9, side=24)
    (work,) = work_on(frames, on.float(), 32, 64, 8, cell=2)
    assert work.box.native and len(set(work.boxes)) > 4
    assert torch.equal(put_back(frames, work, work.crop), frames)
    result = put_back(frames, work, torch.ones_like(work.crop), feather=0)
    assert torch.equal(result == 1, on[..., None].expand_as(result))


def test_outside_a_moving_mask_every_bit_stays(editor: IP2P) -> None:
    frames, on = tiny_ip2p.frames(5, 96, 96), moving(5, 15, size=96)
    edited = editor.edit(frames, "make it red", on.float(), replace(QUICK, feather=2))
    assert torch.equal(edited.frames[~on], frames[~on])
    assert bool((edited.frames != frames).any(-1)[on].all())


def test_each_frame_is_the_single_picture_of_its_own_crop(editor: IP2P) -> None:
    """The same noise in every frame: a thing that moves by whole cells through a flat picture looks alike."""
    frames = torch.full((6, 96, 96, 3), 0.5)
    crops = editor.edit(frames, "make it red", moving(6, 12, size=96).float(), QUICK).crops
    assert torch.allclose(crops, crops[:1].expand_as(crops), atol=1e-5)


def test_the_rim_of_a_trembling_mask_stands_still() -> None:
    on = moving(9, 0, side=60, y=30)
    on[4, 30:90, 63] = False  # one column of one frame flickers away, and one row of another in
    on[6, 90, 4:64] = True
    which = torch.arange(9)
    steady = smoothed(on, which)
    assert torch.equal(steady[4], on[0]) and torch.equal(steady[6], on[0])
    alphas = torch.stack([fade(on[at], 4, steady[at]) for at in range(9)])
    assert torch.equal(alphas[4][on[4]], alphas[3][on[4]]) and not alphas[4][~on[4]].any()
    assert torch.equal(alphas[6][on[0]], alphas[5][on[0]])
    assert (alphas[6][on[6] & ~on[0]] == 1 / 5).all()


def test_a_mask_that_moves_or_stands_is_smoothed_into_itself() -> None:
    for on in (moving(6, 0), moving(6, 3), moving(6, 20)):  # even where no two frames overlap
        assert torch.equal(smoothed(on, torch.arange(6)), on)
    on = moving(6, 20)
    assert torch.equal(smoothed(on[[0, 2, 4]], torch.tensor([0, 2, 4])), on[[0, 2, 4]])
