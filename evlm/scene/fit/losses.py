"""How far a rendering is from its photograph: .8 L1 + .2 (1 - SSIM), Kerbl et al. 2023, section 5."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 7
DARK, FLAT = 0.01**2, 0.03**2  # Wang et al. 2004, for values in 0..1


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Of two pictures [H, W, C] in 0..1: the mean structural similarity, by square windows of 7 pixels (less
    in smaller pictures) that lie inside."""
    both = [picture.movedim(-1, 0)[None] for picture in (a, b)]
    size = min(WINDOW, *a.shape[:2])

    def mean(picture: Tensor) -> Tensor:
        return avg_pool2d(picture, size, 1)

    x, y = both
    mean_x, mean_y = mean(x), mean(y)
    spread = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    shared = mean(x * y) - mean_x * mean_y
    bright = (2 * mean_x * mean_y + DARK) / (mean_x**2 + mean_y**2 + DARK)
    return (bright * (2 * shared + FLAT) / (spread + FLAT)).mean()


def photometric(rendered: Tensor, photograph: Tensor, structure: float = 0.2) -> Tensor:
    """Both [H, W, 3]. structure: the weight of 1 - SSIM; L1 has the rest."""
    difference = (rendered - photograph).abs().mean()
    return (1 - structure) * difference + structure * (1 - ssim(rendered, photograph))


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels of two pictures in 0..1."""
    return float(-10 * (a - b).square().mean().clamp(min=1e-12).log10())
