"""The rasterizer as its equations stand, in float64: what evlm.scene.raster is held to.

Shares no line with it: full covariances, a loop over pixels and Gaussians (`looped`), and one dense tensor of
all alphas for autograd (`dense`). Run as a script it writes the golden pictures, by `looped`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evlm.scene import Camera, Gaussians


def some(n: int, seed: int = 0, degree: int = 0, dtype: torch.dtype = torch.float32) -> Gaussians:
    """Round the origin, of many shapes and opacities, about a third of a unit large."""
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=draw),
        log_scales=torch.randn(n, 3, generator=draw) * 0.6 - 1.9,
        quats=torch.randn(n, 4, generator=draw),
        logits=torch.randn(n, generator=draw) * 2,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=draw) * 0.4,
    ).to(dtype)


def front(width: int = 32, height: int = 24, focal: float = 30.0, away: float = 4.0) -> Camera:
    """Looks at the origin from `away` units, a little turned, its axis beside the picture's middle."""
    view = torch.eye(4, dtype=torch.float64)
    c, s = math.cos(0.3), math.sin(0.3)
    view[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    view[2, 3] = away
    lens = torch.tensor([[focal, 0, width / 2 + 0.7], [0, focal * 1.1, height / 2 - 0.4], [0, 0, 1]]).double()
    return Camera(view=view, intrinsics=lens, width=width, height=height)


def _harmonics(direction: Tensor) -> list[Tensor]:
    """Degree 0 to 3 by their definition: N P_n^|m|(z) times cos or sin of m phi, Condon-Shortley's sign."""
    x, y, z = direction.unbind(-1)
    # (x + iy)^m without the sine of theta in it: real and imaginary parts.
    power = [(torch.ones_like(x), torch.zeros_like(x))]
    for _ in range(3):
        re, im = power[-1]
        power.append((re * x - im * y, re * y + im * x))
    legendre = {
        (0, 0): torch.ones_like(z), (1, 0): z, (1, 1): -torch.ones_like(z), (2, 0): (3 * z * z - 1) / 2,
        (2, 1): -3 * z, (2, 2): 3 * torch.ones_like(z), (3, 0): (5 * z**3 - 3 * z) / 2,
        (3, 1): -1.5 * (5 * z * z - 1), (3, 2): 15 * z, (3, 3): -15 * torch.ones_like(z),
    }  # fmt: skip
    out = []
    for n in range(4):
        for m in range(-n, n + 1):
            k = abs(m)
            norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - k) / math.factorial(n + k))
            part = power[k][1] if m < 0 else power[k][0]
            out.append((math.sqrt(2) if m else 1) * norm * legendre[n, k] * part)
    return out


def projected(
    g: Gaussians, camera: Camera, channels: Tensor | None, degree: int, antialias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(centres [M, 2], inverse covariances [M, 2, 2], opacities [M], values [M, C], depth [M]), by depth."""
    rotation, shift = camera.rotation, camera.view[:3, 3]
    seen = g.means.double() @ rotation.T + shift
    rows = [i for i in torch.sort(seen[:, 2].detach(), stable=True).indices.tolist() if seen[i, 2] > 0.01]
    g, seen = g.rows(torch.tensor(rows, dtype=torch.long)).to(torch.float64), seen[rows]
    if channels is not None:
        values = channels.double()[rows]
    else:
        direction = g.means - camera.centre
        direction = direction / direction.norm(dim=1, keepdim=True)
        basis = _harmonics(direction)[: (degree + 1) ** 2]
        values = 0.5 + sum(b[:, None] * g.sh[:, k] for k, b in enumerate(basis))
        values = values.clamp(min=0)
    w, x, y, z = (g.quats / g.quats.norm(dim=1, keepdim=True)).unbind(1)
    turn = torch.stack(
        [
            torch.stack([w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z], -1),
        ],
        1,
    )
    covariance = turn @ torch.diag_embed(g.scales**2) @ turn.transpose(1, 2)
    covariance = rotation @ covariance @ rotation.T
    px, py, pz = seen.unbind(1)
    zero = torch.zeros_like(pz)
    bound = [0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy]
    tx = pz * (px / pz).clamp(
        -camera.cx / camera.fx - bound[0], (camera.width - camera.cx) / camera.fx + bound[0]
    )
    ty = pz * (py / pz).clamp(
        -camera.cy / camera.fy - bound[1], (camera.height - camera.cy) / camera.fy + bound[1]
    )
    jacobian = torch.stack(
        [
            torch.stack([camera.fx / pz, zero, -camera.fx * tx / pz**2], -1),
            torch.stack([zero, camera.fy / pz, -camera.fy * ty / pz**2], -1),
        ],
        1,
    )
    flat = jacobian @ covariance @ jacobian.transpose(1, 2)
    blurred = flat + 0.3 * torch.eye(2, dtype=torch.float64)
    opacities = g.opacities.clamp(max=0.99)
    if antialias:
        ratio = torch.linalg.det(flat) / torch.linalg.det(blurred)
        opacities = opacities * ratio.clamp(min=0.005**2).sqrt()
    centres = torch.stack([camera.fx * px / pz + camera.cx, camera.fy * py / pz + camera.cy], 1)
    return centres, torch.linalg.inv(blurred), opacities, values, pz


def looped(
    g: Gaussians,
    camera: Camera,
    background: Tensor | None = None,
    channels: Tensor | None = None,
    degree: int = 0,
    antialias: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(image [H, W, C], alpha [H, W], depth [H, W]) float64."""
    with torch.no_grad():
        found = projected(g, camera, channels, degree, antialias)
    centres, conics, opacities, values, depths = (tensor.tolist() for tensor in found)
    count = found[3].shape[1]
    image = torch.zeros(camera.height, camera.width, count, dtype=torch.float64)
    alphas, depth = image[..., 0].clone(), image[..., 0].clone()
    for row in range(camera.height):
        for column in range(camera.width):
            light, colour, far = 1.0, [0.0] * count, 0.0
            for i, (x, y) in enumerate(centres):
                dx, dy = column + 0.5 - x, row + 0.5 - y
                (a, b), (_, c) = conics[i]
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(0.99, opacities[i] * math.exp(-sigma))
                if alpha < 1 / 255:
                    continue
                if light * (1 - alpha) <= 1e-4:
                    break
                for k in range(count):
                    colour[k] += light * alpha * values[i][k]
                far += light * alpha * depths[i]
                light *= 1 - alpha
            image[row, column] = torch.tensor(colour, dtype=torch.float64)
            alphas[row, column], depth[row, column] = 1 - light, far / max(1 - light, 1e-10)
    if background is not None:
        image = image + (1 - alphas)[..., None] * background.double()
    return image, alphas, depth


def dense(
    g: Gaussians, camera: Camera, channels: Tensor | None = None, degree: int = 0, antialias: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """As `looped`, without background, and differentiable by autograd in what float64 leaves `g` has."""
    centres, conics, opacities, values, depths = projected(g, camera, channels, degree, antialias)
    y, x = torch.meshgrid(
        torch.arange(camera.height).double() + 0.5, torch.arange(camera.width).double() + 0.5, indexing="ij"
    )
    apart = torch.stack([x, y], -1)[None] - centres[:, None, None]
    sigma = 0.5 * torch.einsum("nhwi,nij,nhwj->nhw", apart, conics, apart)
    alpha = (opacities[:, None, None] * torch.exp(-sigma)).clamp(max=0.99)
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    weights = torch.where(light[1:] <= 1e-4, 0, alpha * light[:-1])
    total = weights.sum(0)
    far = torch.einsum("nhw,n->hw", weights, depths) / total.clamp(min=1e-10)
    return torch.einsum("nhw,nc->hwc", weights, values), total, far


GOLDEN = Path(__file__).with_name("golden_pictures.npz")


def golden_scenes() -> dict[str, tuple[Gaussians, Camera, dict[str, Any]]]:
    """Six small scenes with the way in which each is drawn: what GOLDEN holds the pictures of, 16 x 16."""
    near, wide = front(16, 16, focal=18.0), front(16, 16, focal=9.0)
    thin = some(25, 103)
    thin.log_scales[:, 0] += 2.0
    return {
        "plain": (some(40, 101), near, {}),
        "harmonics": (some(40, 102, 3), near, {"degree": 3}),
        "long and thin": (thin, near, {}),
        "small, anti-aliased": (
            replace(some(60, 104), log_scales=some(60).log_scales - 2),
            near,
            {"antialias": True},
        ),
        "wide angle": (some(40, 105), wide, {}),
        "opaque": (replace(some(90, 106), logits=some(90).logits + 4), near, {}),
    }


if __name__ == "__main__":  # from the root: PYTHONPATH=. python tests/evlm/scene/plain_raster.py
    pictures = {
        name: torch.cat([image, alpha[..., None], depth[..., None]], -1).numpy().astype("float16")
        for name, (g, camera, how) in golden_scenes().items()
        for image, alpha, depth in [looped(g, camera, **how)]
    }
    np.savez_compressed(GOLDEN, **pictures)
