"""The crop geometry that inference and the training recipe share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.edit.crop import MAX_ASPECT, CropBox, cover, crop_box, extract, extract_mask, restore


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int, frames: int = 1) -> torch.Tensor:
    mask = torch.zeros(frames, height, width)
    mask[:, y0:y1, x0:x1] = 1
    return mask


def test_a_small_object_is_shown_pixel_for_pixel_near_the_best_resolution() -> None:
    box = crop_box(rectangle(64, 64, 20, 20, 42, 44), best_resolution=32, multiple=8)
    assert box == CropBox(x0=15, y0=16, x1=47, y1=48, height=32, width=32)
    assert box.native


def test_a_smaller_object_is_enlarged_and_a_larger_one_reduced() -> None:
    small = crop_box(rectangle(256, 256, 100, 100, 124, 124), best_resolution=64, multiple=8)
    large = crop_box(rectangle(256, 256, 20, 20, 220, 220), best_resolution=64, multiple=8)
    assert small is not None and (small.height, small.width) == (64, 64) and small.x1 - small.x0 == 29
    assert large is not None and (large.height, large.width) == (64, 64) and large.x1 - large.x0 == 240


def test_one_box_holds_the_masks_of_all_frames() -> None:
    mask = torch.cat([rectangle(64, 64, 2, 2, 8, 8), rectangle(64, 64, 50, 52, 60, 62)])
    box = crop_box(mask, best_resolution=64, multiple=8)
    assert box is not None and box.x0 <= 2 and box.y0 <= 2 and box.x1 >= 60 and box.y1 >= 62


def test_an_empty_mask_has_no_box() -> None:
    assert crop_box(torch.zeros(2, 5, 7)) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_mask_in_any_frame_gets_a_box_that_the_model_can_work_in(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    best, multiple = data.draw(st.sampled_from([(32, 8), (64, 8), (512, 64), (64, 16)]))
    context = data.draw(st.sampled_from([1.0, 1.2, 2.0]))
    box = crop_box(rectangle(height, width, x0, y0, x1, y1), context, best, multiple)
    assert box is not None
    assert 0 <= box.x0 <= x0 and x1 <= box.x1 <= width
    assert 0 <= box.y0 <= y0 and y1 <= box.y1 <= height
    assert box.height % multiple == 0 and box.width % multiple == 0
    assert box.height * box.width <= 2.5 * best * best
    assert 1 / (2 * MAX_ASPECT) <= box.width / box.height <= 2 * MAX_ASPECT


@pytest.mark.parametrize("height, width", [(1, 1), (1, 90), (33, 17), (64, 64), (200, 150)])
def test_a_crop_comes_back_in_its_place(height: int, width: int) -> None:
    box = crop_box(rectangle(height, width, 0, 0, width, (height + 1) // 2), 1.0, 64, 8)
    assert box is not None
    frames = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1))
    crop = extract(frames, box)
    assert crop.shape == (1, box.height, box.width, 3) and crop.min() >= 0 and crop.max() <= 1
    back, original = restore(crop, box), frames[:, box.y0 : box.y1, box.x0 : box.x1]
    assert back.shape == original.shape
    assert torch.equal(back, original) == box.native


def test_a_crop_in_the_middle_of_a_large_frame_keeps_its_aspect() -> None:
    for x1, y1 in [(150, 110), (105, 160), (260, 300), (101, 101)]:
        box = crop_box(rectangle(500, 500, 100, 100, x1, y1), best_resolution=64, multiple=8)
        assert box is not None
        seen, real = box.width / box.height, (box.x1 - box.x0) / (box.y1 - box.y0)
        assert abs(seen / real - 1) < 0.13  # a pixel of rounding in the smallest box


def test_a_thin_frame_is_stretched_to_a_workable_size() -> None:
    box = crop_box(torch.ones(1, 1, 4000), best_resolution=512, multiple=64)
    assert box == CropBox(0, 0, 4000, 1, height=256, width=1024)


def test_cells_that_the_mask_touches_are_inside() -> None:
    mask = rectangle(64, 64, 31, 31, 32, 32)
    assert cover(mask, 7, 5).sum() == 1
    assert cover(mask, 128, 128).sum() == 4
    box = CropBox(0, 0, 64, 64, 24, 40)
    assert extract_mask(mask, box).sum() >= 1
