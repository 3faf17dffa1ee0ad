"""Behind what is taken away nobody has looked: Gaussians that close the hole, from what lies around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..camera import Camera
from ..gaussians import SH_C0, Gaussians
from ..motion import Motion, posed
from ..raster import rasterize

THIN = 0.8  # alpha below which a pixel shows a hole, or the background
THERE = 0.5  # alpha that has to come in from around it for something to be put there
OPACITY = 0.9  # of a new Gaussian
ROOM = 0.7  # of the distance between two of them, a new one's standard deviation


def closing(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    masks: Sequence[Tensor],
    most: int,
    on_view: Callable[[], None] | None = None,
    motion: Motion | None = None,
) -> Gaussians:
    """At most `most` new Gaussians where views see through the scene.

    gaussians: without what was taken away. masks: bool [H, W], one a camera, where that was seen. In a hole
    opacity, colour and inverse depth are those that are harmonic with the pixels around it (of a plane the
    inverse depth is linear in the picture, so a floor goes on as a floor); where the background would be
    seen, nothing is put. Of all views' points one is kept in each cell of a grid. on_view: called before each
    view.
    """
    points, colours, sizes = [], [], []
    for camera, mask in zip(cameras, masks, strict=True):
        if not len(gaussians):
            break
        if on_view is not None:
            on_view()
        with torch.no_grad():
            drawn = rasterize(posed(gaussians, camera, motion), camera)
        hole = mask.to(drawn.alpha.device) & (drawn.alpha < THIN)
        if not bool(hole.any()):
            continue
        alpha = drawn.alpha
        disparity = alpha / drawn.depth.clamp(min=1e-6) * (drawn.depth > 0)
        filled = _harmonic(torch.cat([drawn.image, disparity[..., None], alpha[..., None]], -1), hole)
        there = hole & (filled[..., 4] > THERE) & (filled[..., 3] > 1e-9)
        if not bool(there.any()):
            continue
        rows, columns = there.nonzero().unbind(1)
        share = filled[rows, columns, 4]
        depth = (share / filled[rows, columns, 3]).cpu().double()
        pixels = torch.stack([columns, rows], 1).cpu().double() + 0.5
        points.append(camera.unproject(pixels, depth))
        colours.append((filled[rows, columns, :3] / share[:, None]).clamp(0, 1).cpu())
        sizes.append(depth / math.sqrt(camera.fx * camera.fy))
    if not points or most < 1:
        return gaussians.rows(torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.means.device))
    kept, cell = _thinned(torch.cat(points), float(torch.cat(sizes).median()), most)
    return balls(gaussians, torch.cat(points)[kept], torch.cat(colours)[kept], ROOM * cell, OPACITY)


def balls(like: Gaussians, points: Tensor, colours: Tensor, size: float, opacity: float) -> Gaussians:
    """Round Gaussians at points [M, 3] with colours [M, 3], of the float type, device and harmonics of
    others. size: their standard deviation."""
    count = len(points)
    sh = like.sh.new_zeros(count, like.sh.shape[1], 3)
    sh[:, 0] = (colours.to(sh) - 0.5) / SH_C0
    turn = like.quats.new_zeros(count, 4)
    turn[:, 0] = 1
    return Gaussians(
        points.to(like.means),
        like.log_scales.new_full((count, 3), math.log(size)),
        turn,
        like.logits.new_full((count,), math.log(opacity / (1 - opacity))),
        sh,
    )


def _harmonic(values: Tensor, hole: Tensor) -> Tensor:
    """[H, W, C], in the hole (bool [H, W]) the mean of the four neighbours everywhere, else as it was; at the
    picture's border of those that are there."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    on = hole.cpu().numpy()
    known = values.detach().cpu().double().numpy()
    height, width = on.shape
    number = np.full(on.shape, -1)
    number[on] = np.arange(on.sum())
    ys, xs = np.nonzero(on)
    right, degree = np.zeros((len(ys), known.shape[-1])), np.zeros(len(ys))
    entries: list[tuple[np.ndarray, np.ndarray]] = []
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = ys + dy, xs + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        me, y, x = np.arange(len(ys))[inside], y[inside], x[inside]
        degree[me] += 1
        unknown = on[y, x]
        entries.append((me[unknown], number[y[unknown], x[unknown]]))
        right[me[~unknown]] += known[y[~unknown], x[~unknown]]
    if on.all():
        return values  # nothing is around it
    left, to = (np.concatenate(each) for each in zip(*entries, strict=True))
    at = np.arange(len(ys))
    matrix = coo_matrix(
        (
            np.concatenate([degree, -np.ones(len(left))]),
            (np.concatenate([at, left]), np.concatenate([at, to])),
        )
    ).tocsc()
    solved = spsolve(matrix, right).reshape(len(ys), -1)
    found = values.detach().clone()
    found[hole] = torch.from_numpy(solved).to(values)
    return found


def _thinned(points: Tensor, cell: float, most: int) -> tuple[Tensor, float]:
    """(numbers of at most `most` points, one of each cell of a grid; the cell's side)."""
    low = points.amin(0)
    while True:
        cells = ((points - low) / cell).long()
        _, where = torch.unique(cells, dim=0, return_inverse=True)
        first = torch.full((int(where.max()) + 1,), len(points), dtype=torch.long)
        first.scatter_reduce_(0, where, torch.arange(len(points)), "amin")
        if len(first) <= most:
            return first.sort().values, cell
        cell *= 1.2
