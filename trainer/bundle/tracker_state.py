"""What a training of the tracker leaves on the disk: a state to go on from, and the finished model."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError

STATE = "tracker.safetensors"


def save_state(work: Path, model: Any, optimizer: torch.optim.Optimizer, step: int, about: str) -> None:
    """Weights and the optimiser's state after `step` steps in one file, replaced whole. about: of which
    recipe."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
    work.mkdir(parents=True, exist_ok=True)
    part = work / f"{STATE}.part"
    whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    save_file(whole, part, {"step": str(step), "about": about})
    os.replace(part, work / STATE)


def resume(
    work: Path, model: Any, optimizer: torch.optim.Optimizer, about: str, earlier: Collection[str] = ()
) -> int:
    """The step to go on with, after loading the newest state; 0 where there is none. Raises ConfigError for
    the state of another recipe, unless it is among `earlier`, whose steps this one begins with."""
    from safetensors import safe_open

    path = work / STATE
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if meta["about"] not in (about, *earlier):
        raise ConfigError(f"{path} is of {meta['about']}, not of {about}: name another --work, or remove it")
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    whole = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("state."):
            _, number, name = key.split(".", 2)
            whole["state"].setdefault(int(number), {})[name] = int(value) if name == "step" else value
    optimizer.load_state_dict(whole)
    return int(meta["step"])


def save(model: Any, out: Path, summary: dict[str, Any]) -> None:
    """Writes model, processors and evlm.json, as `Segmenter.load` and transformers read them."""
    from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor

    from .segmenter import INPUT, SIZE

    size = {"height": INPUT, "width": INPUT}
    images = Sam2ImageProcessor(size=size, mask_size={"height": INPUT // 4, "width": INPUT // 4})
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size), target_size=INPUT).save_pretrained(out)
    images.save_pretrained(out)
    about = {"kind": "segmenter", "best_resolution": SIZE, "training": summary}
    (out / "evlm.json").write_text(json.dumps(about, indent=2) + "\n")
