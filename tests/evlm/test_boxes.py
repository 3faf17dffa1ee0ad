"""Boxes: around a mask, against one another, within a frame; exact numbers."""

from __future__ import annotations

import pytest
import torch

from evlm.boxes import Box, bounding_box, box_iou, clip_corners, share_within


def test_the_box_around_a_mask_is_the_smallest_one() -> None:
    on = torch.zeros(6, 9, dtype=torch.bool)
    assert bounding_box(on) is None
    on[2, 7] = on[4, 3] = True
    assert bounding_box(on) == (3, 2, 8, 5)
    assert bounding_box(on.float() * 0.2) == (3, 2, 8, 5)
    assert bounding_box(torch.ones(6, 9)) == (0, 0, 9, 6)


def test_iou_and_share_of_overlapping_apart_and_empty_boxes() -> None:
    a, b = (0.0, 0.0, 4.0, 2.0), (2.0, 1.0, 6.0, 3.0)
    assert box_iou(a, b) == pytest.approx(2 / 14) and box_iou(a, a) == 1
    assert share_within(a, b) == pytest.approx(1 / 4)
    assert share_within((0.5, 0.5, 1.5, 1.5), a) == 1
    assert box_iou(a, (5.0, 0.0, 7.0, 2.0)) == share_within(a, (4.0, 0.0, 7.0, 2.0)) == 0
    assert box_iou((1.0, 1.0, 1.0, 2.0), a) == share_within((1.0, 1.0, 1.0, 2.0), a) == 0


def test_clipping_keeps_what_lies_in_the_frame() -> None:
    corners = torch.tensor([[-3.0, 1.0, 5.0, 20.0], [30.0, 2.0, 40.0, 4.0]])
    assert clip_corners(corners, height=10, width=16).tolist() == [[0, 1, 5, 10], [16, 2, 16, 4]]


def test_a_box_gives_its_corners_and_grows_to_each_side() -> None:
    box = Box("hat", 0.5, 2, 3, 6, 5)
    assert box.corners == (2, 3, 6, 5)
    assert box.grown(1, 0.5) == (1, 2.5, 7, 5.5)
