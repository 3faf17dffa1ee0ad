"""Paint that takes on the shade of its surroundings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.edit import seamless as module
from evlm.edit.masked import put_back, work_on
from evlm.edit.protocol import EditSettings
from evlm.edit.seamless import GRID, MOST, membrane


def seamless(paint: torch.Tensor, original: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    return module.seamless(paint[None], original[None], inside[None])[0]


def box(height: int, width: int, y0: int, y1: int, x0: int, x1: int) -> torch.Tensor:
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[y0:y1, x0:x1] = True
    return inside


def solved(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The oracle of `membrane`: one equation a cell, all written out."""
    channels, height, width = values.shape
    left = torch.zeros(height, width, height, width, dtype=torch.float64)
    right = torch.zeros(height, width, channels, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            if known[y, x]:
                left[y, x, y, x], right[y, x] = 1, values[:, y, x].double()
                continue
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= b < height and 0 <= a < width:
                    left[y, x, y, x] += 1
                    left[y, x, b, a] -= 1
    cells = height * width
    found = torch.linalg.solve(left.reshape(cells, cells), right.reshape(cells, channels))
    return found.T.reshape(channels, height, width)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**31 - 1))
def test_in_the_membrane_each_cell_is_its_neighbours_mean(height: int, width: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    values = torch.rand(2, height, width, generator=chance)
    known = torch.rand(height, width, generator=chance) < 0.4
    inside = torch.rand(height, width, generator=chance) < 0.3
    found = membrane(values, known, inside)
    fixed = known & ~inside
    if not fixed.any():
        assert (found == 0).all()
        return
    assert torch.allclose(found.double(), solved(values, fixed), atol=1e-5)


def test_a_shade_that_grows_across_the_picture_is_met_to_half_a_grey_level() -> None:
    ys, xs = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    original = 0.5 + 0.04 * torch.stack([(xs - 24) / 24, (ys - 24) / 24, (xs + ys - 48) / 48], -1)
    inside = box(48, 48, 14, 34, 14, 34)
    found = seamless(torch.full((48, 48, 3), 0.5), original, inside)
    # Not to the bit: beside the mask a difference is softened from one side alone.
    assert (found - original)[inside].abs().max() < 0.5 / 255
    assert (torch.full((48, 48, 3), 0.5) - original)[inside].abs().max() > 0.01


@pytest.mark.parametrize("size", [40, 64, 256])
def test_what_is_new_inside_stays_but_for_the_shade(size: int) -> None:
    chance = torch.Generator().manual_seed(1)
    truth = 0.2 + 0.6 * torch.rand(size, size, 3, generator=chance)
    quarter = size // 4
    inside = box(size, size, quarter, 3 * quarter, quarter, 3 * quarter)
    found = seamless(truth - 0.03, torch.where(inside[..., None], 0.9, truth), inside)
    assert torch.allclose(found[inside], truth[inside], atol=1e-5)


def test_surroundings_that_were_painted_anew_say_nothing() -> None:
    original = torch.full((32, 32, 3), 0.3)
    inside = box(32, 32, 8, 24, 8, 24)
    assert torch.equal(
        seamless(torch.full_like(original, 0.3 + MOST + 0.01), original, inside),
        torch.full_like(original, 0.3 + MOST + 0.01),
    )
    half = torch.full_like(original, 0.32)
    half[:16] = 0.9
    found = seamless(half, original, inside)
    assert torch.allclose(found[16:][inside[16:]], torch.tensor(0.3), atol=1e-4)
    assert torch.allclose(found[:16][inside[:16]], torch.tensor(0.88), atol=1e-4)


def test_without_surroundings_and_without_a_mask_the_paint_stays() -> None:
    paint, original = torch.rand(9, 9, 3), torch.rand(9, 9, 3)
    everything = torch.ones(9, 9, dtype=torch.bool)
    assert torch.equal(seamless(paint, original, everything), paint)
    assert torch.equal(seamless(paint, original, ~everything), paint)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 200), (3, 5), (GRID, GRID + 1), (130, 500)])
def test_any_size_goes_and_colours_stay_in_range(height: int, width: int) -> None:
    chance = torch.Generator().manual_seed(height)
    original = torch.rand(height, width, 3, generator=chance)
    paint = (original + 0.05 * torch.randn(height, width, 3, generator=chance)).clamp(0, 1)
    inside = torch.rand(height, width, generator=chance) < 0.5
    found = seamless(paint, original, inside)
    assert found.shape == paint.shape and found.min() >= 0 and found.max() <= 1
    assert (found - paint).abs().max() <= MOST + 1e-6


def test_an_edit_has_it_unless_it_is_told_otherwise() -> None:
    frames = torch.full((2, 64, 64, 3), 0.5)
    mask = torch.zeros(2, 64, 64)
    mask[:, 20:44, 20:44] = 1
    (work,) = work_on(frames, mask, 64, 64, 8)
    paint = torch.full((2, work.box.height, work.box.width, 3), 0.47)
    assert EditSettings().seamless
    for wanted, shade in ((True, 0.5), (False, 0.47)):
        result = put_back(frames, work, paint, 0, seamless=wanted)
        assert torch.allclose(result[mask > 0], torch.tensor(shade), atol=1e-5)
        assert torch.equal(result[mask == 0], frames[mask == 0])
