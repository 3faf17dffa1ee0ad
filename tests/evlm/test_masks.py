from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.errors import PictureError
from evlm.masks import box_mask, feather_inward, fill_holes, grow, union


def blobs(seed: int, height: int = 23, width: int = 31) -> Tensor:
    noise = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[0] > 0.5).float()


def nearest(mask: Tensor, wanted: bool) -> Tensor:
    """The slow, obvious distance of each pixel of [H, W] to the nearest pixel that is (not) on."""
    height, width = mask.shape
    places = ((mask >= 0.5) == wanted).nonzero().float()
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).float()
    return torch.cdist(grid.reshape(-1, 2), places).amin(1).reshape(height, width)


@pytest.mark.parametrize("pixels", [1, 2, 3.5])
@pytest.mark.parametrize("seed", range(3))
def test_growing_shrinking_and_feathering_are_what_the_distances_say(seed: int, pixels: float) -> None:
    mask = blobs(seed)
    to_on, to_off = nearest(mask[0], True), nearest(mask[0], False)
    assert torch.equal(grow(mask, pixels)[0], (to_on <= pixels).float())
    assert torch.equal(grow(mask, -pixels)[0], (to_off > pixels).float())
    soft = feather_inward(mask, pixels)[0]
    assert torch.allclose(soft, torch.where(mask[0] > 0, (to_off / (pixels + 1)).clamp(max=1), 0), atol=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 40), st.integers(1, 9), st.integers(1, 40))
@settings(max_examples=12, deadline=None)
def test_feather_never_leaves_the_mask(seed: int, pixels: float, height: int, width: int) -> None:
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed))
    soft = feather_inward(mask, pixels)
    assert soft.shape == mask.shape and soft.dtype == torch.float32
    assert bool((soft[mask < 0.5] == 0).all()) and bool((soft[mask >= 0.5] > 0).all())
    assert torch.equal(feather_inward(mask, 0), (mask >= 0.5).float())


@given(st.integers(0, 10_000), st.integers(-4, 4))
@settings(max_examples=30, deadline=None)
def test_growing_keeps_order(seed: int, pixels: int) -> None:
    mask = blobs(seed)
    assert bool((grow(mask, pixels) <= grow(mask, pixels + 1)).all())
    assert bool((grow(grow(mask, 2), -2) >= mask).all())  # closing only adds


def test_holes_are_filled_bays_are_not() -> None:
    mask = torch.zeros(1, 9, 9)
    mask[0, 1:8, 1:8] = 1
    mask[0, 3:5, 3:5] = 0.2  # a hole
    mask[0, 6:9, 6] = 0  # a bay, open at the bottom
    filled = fill_holes(mask)
    assert filled[0, 3:5, 3:5].min() == 1
    assert filled[0, 6:9, 6].max() == 0
    assert int(filled.sum()) == int((mask >= 0.5).sum()) + 4
    corner = torch.ones(3, 3)
    corner[1, 1] = corner[0, 0] = 0  # diagonal neighbours do not open a hole
    assert torch.equal(fill_holes(corner), torch.tensor([[0.0, 1, 1], [1, 1, 1], [1, 1, 1]]))


def test_full_and_empty_masks_stay() -> None:
    for value in (0.0, 1.0):
        mask = torch.full((2, 4, 5), value)
        for result in (fill_holes(mask), grow(mask, 3), grow(mask, -3), feather_inward(mask, 3)):
            assert torch.equal(result, mask)


def test_union_and_boxes() -> None:
    assert torch.equal(union(torch.zeros(0, 2, 3, 4)), torch.zeros(2, 3, 4))
    pair = torch.stack([blobs(1), blobs(2)])
    assert torch.equal(union(pair), torch.maximum(pair[0], pair[1]))
    mask = box_mask((1, 2, 4, 6.4), 8, 9)
    assert mask.shape == (8, 9) and int(mask.sum()) == 3 * 4 and mask[2:6, 1:4].min() == 1
    assert box_mask((3, 3, 2, 2), 8, 9).sum() == 0


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(0, 3), torch.zeros(1, 2, 3, 4), torch.full((2, 2), math.nan), torch.full((2, 2), 2.5), "no"],
)
def test_bad_masks_are_refused(mask: Tensor) -> None:
    with pytest.raises(PictureError):
        grow(mask, 1)


def test_negative_feather_is_refused() -> None:
    with pytest.raises(PictureError, match="inside the mask"):
        feather_inward(torch.ones(2, 2), -1)
