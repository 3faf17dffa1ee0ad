"""The motion of a thing as six numbers: what a flat thing needs, in whose inside no pixel can be told from
the next.

Within a mask the flow is u(x) = A (1, (x - c) / r), A a 2 x 3 matrix, c the mask's centre and r its radius:
found by Gauss-Newton on the difference of the frames, coarse to fine (Bergen et al., ECCV 1992), pixels that
do not fit counted less (Black and Anandan's robust estimation). Lucas-Kanade within the mask refines it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import PictureError
from .flow import blurred, centres, check_pair, gradients, lk, warp

STEPS = 8  # on each level, first of the place alone and then of all six
ROOM = 2  # pixels around the mask that count, too: a plain thing is seen by its rim alone
UNLIKE = 0.2  # a difference of the frames by which a pixel counts half
STIFF = 5e-3  # how strongly a thing keeps its form and heading: a plain disc does not say whether it turns
FAR = 1.0  # pixels by which the refinement may leave the six numbers


@dataclass(frozen=True)
class Affine:
    """matrix: [B, 2, 3]. centre: [B, 2], (x, y) in pixels. radius: [B] in pixels."""

    matrix: Tensor
    centre: Tensor
    radius: Tensor

    def flow(self, height: int, width: int) -> Tensor:
        """The motion at every pixel, also outside the mask: [B, H, W, 2]."""
        at = centres(height, width, self.matrix)[None] - self.centre[:, None, None]
        at = at / self.radius[:, None, None, None]
        return self.matrix[:, None, None, :, 0] + torch.einsum("bij,bhwj->bhwi", self.matrix[:, :, 1:], at)


def fit_affine(
    first: Tensor, second: Tensor, mask: Tensor, later: Tensor | None = None, start: Tensor | None = None
) -> Affine:
    """The six numbers that carry the thing in `mask` from the first frame to the second.

    first, second: [B, H, W, C] in 0..1. mask: [B, H, W], where the thing is in the first; a frame whose mask
    is empty does not move. later: [B, H, W], where it is in the second, if that is known: its centre begins.
    start: a flow [B, H, W, 2] whose mean in the mask begins; without both, no motion. Raises PictureError.
    """
    check_pair(first, second)
    if mask.shape != first.shape[:3] or (later is not None and later.shape != mask.shape):
        raise PictureError(
            f"masks of {list(mask.shape)} for frames of {list(first.shape[:3])}: expected one for each frame"
        )
    a, b = (frames.permute(0, 3, 1, 2).float() for frames in (first, second))
    on = mask.float()
    centre, radius, area = _middle(on)
    matrix = a.new_zeros(len(a), 2, 3)
    if later is not None:
        there, _, later_area = _middle(later.float())
        seen = (later_area > 0)[:, None]
        matrix[..., 0] = torch.where(seen, there - centre, matrix[..., 0])
    elif start is not None:
        matrix[..., 0] = (start * on[..., None]).sum((1, 2)) / area.clamp(min=1)[:, None]
    near = F.max_pool2d(on[:, None], 2 * ROOM + 1, 1, ROOM)
    for level in (2, 1, 0):
        size = [max(1, n // 2**level) for n in a.shape[2:]]
        small = [F.interpolate(each, size, mode="area") if level else each for each in (a, b, near)]
        for numbers, least in ((2, 1.5), (6, 5.0)):  # a dot of fewer pixels shows its place alone, or nothing
            now = Affine(matrix, centre, radius)
            found = _gauss_newton(small[0], small[1], small[2], now, 2**level, numbers)
            matrix = torch.where((radius / 2**level >= least)[:, None, None], found, matrix)
    return Affine(matrix * (area > 0)[:, None, None], centre, radius)


def affine_flow(
    first: Tensor, second: Tensor, mask: Tensor, later: Tensor | None = None, start: Tensor | None = None
) -> Tensor:
    """`fit_affine` as a flow [B, H, W, 2]."""
    return fit_affine(first, second, mask, later, start).flow(*first.shape[1:3])


def object_flow(
    first: Tensor, second: Tensor, mask: Tensor, later: Tensor | None = None, around: Tensor | None = None
) -> Tensor:
    """The flow [B, H, W, 2]: in the mask the thing's own, its affine motion refined by Lucas-Kanade that sees
    nothing but the mask; elsewhere `around` (a flow; `lk` of the whole frames by default).

    The arguments are those of `fit_affine`. The refinement is kept where it makes the frames clearly more
    alike, and never leaves the affine motion by more than a pixel.
    """
    around = lk(first, second) if around is None else around
    begin = affine_flow(first, second, mask, later, around)
    fine = lk(first, second, levels=1, steps=3, start=begin, weight=mask.float())
    fine = begin + (fine - begin).clamp(-FAR, FAR)
    before, after = (_unlike(first, second, flow) for flow in (begin, fine))
    better = after < 0.7 * before - 1 / 255  # not for the sake of what interpolation alone leaves
    own = torch.where(better[..., None], fine, begin)
    return torch.where((mask > 0)[..., None], own, around)


def _gauss_newton(a: Tensor, b: Tensor, near: Tensor, begin: Affine, scale: int, numbers: int) -> Tensor:
    """The matrix [B, 2, 3], in pixels of the full size, found on a level whose pixels are `scale` of them.

    a, b: [B, C, h, w]; near: [B, 1, h, w], how much each pixel counts. numbers: 2, the place alone, or all 6.
    """
    height, width = a.shape[2:]
    centre, radius, matrix = begin.centre / scale, begin.radius / scale, begin.matrix / scale
    at = (centres(height, width, a)[None] - centre[:, None, None]) / radius[:, None, None, None]
    basis = torch.cat([torch.ones_like(at[..., :1]), at], -1)  # [B, h, w, 3]
    basis = basis[..., : numbers // 2]
    place = torch.arange(numbers, device=a.device) % (numbers // 2) == 0
    rigid = torch.where(place, 1e-4, STIFF).to(a.dtype)
    for _ in range(STEPS):
        flow = Affine(matrix, centre, radius).flow(height, width)
        seen = warp(b.permute(0, 2, 3, 1), flow).permute(0, 3, 1, 2)
        error = a - seen
        counts = near[:, 0] / (1 + (error.abs().amax(1) / UNLIKE).square())
        slope = torch.stack(gradients(seen), 1)  # [B, 2, C, h, w]
        pairs = torch.einsum("bichw,bjchw,bhw->bijhw", slope, slope, counts)
        pulls = torch.einsum("bichw,bchw,bhw->bihw", slope, error, counts)
        normal = torch.einsum("bijhw,bhwp,bhwq->bipjq", pairs, basis, basis).reshape(-1, numbers, numbers)
        right = torch.einsum("bihw,bhwp->bip", pulls, basis).reshape(-1, numbers)
        stiff = rigid * (1e-3 + normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True))
        right = right - torch.where(place, 0, stiff * matrix[..., : numbers // 2].flatten(1))
        change = torch.linalg.solve(normal + torch.diag_embed(stiff), right)
        change = change.view(-1, 2, numbers // 2).clamp(-1, 1)
        matrix = matrix + F.pad(change, (0, 3 - numbers // 2))
        if float(change.abs().max()) < 1e-3:
            break
    return matrix * scale


def _middle(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(centre [B, 2], radius of the disc of that area [B], area [B]) of masks [B, H, W]; an empty one lies in
    the frame's middle."""
    area = mask.sum((1, 2))
    at = centres(mask.shape[1], mask.shape[2], mask)
    middle = mask.new_tensor([mask.shape[2] / 2, mask.shape[1] / 2])
    centre = (mask[..., None] * at).sum((1, 2)) / area.clamp(min=1)[:, None]
    centre = torch.where((area > 0)[:, None], centre, middle)
    return centre, (area / torch.pi).sqrt().clamp(min=1), area


def _unlike(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """How unlike the frames are along a flow, [B, H, W], around each pixel."""
    apart = (first - warp(second, flow)).abs().mean(-1)
    return blurred(apart[:, None], 2.0)[:, 0]
