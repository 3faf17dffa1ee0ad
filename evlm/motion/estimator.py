"""Which optical flow is used: Lucas-Kanade, or torchvision's RAFT where its weights lie on this machine.

Nothing is ever downloaded here. RAFT (Teed and Deng, ECCV 2020) is torchvision's, BSD-3; its weights are the
files that torchvision itself keeps in torch's cache, or any of those names in a folder of models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, serialization
from torch.nn import functional as F

from ..errors import ModelError
from .flow import check_pair, lk

Estimator = Callable[[Tensor, Tensor], Tensor]
"""(first, second [B, H, W, 3] in 0..1) -> flow [B, H, W, 2] in pixels."""

METHODS = ("auto", "lk", "raft")
SMALL, LARGE = "raft_small", "raft_large"
LEAST, STEP = 128, 8  # RAFT's pixels a side: at least, and a multiple of


def load_estimator(
    method: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    folders: Iterable[str | os.PathLike[str]] = (),
    device: str | torch.device = "cpu",
) -> Estimator:
    """A flow estimator.

    method: "lk"; "raft"; "auto" is RAFT where its weights are found, else lk. weights: RAFT's file, as
    torchvision names it (raft_small_*.pth, raft_large_*.pth). folders: where else to look for one, before
    torch's cache. Raises ModelError.
    """
    if method not in METHODS:
        raise ModelError(f"optical flow {method!r:.40}: expected one of {', '.join(METHODS)}")
    if method == "lk":
        return lk
    found = Path(weights).expanduser() if weights is not None else find_raft(folders)
    if found is None:
        if method == "auto":
            return lk
        raise ModelError(
            "RAFT's weights are not on this machine: put raft_small_C_T_V2-01064c6d.pth or "
            "raft_large_C_T_SKHT_V2-ff5fadd5.pth from download.pytorch.org/models into the models folder, or "
            "use lk, which needs none"
        )
    return Raft(found, device)


def find_raft(folders: Iterable[str | os.PathLike[str]] = ()) -> Path | None:
    """RAFT's weights in one of the folders or in torch's cache; the large one first; None where none are."""
    places = [Path(folder).expanduser() for folder in folders]
    places.append(Path(torch.hub.get_dir()) / "checkpoints")
    for name in (LARGE, SMALL):
        for place in places:
            if place.is_dir() and (files := sorted(place.glob(f"{name}*.pth"))):
                return files[0]
    return None


class Raft:
    """torchvision's RAFT with weights of a file. Raises ModelError where they do not fit, or without
    torchvision."""

    def __init__(self, weights: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.model = _build(weights).eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        check_pair(first, second)
        height, width = first.shape[1:3]
        pad = [max(LEAST, -(-side // STEP) * STEP) - side for side in (height, width)]
        place = (pad[1] // 2, pad[1] - pad[1] // 2, pad[0] // 2, pad[0] - pad[0] // 2)
        flows = []
        for a, b in zip(first.split(1), second.split(1), strict=True):  # its memory grows with every pair
            shown = [
                F.pad(each.permute(0, 3, 1, 2).float().to(self.device) * 2 - 1, place, mode="replicate")
                for each in (a, b)
            ]
            flow = self.model(*shown)[-1]
            flows.append(flow[..., place[2] : place[2] + height, place[0] : place[0] + width].float())
        return torch.cat(flows).permute(0, 2, 3, 1).to(first.device)


def _build(weights: Path) -> Any:
    try:
        from torchvision.models import optical_flow
    except ImportError as error:
        raise ModelError("RAFT is part of torchvision: pip install torchvision, or use lk") from error
    small = LARGE not in weights.name
    model = (optical_flow.raft_small if small else optical_flow.raft_large)(weights=None, progress=False)
    try:
        state = serialization.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except FileNotFoundError as error:
        raise ModelError(f"{weights}: there is no such file") from error
    except Exception as error:  # what a damaged or foreign file raises is not foreseeable
        kind = SMALL if small else LARGE
        raise ModelError(
            f"{weights}: not the weights of torchvision's {kind} ({type(error).__name__}: {error!s:.120}); "
            "fetch the file again, under its own name"
        ) from error
    return model
