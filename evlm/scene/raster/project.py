"""Gaussians of space -> Gaussians of the picture (EWA splatting, Zwicker et al. 2001; 3DGS section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..camera import Camera

BLUR = 0.3  # pixels^2, added to every covariance: nothing is thinner than the grid can show
NEAR = 0.01  # world units; what is nearer, or behind the camera, is not drawn
ALPHA_MIN = 1 / 255  # a Gaussian that covers less of a pixel is skipped there
LOGIT_MAX = 4.59  # just below that opacity, in float32 too: beyond it nothing pulls any more
OPACITY_MAX = 0.99  # more would make gradients through what lies in front blow up
REACH = 3.33  # standard deviations at which even an opacity of 1 has fallen to ALPHA_MIN


@dataclass(frozen=True, eq=False)
class Projection:
    """What a camera sees of N Gaussians.

    pixels [N, 2]: their centres. conics [N, 3]: the inverse covariances' xx, xy, yy, in 1/pixels^2.
    depth [N]: along the camera's axis. opacities [N]: at most OPACITY_MAX; thinned where anti-aliasing asks.
    reach [N, 2]: pixels in x and y beyond which nothing is seen. drawn [N]: whether anything may be seen.
    The first four carry gradients.
    """

    pixels: Tensor
    conics: Tensor
    depth: Tensor
    opacities: Tensor
    reach: Tensor
    drawn: Tensor


def rotations(quats: Tensor) -> Tensor:
    """quats [N, 4] w x y z of any length -> [N, 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def project(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, camera: Camera, antialias: bool
) -> Projection:
    """means, scales [N, 3], quats [N, 4], opacities [N] in 0..1."""
    view = camera.view.to(means)
    seen = means @ view[:3, :3].T + view[:3, 3]
    axes = (view[:3, :3] @ rotations(quats)) * scales[:, None, :]  # columns: the ellipsoid's axes, as seen
    x, y, z = seen.unbind(-1)
    front = z > NEAR
    z = torch.where(front, z, torch.ones_like(z))
    fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
    across, down = x / z, y / z
    # Far outside the picture the projection is linearised at its border: there it would stretch without end.
    left, top, width, height = camera.part_of or (0, 0, camera.width, camera.height)
    row_x = (fx / z)[:, None] * (axes[:, 0] - _kept(across, cx + left, fx, width)[:, None] * axes[:, 2])
    row_y = (fy / z)[:, None] * (axes[:, 1] - _kept(down, cy + top, fy, height)[:, None] * axes[:, 2])
    xx, xy, yy = (row_x * row_x).sum(-1), (row_x * row_y).sum(-1), (row_y * row_y).sum(-1)
    # The determinant as a sum of squares: xx * yy - xy * xy loses all digits of a long thin Gaussian.
    sharp = torch.linalg.cross(row_x, row_y).square().sum(-1)
    whole = sharp + BLUR * (xx + yy) + BLUR * BLUR
    xx, yy = xx + BLUR, yy + BLUR
    conics = torch.stack([yy / whole, -xy / whole, xx / whole], -1)
    pixels = torch.stack([fx * across + cx, fy * down + cy], -1)
    opacities = opacities.clamp(max=OPACITY_MAX)
    if antialias:
        opacities = opacities * (sharp / whole).clamp(min=0.005**2).sqrt()
    with torch.no_grad():
        far = (2 * (255 * opacities).clamp(min=1).log()).sqrt().clamp(max=REACH)
        reach = (far[:, None] * torch.stack([xx, yy], -1).sqrt()).ceil()
        size = torch.tensor([camera.width, camera.height]).to(pixels)
        inside = ((pixels + reach > 0) & (pixels - reach < size)).all(-1)
        drawn = front & inside & (opacities >= ALPHA_MIN) & torch.isfinite(conics).all(-1)
        drawn &= torch.isfinite(pixels).all(-1)
    return Projection(pixels, conics, seen[:, 2], opacities, reach, drawn)


def _kept(slope: Tensor, middle: float, focal: float, size: int) -> Tensor:
    """x / z, kept within .3 of half the field of view beyond the picture's borders."""
    margin = 0.3 * 0.5 * size / focal
    return slope.clamp(-middle / focal - margin, (size - middle) / focal + margin)
