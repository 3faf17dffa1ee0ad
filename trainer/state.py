"""A training's state on disk: safetensors and JSON in one folder, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, recipe: str
) -> None:
    """Replaces `folder` by the state after `step` steps. `recipe` names what was run; another one is not
    resumed."""
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in _unique(model).items()}
    tensors, numbers = _flatten(optimizer.state_dict()["state"])
    save_file(weights, fresh / "model.safetensors")
    save_file(tensors, fresh / "optimizer.safetensors")
    (fresh / "state.json").write_text(json.dumps({"step": step, "recipe": recipe, "numbers": numbers}))
    for file in fresh.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def saved_step(folder: Path, recipe: str) -> int:
    """The step of the state in `folder`; 0 where there is none, or one of another recipe."""
    found = _find(folder, recipe)
    return 0 if found is None else int(found[1]["step"])


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, recipe: str) -> int:
    """Restores the state and returns its step; 0 where there is none, or one of another recipe. Without an
    optimizer the weights alone."""
    found = _find(folder, recipe)
    if found is None:
        return 0
    folder, saved = found
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, tensor in _unique(model).items():
            tensor.copy_(weights[name])
    if optimizer is None:
        return int(saved["step"])
    state = _unflatten(load_file(folder / "optimizer.safetensors"), saved["numbers"])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(saved["step"])


def _find(folder: Path, recipe: str) -> tuple[Path, dict[str, Any]] | None:
    if not (folder / "state.json").is_file():
        folder = folder.with_name(folder.name + ".old")  # a crash between the two renames
        if not (folder / "state.json").is_file():
            return None
    saved = json.loads((folder / "state.json").read_text())
    return (folder, saved) if saved["recipe"] == recipe else None


def _unique(model: nn.Module) -> dict[str, Tensor]:
    """What a training changes, tied parameters once: those that learn, and adapters that hold still."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad or ".lora_" in n}


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, entries in state.items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    return {k: v.contiguous() for k, v in tensors.items()}, numbers


def _unflatten(tensors: dict[str, Tensor], numbers: dict[str, float]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
