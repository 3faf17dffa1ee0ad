"""Where a fit begins: one round Gaussian a point, as large as its neighbours leave room for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import SceneError
from ..gaussians import COEFFICIENTS, SH_C0, Gaussians
from ..points import Points

FILL = 0.8  # of the mean distance to the three nearest points
NEIGHBOURS = 3


def from_points(points: Points, degree: int = 0, opacity: float = 0.8, seed: int = 0) -> Gaussians:
    """degree: of the harmonics, the higher ones 0. opacity: .8 suits points on surfaces, 3DGS begins at .1.

    Raises SceneError: no points, an opacity outside 0..1.
    """
    if not len(points):
        raise SceneError(
            "no points to begin with: give a point cloud, or cameras that come with one (COLMAP)"
        )
    if not 0 < opacity < 1:
        raise SceneError(f"opacity {opacity:g}: expected more than 0 and less than 1")
    count, draw = len(points), torch.Generator().manual_seed(seed)
    turned = torch.randn(count, 4, generator=draw) * 0.1
    turned[:, 0] += 1
    sh = torch.zeros(count, COEFFICIENTS[degree], 3)
    sh[:, 0] = (points.colours - 0.5) / SH_C0
    size = (FILL * _room(points.positions)).log().float()
    return Gaussians(
        means=points.positions.clone(),
        log_scales=size[:, None].repeat(1, 3),
        quats=turned,
        logits=torch.full((count,), math.log(opacity / (1 - opacity))),
        sh=sh,
    )


def _room(positions: Tensor) -> Tensor:
    """[P], the mean distance to the nearest neighbours, at least a millionth of the cloud's size."""
    from scipy.spatial import cKDTree

    places = positions.double()
    reach = float((places - places.mean(0)).norm(dim=1).max()) or 1.0
    if len(places) == 1:
        return torch.full((1,), 0.1 * max(float(places.norm()), 1.0), dtype=torch.float64)
    near, _ = cKDTree(places.numpy()).query(places.numpy(), min(NEIGHBOURS + 1, len(places)))
    return torch.from_numpy(near[:, 1:]).mean(1).clamp(min=1e-6 * reach)
