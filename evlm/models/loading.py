"""What every loader needs: a model's small JSON files, its device, its dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError, one_line
from .json_file import read_json

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; without one: CUDA (ROCm too), else Apple's, else the CPU.

    Raises ModelError for a device that torch does not know or that this machine has not.
    """
    if device is None:
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"device {device!r} is not one that torch knows; try 'cuda', 'mps' or 'cpu'"
        ) from error
    try:
        torch.empty(1, device=where)
    except Exception as error:  # each backend has its own way to say that it is not here
        reason = one_line(str(error).partition("\n")[0], 160)
        raise ModelError(
            f"device {str(device)!r} cannot be used on this machine ({reason}); expected {_devices()}"
        ) from error
    return where


def _devices() -> str:
    names = [f"'cuda:{index}'" for index in range(torch.cuda.device_count())]
    names += ["'mps'"] * torch.backends.mps.is_available()
    return " or ".join([*names, "'cpu'"])


def pick_dtype(dtype: str | torch.dtype, auto: torch.dtype = torch.float32) -> torch.dtype:
    """A torch dtype from its name ("fp32", "fp16", "bf16" or torch's own); "auto" is `auto`. Raises
    ModelError."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return auto
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r}: expected auto, fp32, fp16 or bf16")
    return _DTYPES[dtype]


def half_dtype(device: torch.device) -> torch.dtype:
    """The 16-bit type that a CUDA (or ROCm) card computes in: bfloat16, or float16 before Ampere, where
    bfloat16 is only imitated, ten times slower."""
    if torch.version.hip or torch.cuda.get_device_properties(device).major >= 8:
        return torch.bfloat16
    return torch.float16


def read_notes(folder: Path) -> dict[str, Any]:
    """Our own `evlm.json` beside a model (its best settings); empty where there is none. Raises ModelError if
    broken."""
    path = folder / "evlm.json"
    return read_json(path, "the settings of one of our models") if path.is_file() else {}
