"""`python -m evlm doctor`: versions, devices, models, and what each part that is missing would need."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import one_line
from ..models.fit import set_remarks
from ..models.zoo import ROLES, list_models

PYTHON = ((3, 10), (3, 14))  # the oldest that works, the newest that was tried
# Package: the least version (requirements.txt), and the newest major version that was tried.
NEEDED = {
    "torch": ("2.4", 2),
    "torchvision": ("0.19", 0),
    "transformers": ("4.57", 5),
    "diffusers": ("0.33", 0),
    "safetensors": ("0.4.5", 0),
    "huggingface-hub": ("0.34", 2),
    "tokenizers": ("0.21", 0),
    "numpy": ("1.26", 2),
    "scipy": ("1.11", 1),
    "pillow": ("10.3", 13),
}
OPTIONAL = {
    "sam2": "SAM 2 checkpoints in Meta's own format (folders in transformers' format work without it): "
    "SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2",
    "peft": "LoRA adapters for the reasoner: pip install peft",
    "accelerate": "quantised loading, and faster loading of large models: pip install accelerate",
    "bitsandbytes": "4-bit reasoners: pip install bitsandbytes",
    "av": "video files as references or originals: pip install av",
    "pyyaml": "the trainer's configuration files: pip install pyyaml",
}


NO_CARD = (
    "there is no card, so every set works on the CPU, slowly; a reasoner as a GGUF behind llama.cpp or",
    "Ollama is quicker there, and works with cards of any maker (docs/models.md)",
)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def run(options: argparse.Namespace) -> int:
    """Say what is installed, what it runs on, and what is missing."""
    print("\n".join(report(options.folder)))
    return 0


def report(folders: Sequence[str | Path] = ()) -> list[str]:
    """The report, line by line. Looks, and changes nothing; works with any part missing."""
    lines = [f"python           {platform.python_version()} on {platform.system()} {platform.machine()}"]
    lines[0] += _python_remark(sys.version_info[:2])
    lines += ["", "packages"]
    lines += [f"  {name:16} {package_remark(name, _version(name))}" for name in NEEDED]
    lines += ["", "optional packages"]
    lines += [f"  {name:16} {_version(name) or f'absent; for {use}'}" for name, use in OPTIONAL.items()]
    devices, card = _devices()
    lines += ["", "devices", *devices, "", "what fits, by estimates"]
    lines += [f"  {line}" for line in (NO_CARD if card is None else set_remarks(card))]
    lines += ["", "models"]
    try:
        found = list_models(folders)
    except OSError as error:
        return [*lines, f"  cannot be looked for: {one_line(str(error))}"]
    for role in ROLES:
        here = [f.name for f in found if f.role == role and f.path is not None]
        lines.append(f"  {role:16} {', '.join(here) or 'none here; see `python -m evlm models`'}")
    return lines


def package_remark(name: str, found: str | None) -> str:
    """What the report says of a package of NEEDED in a version, or in none."""
    least, newest = NEEDED[name]
    install = f"pip install '{name}>={least}'"
    if found is None:
        return f"MISSING: {install}"
    if _numbers(found) < _numbers(least):
        return f"{found}  TOO OLD, {least} is the least: {install}"
    if _numbers(found)[:1] > [newest]:
        return f"{found}  newer than what was tried; if something fails: pip install '{name}<{newest + 1}'"
    return found


def _python_remark(found: tuple[int, ...]) -> str:
    oldest, newest = PYTHON
    least = ".".join(map(str, oldest))
    if found < oldest:
        return f"  TOO OLD, {least} is the least: python{least} -m venv .venv"
    if found > newest:
        tried = ".".join(map(str, newest))
        return f"  newer than what was tried; where a package does not install: python{tried} -m venv .venv"
    return ""


def _numbers(text: str) -> list[int]:
    """ "2.14.1+cpu" -> [2, 14, 1]; what is no number ends it."""
    leading = re.match(r"\d+(?:\.\d+)*", text)
    return [int(number) for number in leading[0].split(".")] if leading else []


def _version(name: str) -> str | None:
    try:
        return version(name) or None
    except PackageNotFoundError:
        return None
    except Exception:  # a half-removed package has metadata that nobody can read
        return None


def _devices() -> tuple[list[str], float | None]:
    """Lines, and the GB of the largest card that torch can use."""
    lines = [f"  cpu              {os.cpu_count()} cores"]
    card: float | None = None
    if _version("torch") is None:
        return lines, card
    try:
        import torch

        lines[0] += f", torch uses {torch.get_num_threads()}"
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                memory = properties.total_memory / 1e9
                lines.append(f"  cuda:{index}           {properties.name}, {memory:.1f} GB")
                card = max(card or 0.0, memory)
        elif torch.backends.mps.is_available():
            lines.append("  mps              Apple GPU")
            most = getattr(torch.mps, "recommended_max_memory", None)  # not in 2.4
            card = None if most is None else most() / 1e9
        else:
            lines.append("  gpu              none that torch can use; the bundled models do not need one")
    except Exception as error:  # a torch that does not fit this machine fails in many ways
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        lines.append(f"  torch            is installed and does not work ({reason}): reinstall it")
    return lines, card
