"""Edited views to the Gaussians' colours, in closed form: geometry fixed, a picture is linear in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..gaussians import SH_C0, Gaussians
from ..motion import Motion, posed
from ..raster import rasterize
from ..raster.harmonics import colours
from .rows import Rows
from .views import EditView

_NOTHING = 1e-6  # pixels; a row that is seen less keeps its colour


def paint_back(
    rows: Rows,
    views: Sequence[EditView],
    targets: Sequence[Tensor],
    background: Tensor | None,
    sweeps: int,
    motion: Motion | None = None,
) -> None:
    """Moves the selected rows' colours towards what the views are to show.

    targets: [H, W, 3], one a view. A sweep adds to each colour the mean of what is missing in the pixels that
    the Gaussian covers, weighted by how much of them it is: c += sum(w r) / sum(w) over all views (SIRT;
    Gilbert 1972). That is one backward pass a view: the gradient of sum(w r) by a colour is what is asked.
    """
    for _ in range(sweeps):
        whole = rows.whole().detached()
        up = whole.means.new_zeros(len(whole), 3)
        weight = whole.means.new_zeros(len(whole), 1)
        for view, target in zip(views, targets, strict=True):
            missing, seen = _missing(posed(whole, view.camera, motion), view, target, background)
            up += missing
            weight += seen
        change = torch.where(weight > _NOTHING, up / weight.clamp(min=_NOTHING), torch.zeros_like(up))
        with torch.no_grad():
            rows.parameters["sh"][:, 0] += change[rows.index] / SH_C0


def _missing(
    whole: Gaussians, view: EditView, target: Tensor, background: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(sum of w * what is missing [N, 3], sum of w [N, 1]) over the pixels of a view's part."""
    camera = view.close
    shown = colours(whole.sh, whole.means, camera.centre.to(whole.means), whole.degree).detach()
    channels = torch.cat([shown, torch.ones_like(shown[:, :1])], 1).requires_grad_()
    behind = None if background is None else torch.cat([background.to(shown), shown.new_zeros(1)])
    image = rasterize(whole, camera, behind, channels).image
    missing = view.cut(target).to(shown) - image[..., :3].detach()
    wanted = torch.cat([missing, torch.ones_like(missing[..., :1])], -1)
    (found,) = torch.autograd.grad(image, channels, wanted)
    return found[:, :3], found[:, 3:]
