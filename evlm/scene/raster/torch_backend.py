"""The rasterizer in torch alone: any device, any float type, no compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from ..camera import Camera
from .blend import Blend
from .drawn import Drawn
from .project import project
from .tiles import TILE, Tiles


def draw(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    values: Tensor,
    camera: Camera,
    antialias: bool,
) -> Drawn:
    """means, scales [N, 3], quats [N, 4], opacities [N] in 0..1, values [N, C] of any meaning."""
    seen = project(means, quats, scales, opacities, camera, antialias)
    tiles = Tiles(seen, camera.width, camera.height)
    listed = torch.cat([values, seen.depth[:, None], torch.ones_like(seen.depth)[:, None]], 1)
    blended = Blend.apply(seen.pixels, seen.conics, seen.opacities, listed, tiles)
    picture = blended.reshape(tiles.rows, tiles.columns, -1, TILE, TILE).permute(0, 3, 1, 4, 2)
    picture = picture.reshape(tiles.rows * TILE, tiles.columns * TILE, -1)[: camera.height, : camera.width]
    alpha = picture[..., -1]
    depth = picture[..., -2] / alpha.clamp(min=1e-10)
    return Drawn(picture[..., :-2], alpha, depth, seen.pixels, seen.reach, seen.drawn)
