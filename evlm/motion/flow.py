"""Optical flow by coarse-to-fine Lucas-Kanade, in pure torch: no weights, batched.

A flow is float32 [B, H, W, 2], (dx, dy) in pixels: what stands at x in the first frame stands at x + flow(x)
in the second. Pixel (row, column) has its centre at (column + .5, row + .5).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import PictureError

COARSEST = 16  # pixels of the shorter side below which no further level is made
FLAT = 1e-3  # added to the structure tensor's diagonal: where nothing is seen nothing moves
ALPHA, BETA = 0.01, 0.5  # of Sundaram, Brox and Keutzer, ECCV 2010, equation 5


def lk(
    first: Tensor,
    second: Tensor,
    levels: int | None = None,
    steps: int = 6,
    window: float = 2.0,
    smooth: float = 1.0,
    start: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The flow from `first` to `second`, [B, H, W, 2] in pixels.

    first, second: [B, H, W, C] in 0..1. levels: of the pyramid, each of half the size; None: as many as leave
    16 pixels. steps: of refinement on each level, none of more than one of its pixels. window: sigma of the
    Gaussian in which the motion is one, in pixels. smooth: sigma by which the flow is smoothed after each
    step. start: a flow to begin from. weight: [B, H, W] in 0..1, how much each pixel of the first frame
    counts: within a mask, what lies around it does not pull. Raises PictureError.
    """
    check_pair(first, second)
    a, b = (frames.permute(0, 3, 1, 2).float() for frames in (first, second))
    height, width = a.shape[2:]
    if levels is None:
        levels = 1 + max(0, int(math.log2(min(height, width) / COARSEST)))
    flow = None if start is None else start.permute(0, 3, 1, 2).float()
    for level in reversed(range(levels)):
        size = (max(1, round(height / 2**level)), max(1, round(width / 2**level)))
        at_a, at_b = (F.interpolate(frames, size, mode="area") if level else frames for frames in (a, b))
        flow = a.new_zeros(len(a), 2, *size) if flow is None else _resized(flow, size)
        counts = a.new_ones(1, 1, *size)
        if weight is not None:
            counts = F.interpolate(weight[:, None].float(), size, mode="area") if level else weight[:, None]
        for _ in range(steps):
            flow = flow + _step(at_a, _warped(at_b, flow), counts, window)
            flow = _smoothed(flow, counts, smooth)
    assert flow is not None
    return flow.permute(0, 2, 3, 1)


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Frames looked up along a flow: at x what stands at x + flow(x), bilinear; beyond the frame its edge.

    frames: [B, H, W, C]. flow: [B, H, W, 2]. Returns [B, H, W, C]. With the flow from frame a to b, warping b
    gives back a.
    """
    return _warped(frames.permute(0, 3, 1, 2), flow.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def consistent(there: Tensor, back: Tensor) -> Tensor:
    """Where the way there and back ends where it began: bool [B, H, W]; elsewhere the pixel is hidden in the
    other frame, has left it, or the flow is wrong.

    there, back: flows [B, H, W, 2] from a to b and from b to a. With w the flow back looked up where the way
    there ends: |there + w|^2 < .01 (|there|^2 + |w|^2) + .5 (Sundaram, Brox and Keutzer, ECCV 2010).
    """
    returned = warp(back, there)
    apart = (there + returned).square().sum(-1)
    length = there.square().sum(-1) + returned.square().sum(-1)
    height, width = there.shape[1:3]
    x, y = (there + centres(height, width, there)).unbind(-1)
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return (apart < ALPHA * length + BETA) & inside


def centres(height: int, width: int, like: Tensor) -> Tensor:
    """(x, y) of each pixel's centre, [H, W, 2]."""
    y = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    x = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """(d/dx, d/dy) of [B, C, H, W] by central differences, the edge repeated."""
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return along_x, along_y


def check_pair(first: Tensor, second: Tensor) -> None:
    """Raises PictureError unless both are [B, H, W, C] of one shape."""
    if first.ndim != 4 or first.shape != second.shape or 0 in first.shape:
        raise PictureError(
            f"motion between frames of {list(first.shape)} and {list(second.shape)}: expected two "
            "[frames, height, width, channels] of one size"
        )


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """[B, C, H, W] under a Gaussian, the edge repeated."""
    if sigma <= 0:
        return pictures
    radius = int(3 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = pictures.shape[1]
    padded = F.pad(pictures, (radius,) * 4, mode="replicate")
    along = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    padded = F.conv2d(padded, along, groups=channels)
    return F.conv2d(padded, along.transpose(2, 3), groups=channels)


def _step(first: Tensor, second: Tensor, weight: Tensor, window: float) -> Tensor:
    """How the flow must change, [B, 2, H, W], at most one pixel each way: the least squares of
    first - second - gradient . change over a Gaussian window. first, second: [B, C, H, W], the second already
    looked up along the flow so far."""
    x, y = gradients(second)
    error = first - second
    products = [x * x, x * y, y * y, x * error, y * error]
    sums = torch.stack([product.sum(1) for product in products], 1) * weight
    xx, xy, yy, xe, ye = blurred(sums, window).unbind(1)
    xx, yy = xx + FLAT, yy + FLAT
    det = xx * yy - xy * xy
    return torch.stack([(yy * xe - xy * ye) / det, (xx * ye - xy * xe) / det], 1).clamp(-1, 1)


def _smoothed(flow: Tensor, weight: Tensor, sigma: float) -> Tensor:
    if weight.shape[0] == 1 and bool((weight == 1).all()):
        return blurred(flow, sigma)
    share = blurred(weight, sigma)
    return torch.where(share > 1e-3, blurred(flow * weight, sigma) / share.clamp(min=1e-3), flow)


def _resized(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """The flow [B, 2, h, w] for another size: its vectors grow or shrink with the frame."""
    if tuple(flow.shape[2:]) == size:
        return flow
    factor = flow.new_tensor([size[1] / flow.shape[3], size[0] / flow.shape[2]])
    larger = F.interpolate(flow, size, mode="bilinear", align_corners=False)
    return larger * factor[:, None, None]


def _warped(pictures: Tensor, flow: Tensor) -> Tensor:
    height, width = pictures.shape[2:]
    at = flow.permute(0, 2, 3, 1) + centres(height, width, flow)
    grid = at / at.new_tensor([width, height]) * 2 - 1
    if len(pictures) != len(grid):
        pictures = pictures.expand(len(grid), -1, -1, -1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
