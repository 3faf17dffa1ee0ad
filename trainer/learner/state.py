"""States of a training on disk, each in a folder of its own that is written whole or not at all.

    states = States(run / "state", recipe, keep_last=2)
    saved = states.newest()              # None where there is none; an error for one of another recipe
    states.save(model, optimizer, progress)

A folder is written under another name, brought to the disk, and only then given its own. Sizes and hashes of
its files lie beside them, and are checked before it is used: what was cut off, or decayed since, is passed
over for the state before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evlm.errors import ConfigError, TrainingError

from ..model.reference import frozen_of
from .adapter import REFERENCE

WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


@dataclass
class Progress:
    """Where a run stands, beside its weights.

    The rest follows from it: the rows of a step are a function of the step, which is the data's cursor, and
    chance of (seed, step, rank, row, sample).

    step: optimiser steps done, in all stages. tokens: fed since the run began. micro_batch: in use in this
    stage, where memory was too short for the recipe's. dropped: steps that were; in_a_row: of them since the
    last good one. losses, norms: of the last good steps of this stage. reference: fingerprint of the frozen
    adapter and its base. best: "step" of the best measurement, and what it measured; asked: a hash of what it
    was measured on. lengths: steps of each stage, as they were when the run began, or as the stage ended
    before its time. waited: measurements of this stage since `lowest`, its best one; looked: the step of the
    last one. seen: of prompts that were drawn from, [right, drawn] samples by a number made of their name,
    halved each time that they are passed over. contents: a hash of each file of rows, by its path.
    cpu_seconds: of this process, since the run began.
    """

    step: int = 0
    stage: int = 0
    cycle: int = 0
    tokens: int = 0
    micro_batch: int | None = None
    dropped: int = 0
    in_a_row: int = 0
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    reference: str | None = None
    lengths: list[int] = field(default_factory=list)
    waited: int = 0
    looked: int = 0
    lowest: float | None = None
    best: dict[str, float] | None = None
    contents: dict[str, str] = field(default_factory=dict)
    asked: str | None = None
    cpu_seconds: float = 0.0
    seen: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A whole state."""

    folder: Path
    progress: Progress
    numbers: dict[str, float]

    def load_weights(self, model: nn.Module) -> None:
        """Puts back what a training changes: what learns, and what holds still beside it."""
        weights = load_file(self.folder / WEIGHTS)
        with torch.no_grad():
            for name, tensor in _learned(model).items():
                tensor.copy_(weights[name])

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        state = _unflatten(load_file(self.folder / OPTIMIZER), self.numbers)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class States:
    """The states of one run in a folder. recipe: JSON-able; what the states belong to. keep_last: newest ones
    that are kept. complete: gives a recipe of an older version the settings that it did not know."""

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        keep_last: int = 2,
        complete: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    ) -> None:
        self.folder, self.keep_last, self.complete = folder, keep_last, complete
        self.recipe: dict[str, Any] = json.loads(json.dumps(recipe))
        self.broken: list[str] = []  # states that `newest` passed over

    def newest(self) -> Saved | None:
        """The newest whole state; None where there is none. Raises ConfigError for one of another recipe."""
        self.broken = []
        for step in sorted(self.steps(), reverse=True):
            folder = self.of(step)
            state = _read(folder)
            if state is None:
                self.broken.append(folder.name)
                continue
            other = differences(self.complete(state.pop("recipe")), self.recipe)
            if other:
                more = f" and {len(other) - 3} more" if len(other) > 3 else ""
                raise ConfigError(
                    f"{self.folder} holds a run of another recipe, at step {step}: {'; '.join(other[:3])}"
                    f"{more}. Set out= to another folder, or start anew with --fresh: it deletes its states"
                )
            numbers = state.pop("numbers")
            known = {each.name for each in fields(Progress)}
            return Saved(folder, Progress(**{k: v for k, v in state.items() if k in known}), numbers)
        return None

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, prune: bool = True
    ) -> Path:
        """Writes the state and returns its folder. prune: delete what it makes needless (`prune`). Raises
        TrainingError where it cannot be written; earlier ones are whole then."""
        folder = self.of(progress.step)
        fresh = folder.with_name(folder.name + ".tmp")
        try:
            self._sweep()
            fresh.mkdir(parents=True)
            _write(fresh, model, optimizer, {"recipe": self.recipe, **asdict(progress)})
            if folder.exists():  # a broken one, or that of this step before it was measured
                _remove(folder)
            fresh.rename(folder)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            there = ", ".join(self.of(step).name for step in sorted(self.steps())) or "none"
            raise TrainingError(
                f"the state of step {progress.step} cannot be written to {self.folder} ({error}). Earlier "
                f"states are whole ({there}): free some space, and the same command goes on from there"
            ) from error
        if prune:
            self.prune(progress)
        return folder

    def adopt(self, saved: Saved, reference: bool) -> Path:
        """The end of another run, of this one's first phases alone, as this one's state. reference: this run
        holds a frozen adapter, too; until a phase freezes it, its values are nobody's."""
        weights = load_file(saved.folder / WEIGHTS)
        if reference:
            held = {name.replace(".default.", f".{REFERENCE}."): value for name, value in weights.items()}
            weights |= {name: value.clone() for name, value in held.items() if name not in weights}
        tensors = load_file(saved.folder / OPTIMIZER)
        state = {**asdict(saved.progress), "lengths": [], "recipe": self.recipe, "numbers": saved.numbers}
        folder = self.of(saved.progress.step)
        fresh = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _write_whole(fresh, weights, tensors, state)
        fresh.rename(folder)
        return folder

    def prune(self, progress: Progress) -> None:
        """Deletes the states before progress.step but for the newest `keep_last`, itself among them, and that
        of progress.best."""
        best = int(progress.best["step"]) if progress.best else None
        # Newer ones are broken, or this one would have gone on from them: they take nobody's place.
        older = sorted((step for step in self.steps() if step < progress.step), reverse=True)
        for step in older[self.keep_last - 1 :]:
            if step != best:
                _remove(self.of(step))

    def clear(self) -> None:
        """Deletes all states."""
        self._sweep()
        for step in self.steps():
            _remove(self.of(step))

    def steps(self) -> list[int]:
        """Steps that there are folders of, whole or not."""
        names = [re.fullmatch(r"step-(\d{8,12})", path.name) for path in self.folder.glob("step-*")]
        return [int(name[1]) for name in names if name]

    def of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _sweep(self) -> None:
        """What a killed run left half-written or half-deleted."""
        for path in self.folder.glob("step-*.tmp"):
            shutil.rmtree(path)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What is not the same in two JSON values: "phases.0.lr was 0.001, is 0.002"."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        pairs = [(str(name), old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(n), a, b) for n, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [f"{where} was {_shown(old)}, is {_shown(new)}"]
    return [text for name, a, b in pairs for text in differences(a, b, f"{where}.{name}".lstrip("."))]


_ABSENT = object()


def _shown(value: Any) -> str:
    return "not there" if value is _ABSENT else f"{json.dumps(value):.60}"


def _write(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in _learned(model).items()}
    tensors, numbers = _flatten(optimizer.state_dict()["state"])
    _write_whole(folder, weights, tensors, {**state, "numbers": numbers})


def _write_whole(
    folder: Path, weights: dict[str, Tensor], tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    save_file(weights, folder / WEIGHTS)
    save_file(tensors, folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    listed = {name: _measured(folder / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
    (folder / MANIFEST).write_text(json.dumps(listed), encoding="utf-8")
    for name in (*listed, MANIFEST):
        _flush(folder / name)
    _flush(folder)


def _read(folder: Path) -> dict[str, Any] | None:
    """What state.json says, of a whole state; else None."""
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = set(listed) == {WEIGHTS, OPTIMIZER, STATE} and all(
            _measured(folder / name) == wanted for name, wanted in listed.items()
        )
        return dict(json.loads((folder / STATE).read_text(encoding="utf-8"))) if whole else None
    except (OSError, ValueError, TypeError):
        return None


def _measured(path: Path) -> dict[str, Any]:
    total, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
            size += len(block)
    return {"bytes": size, "sha256": total.hexdigest()}


def _remove(folder: Path) -> None:
    """Renamed first, so that half a folder never bears a state's name."""
    doomed = folder.with_name(folder.name + ".old.tmp")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _flush(path: Path) -> None:
    """Brings a file or a folder to the disk. Windows knows no such thing for folders."""
    if path.is_dir():
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """What a training changes, tied parameters once: those that learn, and the adapters, or the copies of
    weights, that hold still."""
    learned = {n: p for n, p in model.named_parameters() if p.requires_grad or ".lora_" in n}
    return {**learned, **{f"reference.{name}": tensor for name, tensor in frozen_of(model).items()}}


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
