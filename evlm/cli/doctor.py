"""`python -m evlm doctor`: versions, devices, models, and what each optional part would need."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..models.zoo import ROLES, list_models

NEEDED = ("torch", "torchvision", "transformers", "diffusers", "safetensors", "huggingface-hub", "tokenizers",
          "numpy", "scipy", "pillow")  # fmt: skip
OPTIONAL = {
    "sam2": "SAM 2 checkpoints in Meta's own format (folders in transformers' format work without it): "
    "SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2",
    "peft": "LoRA adapters for the reasoner: pip install peft",
    "accelerate": "quantised loading, and faster loading of large models: pip install accelerate",
    "bitsandbytes": "4-bit reasoners, on CUDA: pip install bitsandbytes",
    "av": "video files as references or originals, and 16-bit PNG in colour: pip install av",
    "tifffile": "TIFF of 16 bits in colour, of floats, in CMYK: pip install tifffile",
    "pyyaml": "the trainer's configuration files: pip install pyyaml",
}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def run(options: argparse.Namespace) -> int:
    """Say what is installed, what it runs on, and what is missing."""
    print("\n".join(report(options.folder)))
    return 0


def report(folders: Sequence[str | Path] = ()) -> list[str]:
    """The report, line by line. Looks, and changes nothing; works with any part missing."""
    lines = [f"python           {platform.python_version()} on {platform.system()} {platform.machine()}"]
    lines += ["", "packages"]
    lines += [
        f"  {name:16} {_version(name) or 'MISSING: pip install -r requirements.txt'}" for name in NEEDED
    ]
    lines += ["", "optional packages"]
    lines += [f"  {name:16} {_version(name) or f'absent; for {use}'}" for name, use in OPTIONAL.items()]
    lines += ["", "devices", *_devices()]
    lines += ["", "models"]
    found = list_models(folders)
    for role in ROLES:
        here = [f.name for f in found if f.role == role and f.path is not None]
        lines.append(f"  {role:16} {', '.join(here) or 'none here; see `python -m evlm models`'}")
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    lines = [f"  cpu              {os.cpu_count()} cores"]
    if _version("torch") is None:
        return lines
    import torch

    lines[0] += f", torch uses {torch.get_num_threads()}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            lines.append(
                f"  cuda:{index}           {properties.name}, {properties.total_memory / 1e9:.1f} GB"
            )
    elif torch.backends.mps.is_available():
        lines.append("  mps              Apple GPU")
    else:
        lines.append("  gpu              none that torch can use; the bundled models do not need one")
    return lines
