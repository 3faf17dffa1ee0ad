"""Where detail is lacking more Gaussians grow, and those that show nothing go."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..camera import Camera
from ..gaussians import Gaussians
from ..raster.project import rotations


@dataclass(frozen=True)
class Growth:
    """When and how a fit grows.

    every: iterations between two times. until: the share of the run in which there is growth. share: of the
    rows, those with the strongest pull on their place in the picture, that get a copy. faint: opacity below
    which a row goes. limit: rows, as a multiple of those at the start.
    """

    every: int = 60
    until: float = 0.7
    share: float = 0.3
    faint: float = 0.02
    limit: float = 2.5

    def now(self, done: int, iterations: int) -> bool:
        """After `done` of `iterations` iterations."""
        return done % self.every == 0 and done < self.until * iterations


def pulled(grad: Tensor, means: Tensor, camera: Camera) -> Tensor:
    """[M], how strongly a loss pulls centres across a camera's picture. grad: [M, 3], by the means. By pixels
    it would be the projection's own gradient; by the means it is the same for every backend."""
    rotation, shift = camera.view[:3, :3].to(grad), camera.view[:3, 3].to(grad)
    depth = (means @ rotation[2] + shift[2]).abs()
    across = (grad @ rotation[:2].T) * depth[:, None] / math.sqrt(camera.fx * camera.fy)
    return across.norm(dim=1)


def grown(
    gaussians: Gaussians, pull: Tensor, growth: Growth, most: int, seed: int
) -> tuple[Tensor, Gaussians]:
    """(bool [M]: the rows that stay, the new rows). pull: [M], how strongly the losses moved each row's
    centre in the pictures. A copy lies within its origin's own size, and is smaller by exp(-.5). most: rows
    afterwards."""
    stays = gaussians.opacities > growth.faint
    if not stays.any():
        stays = torch.ones_like(stays)
    room = min(int(growth.share * len(gaussians)), most - int(stays.sum()))
    ranked = torch.where(stays, pull, -1.0).argsort(descending=True, stable=True)[: max(room, 0)]
    origins = ranked[pull[ranked] > 0].sort().values
    new = gaussians.rows(origins)
    draw = torch.Generator().manual_seed(seed % 2**63)  # of a large seed and its step
    aside = torch.randn(len(origins), 3, generator=draw).to(new.means) * new.scales * 0.7  # in its own axes
    aside = (rotations(new.quats) @ aside[..., None])[..., 0]
    moved = {"means": new.means + aside, "log_scales": new.log_scales - 0.5}
    return stays, Gaussians(**(new.tensors() | moved))
