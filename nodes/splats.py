"""Core's SPLAT: Gaussians as they are drawn, with linear scales and opacities in 0..1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..evlm.scene import Gaussians

Splat = Any  # core's, or `Twin`
PARTS = {
    "positions": 3,
    "scales": 3,
    "rotations": 4,
    "opacities": 1,
}  # what a SPLAT holds -> of how many numbers


@dataclass
class Twin:
    """What core's class holds, for a ComfyUI that has none. [B, N, ...]; counts: [B] or None."""

    positions: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor
    sh: Tensor
    counts: Tensor | None = None


def to_splat(gaussians: Gaussians) -> Splat:
    """One SPLAT of a batch of one. Going through scales and opacities rounds."""
    from comfy_api import latest

    kind = getattr(getattr(latest, "Types", None), "SPLAT", Twin)
    plain = gaussians.detached().to("cpu").to(torch.float32)
    return kind(
        positions=plain.means[None],
        scales=plain.scales[None],
        rotations=torch.nn.functional.normalize(plain.quats, dim=1)[None],
        opacities=plain.opacities[None, :, None],
        sh=plain.sh[None],
    )


def from_splat(splat: Splat) -> tuple[Gaussians, tuple[str, ...]]:
    """(float32 on the CPU, what was dropped in words). Raises SceneError."""
    from ..evlm.errors import SceneError
    from ..evlm.scene.files.loaded import checked_count, gathered, logits_of, logs_of
    from ..evlm.scene.gaussians import COEFFICIENTS

    parts: dict[str, Any] = {name: getattr(splat, name, None) for name in (*PARTS, "sh")}
    for name, each in parts.items():
        if not isinstance(each, Tensor) or each.ndim < 3:
            raise SceneError(f"splat: its {name} are no tensor [batch, Gaussians, ...]")
    batch, count = parts["positions"].shape[:2]
    if batch != 1:
        raise SceneError(f"splat: a batch of {batch} scenes, expected one: choose one, or merge them")
    if getattr(splat, "counts", None) is not None:
        count = int(splat.counts.flatten()[0])
    checked_count("splat", count)
    for name, wide in PARTS.items():
        _fits(name, parts[name], (1, parts["positions"].shape[1], wide))
    _fits("sh", parts["sh"], (1, parts["positions"].shape[1], parts["sh"].shape[2], 3))
    if parts["sh"].shape[2] not in COEFFICIENTS:
        raise SceneError(f"splat: {parts['sh'].shape[2]} harmonics a colour, expected 1, 4, 9 or 16")
    plain = {name: each[0, :count].detach().float().cpu().numpy() for name, each in parts.items()}
    found, _, notes = gathered(
        "splat",
        plain["positions"],
        logs_of(plain["scales"]),
        plain["rotations"],
        logits_of(plain["opacities"][:, 0]),
        plain["sh"],
    )
    return found, notes


def _fits(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    from ..evlm.errors import SceneError

    if tuple(value.shape) != shape:
        raise SceneError(f"splat: its {name} are {list(value.shape)}, expected {list(shape)}")
