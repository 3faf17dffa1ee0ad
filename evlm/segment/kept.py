"""What a tracker has followed so far, on the disk: a run that was stopped goes on there, bit for bit.

Two kinds of files: the masks since the time before, which stay, and the state behind them, of which the last
one is there. A state counts with the masks up to it; each file is there whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.pictures import write_atomically

EVERY = 24
"""Frames between two states."""


@dataclass
class Kept:
    """The files of one tracking. name: with which they begin. own, adopt: give and take what else belongs to
    the state, of lists, dicts, text and numbers."""

    folder: Path
    name: str
    own: Callable[[], Any] = dict
    adopt: Callable[[Any], None] = lambda _: None

    def __post_init__(self) -> None:
        self._files = 0

    def load(self) -> dict[str, Any] | None:
        """What `save` was given last, and "masks", all of them; None where there is nothing."""
        path = self.folder / f"{self.name}.state"
        if not path.is_file():
            return None
        state: dict[str, Any] = read_nested(path)
        self._files = state.pop("files")
        self.adopt(state.pop("own"))
        masks = [mask for number in range(self._files) for mask in read_nested(self._masks(number))]
        return {**state, "masks": masks}

    def save(self, masks: list[Any], state: dict[str, Any]) -> None:
        """masks: those that came since the time before. Raises OSError."""
        write_nested(self._masks(self._files), masks)
        self._files += 1
        whole = {**state, "files": self._files, "own": self.own()}
        write_nested(self.folder / f"{self.name}.state", whole)

    def _masks(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:06}.masks"


def write_nested(path: Path, value: Any) -> None:
    """Tensors in dicts, lists and tuples, beside text, numbers and None, atomically; tuples become lists."""
    from safetensors.torch import save

    tensors: list[Tensor] = []
    said = json.dumps(_packed(value, tensors)).encode()
    named = {str(number): each for number, each in enumerate(tensors)}
    data = save({**named, "said": torch.frombuffer(bytearray(said), dtype=torch.uint8)})
    write_atomically(path, lambda file: file.write(data))


def read_nested(path: Path) -> Any:
    """What `write_nested` wrote, on the CPU."""
    from safetensors.torch import load

    tensors = load(path.read_bytes())
    return _unpacked(json.loads(tensors.pop("said").numpy().tobytes()), tensors)


def _packed(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value.detach().cpu().clone(memory_format=torch.contiguous_format))
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, dict):  # JSON's keys are text, and these are numbers, too
        return {"dict": [[key, _packed(each, tensors)] for key, each in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(each, tensors) for each in value]
    return value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _unpacked(each, tensors) for key, each in value["dict"]}
