"""Crop in, composite out: the parts of a masked edit without any model."""

from __future__ import annotations

import torch

from evlm.edit.masked import default_feather, latent_mask, put_back, work_on


def disc(size: int, radius: float) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((ys - size / 2) ** 2 + (xs - size / 2) ** 2) < radius**2).float()[None]


def test_paint_fades_in_from_the_edge_and_never_leaves_the_mask() -> None:
    frames, mask = torch.zeros(1, 64, 64, 3), disc(64, 20)
    (work,) = work_on(frames, mask, 64, 64, 8)
    result = put_back(frames, work, torch.ones(1, work.box.height, work.box.width, 3), feather=3)
    assert (result[mask < 0.5] == 0).all()
    line = result[0, 32, :32, 0]
    assert (line.diff() >= 0).all() and line[31] == 1
    inside = line[line > 0]
    assert torch.allclose(inside[:4], torch.tensor([0.25, 0.5, 0.75, 1.0]), atol=0.1)


def test_without_feather_the_paint_is_exact_up_to_the_edge() -> None:
    frames, mask = torch.rand(1, 64, 64, 3), disc(64, 12)
    (work,) = work_on(frames, mask, 32, 64, 8)
    assert work.box.native
    paint = torch.rand(1, work.box.height, work.box.width, 3)
    result = put_back(frames, work, paint, feather=0)
    window = (0, slice(work.box.y0, work.box.y1), slice(work.box.x0, work.box.x1))
    on = mask[window] > 0
    assert torch.equal(result[window][on], paint[0][on])
    assert torch.equal(result[window][~on], frames[window][~on])


def test_feather_grows_with_the_mask() -> None:
    assert default_feather(disc(64, 12)[0] > 0) == 0
    assert default_feather(disc(512, 150)[0] > 0) == 5


def test_a_latent_cell_that_the_mask_touches_is_painted() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, 31, 33] = 1
    (work,) = work_on(torch.zeros(1, 64, 64, 3), mask, 32, 64, 8)
    cells = latent_mask(work, work.box.height // 2, work.box.width // 2)
    assert cells is not None and cells.sum() >= 1 and set(cells.unique().tolist()) == {0.0, 1.0}


def test_one_mask_serves_all_frames() -> None:
    frames = torch.rand(3, 40, 40, 3)
    (work,) = work_on(frames, disc(40, 10), 32, 32, 8)
    assert work.which.tolist() == [0, 1, 2] and len(work.crop) == 3
