"""The torch rasterizer, forward and backward, against a plain one in the same run: python -m
benchmarks.raster, from the root.

The peer is what one would write first: gsplat's own torch reference for the projection (`pip install gsplat
--no-deps --target DIR`, PYTHONPATH=DIR; without it ours is used and the line says so), then all alphas of all
Gaussians at all pixels at once, by autograd, some rows of pixels at a time so that it fits into memory.
gsplat's reference stops there itself: its compositing needs its CUDA kernels and nerfacc. Turns alternate;
CPU seconds of one thread; the least of the rounds counts. Bars: 80 ms for 3,000 Gaussians at 64 x 64, and
pictures and gradients equal to 1e-3 (in float32 a Gaussian at a threshold may fall on either side).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evlm.scene import Camera, Gaussians
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.raster import rasterize
from evlm.scene.raster.blend import LIGHT_MIN
from evlm.scene.raster.project import ALPHA_MIN, OPACITY_MAX, project

CASES = ((1000, 64), (3000, 64), (1000, 128), (3000, 128), (10_000, 128), (3000, 256), (10_000, 256))
BAR_MS = 80.0
AT_ONCE = 8_000_000  # alphas of the peer at a time


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument(
        "--most", type=int, default=60_000_000, help="alphas, beyond which the peer sits out"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    theirs = gsplats_projection()
    whose = "gsplat's torch" if theirs else "our own"
    print(f"peer: {whose} projection, then all alphas at once, by autograd")
    good = True
    for count, size in CASES:
        g, camera = shell(count), camera_of(size)
        turns: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"ours": lambda: ours(g, camera)}  # noqa: B023
        if count * size * size <= given.most:
            turns["peer"] = lambda: peer(g, camera, theirs)  # noqa: B023
            (picture, grad), (plain, slope) = turns["ours"](), turns["peer"]()
            off = max(float((picture - plain).abs().max()), float((grad - slope).norm() / slope.norm()))
            good &= off <= 1e-3
        best = dict.fromkeys(turns, float("inf"))
        for number in range(given.rounds):
            for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
                began = time.process_time()
                turns[name]()
                best[name] = min(best[name], time.process_time() - began)
        line = f"{count:6} Gaussians, {size:3} x {size:3}: {best['ours'] * 1e3:7.1f} ms"
        if "peer" in best:
            line += (
                f", peer {best['peer'] * 1e3:8.1f} ms, ratio {best['ours'] / best['peer']:.3f}, off {off:.1e}"
            )
        print(line, flush=True)
        if (count, size) == (3000, 64):
            good &= best["ours"] * 1e3 <= BAR_MS
    return 0 if good else 1


def shell(count: int) -> Gaussians:
    """Opaque and clear, long and round ones on a sphere: as a fitted surface is, each where it is needed."""
    draw = torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    size = torch.randn(count, 3, generator=draw) * 0.4 - 2.2 - 0.5 * torch.log(torch.tensor(count / 1000))
    g = Gaussians(
        means=way,
        log_scales=size,
        quats=torch.randn(count, 4, generator=draw),
        logits=torch.randn(count, generator=draw) + 1.4,
        sh=torch.randn(count, 1, 3, generator=draw) * 0.4,
    )
    return g.map(lambda tensor: tensor.requires_grad_())


def camera_of(size: int) -> Camera:
    view = looking_at(torch.tensor([3.0, 1.5, 1.2]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Camera(view, pinhole(1.15 * size, size, size), size, size)


def ours(g: Gaussians, camera: Camera) -> tuple[Tensor, Tensor]:
    """(the picture [H, W, 3], the gradient of the means by the loss that both sides have)."""
    clear(g)
    picture = rasterize(g, camera, backend="torch").image
    (picture - 0.5).square().sum().backward()
    assert g.means.grad is not None
    return picture.detach(), g.means.grad


def clear(g: Gaussians) -> None:
    for tensor in g.tensors().values():
        tensor.grad = None


def peer(g: Gaussians, camera: Camera, projection: Callable[..., Any] | None) -> tuple[Tensor, Tensor]:
    """The same picture and gradients by one tensor of alphas [N, rows, W] after another."""
    clear(g)
    if projection is None:
        seen = project(g.means, g.quats, g.scales, g.opacities, camera, False)
        centres, conics, depth, there = seen.pixels, seen.conics, seen.depth, seen.drawn
    else:
        centres, conics, depth, there = projection(g, camera)
    order = torch.sort(depth.detach(), stable=True).indices
    order = order[there[order]]
    flat = [
        centres[order],
        conics[order],
        g.opacities[order].clamp(max=OPACITY_MAX),
        g.colours[order].clamp(min=0),
    ]
    leaves = [tensor.detach().requires_grad_() for tensor in flat]
    rows = max(1, AT_ONCE // (len(order) * camera.width))
    parts = []
    for top in range(0, camera.height, rows):
        part = blended(leaves, torch.arange(top, min(top + rows, camera.height)), camera.width)
        (part - 0.5).square().sum().backward()
        parts.append(part.detach())
    torch.autograd.backward(flat, [leaf.grad for leaf in leaves if leaf.grad is not None])
    assert g.means.grad is not None
    return torch.cat(parts), g.means.grad


def blended(flat: list[Tensor], rows: Tensor, width: int) -> Tensor:
    """[rows, W, 3] of Gaussians in the order of their depth."""
    centres, conics, opacities, colours = flat
    a, b, c = (each[:, None, None] for each in conics.unbind(-1))
    across = torch.arange(width) + 0.5 - centres[:, 0, None, None]
    down = rows[:, None] + 0.5 - centres[:, 1, None, None]
    sigma = 0.5 * (a * across**2 + c * down**2) + b * across * down
    alpha = opacities[:, None, None] * torch.exp(-sigma)
    alpha = torch.where(alpha < ALPHA_MIN, 0.0, alpha)
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), 0)
    weights = torch.where(light[1:] <= LIGHT_MIN, 0.0, alpha * light[:-1])
    return torch.einsum("nhw,nc->hwc", weights, colours)


def gsplats_projection() -> Callable[..., Any] | None:
    """gsplat's torch reference of the projection, where gsplat can be imported."""
    try:
        from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
    except ImportError:
        return None

    def projected(g: Gaussians, camera: Camera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        covariances, _ = _quat_scale_to_covar_preci(g.quats, g.scales, True, False, False)
        radii, centres, depth, conics, _ = _fully_fused_projection(
            g.means, covariances, camera.view.float()[None], camera.intrinsics.float()[None], camera.width,
            camera.height,
        )  # fmt: skip
        return centres[0], conics[0], depth[0], (radii[0] > 0).all(-1)

    return projected


if __name__ == "__main__":
    sys.exit(main())
