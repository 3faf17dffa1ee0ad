"""Learning rates: bold for a short fit, 3D Gaussian Splatting's own for a long one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..camera import Camera

SHORT = 2000  # iterations up to which a fit is short
_SHORT = {"means": 2.5e-4, "quats": 5e-3, "log_scales": 1e-2, "logits": 5e-2, "sh": 2e-2}
_LONG = {"means": 1.6e-4, "quats": 1e-3, "log_scales": 5e-3, "logits": 5e-2, "sh": 2.5e-3}
HIGHER = 1 / 20  # the higher harmonics learn so much slower than the constant


def extent(cameras: Sequence[Camera], means: Tensor) -> float:
    """How large the scene is: 1.1 times the farthest camera from their middle; of cameras in one place, the
    middle distance of what they see."""
    centres = torch.stack([camera.centre for camera in cameras])
    spread = 1.1 * float((centres - centres.mean(0)).norm(dim=1).max())
    return spread if spread > 1e-6 else float((means.cpu().double() - centres[0]).norm(dim=1).median())


def rates(done: int, iterations: int, extent: float, sh: Tensor) -> dict[str, Tensor | float]:
    """By parameter, for the iteration after `done`. A short fit (at most SHORT iterations) lets all of them
    fall to a tenth, a long one that of the means to a hundredth (3DGS, section 7 and its code)."""
    past = done / iterations
    short = iterations <= SHORT
    found: dict[str, Tensor | float] = {}
    for name, rate in (_SHORT if short else _LONG).items():
        fall = 0.1**past if short else 0.01**past if name == "means" else 1.0
        found[name] = rate * fall * (extent if name == "means" else 1.0)
    slower = torch.full((sh.shape[1], 1), HIGHER, dtype=sh.dtype, device=sh.device)
    slower[0] = 1
    found["sh"] = slower * found["sh"]
    return found
