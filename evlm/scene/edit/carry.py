"""A painting of one view carried into another, of another place or time: where the scene says that the same
thing is seen, and nothing else hides it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussians import Gaussians
from ..motion import Motion, posed
from ..raster import rasterize
from .views import EditView

SOLID = 0.5  # alpha from which on there is something to carry to
NEAR = 0.03  # of a depth, by which both views may differ about it


def carry(
    gaussians: Gaussians, motion: Motion | None, painted: EditView, picture: Tensor, view: EditView
) -> tuple[Tensor, Tensor]:
    """(colours [H, W, 3] of `view`, bool [H, W] where they are known).

    picture: [h, w, 3], what was painted in the view `painted`. A pixel's point is where `view` sees the scene
    at its time; how far that has moved since the other's time is the mean way of the Gaussians that the pixel
    shows (rendered flow, exact for the motion). There the painting is read, between its pixels, where its
    camera sees that very point in its mask.
    """
    with torch.no_grad():
        here, there = (posed(gaussians, each.camera, motion) for each in (view, painted))
        seen = rasterize(here, view.camera, channels=there.means - here.means)
        depth = rasterize(there, painted.camera, channels=there.means[:, :1]).depth.cpu().double()
    # On the CPU from here on: MPS knows no doubles.
    alpha, way, near = seen.alpha.cpu(), seen.image.cpu(), seen.depth.cpu()
    rows, columns = ((alpha > SOLID) & view.mask.cpu() & (near > 0)).nonzero().unbind(1)
    pixels = torch.stack([columns, rows], 1).double() + 0.5
    points = view.camera.unproject(pixels, near[rows, columns].double())
    points = points + (way / alpha.clamp(min=SOLID)[..., None])[rows, columns]
    at, far = painted.camera.project(points)
    size = at.new_tensor([painted.camera.width, painted.camera.height])
    inside = (far > 0) & (at >= 0.5).all(1) & (at <= size - 0.5).all(1)
    rows, columns, at, far = rows[inside], columns[inside], at[inside], far[inside]
    x, y = at.floor().long().unbind(1)
    same = (depth[y, x] - far).abs() < NEAR * far
    same &= painted.mask.cpu()[y, x]
    rows, columns, at = rows[same], columns[same], at[same]
    colours, known = torch.zeros_like(view.source), torch.zeros_like(view.mask)
    known[rows, columns] = True
    colours[rows, columns] = _read(picture.cpu(), at).to(colours)
    return colours, known


def _read(picture: Tensor, at: Tensor) -> Tensor:
    """[P, 3] of a picture at pixels [P, 2], half a pixel from its rims at least, linear between middles."""
    low = (at - 0.5).floor()
    share = (at - 0.5 - low).to(picture)
    (x, y), height, width = low.long().unbind(1), *picture.shape[:2]
    right, below = (x + 1).clamp(max=width - 1), (y + 1).clamp(max=height - 1)
    above = torch.lerp(picture[y, x], picture[y, right], share[:, :1])
    return torch.lerp(above, torch.lerp(picture[below, x], picture[below, right], share[:, :1]), share[:, 1:])
