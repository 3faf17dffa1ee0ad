"""Two LoRA adapters, the second trained on a model that has the first merged in, as one adapter.

W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]: exact, with the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint import AdapterMeta, load_adapter, save_adapter
from .lora import PEFT_PREFIX, Lora, module_for

Pair = tuple[Tensor, Tensor]  # A [rank, in]; B [out, rank] with the scale in it; both float32


def stack_adapters(first: str | Path, second: str | Path, out: str | Path) -> None:
    """Writes the one file that does what both do, one on the other. Its name and hash of the base, prompt
    style and codec are the second's. Raises CheckpointError."""
    below, _ = _read(first)
    above, meta = _read(second)
    known = {module: (b.shape[0], a.shape[1]) for module, (a, b) in above.items()}
    below = {module_for(module, known) or module: pair for module, pair in below.items()}
    pairs = dict(below)
    for module, (a, b) in above.items():
        if module in below:
            a1, b1 = below[module]
            if (a1.shape[1], b1.shape[0]) != (a.shape[1], b.shape[0]):
                raise CheckpointError(
                    f"{first}: {module} is {b1.shape[0]} x {a1.shape[1]}, in {second} it is {b.shape[0]} x "
                    f"{a.shape[1]}; they are of different models"
                )
            a, b = torch.cat([a1, a]), torch.cat([b1, b], 1)
        pairs[module] = a, b
    ranks = {module: len(a) for module, (a, _) in pairs.items()}
    rank = max(ranks.values())
    others = {module: each for module, each in ranks.items() if each != rank}
    lora = Lora(rank, float(rank), tuple(sorted(pairs)), rank_pattern=others, alpha_pattern=_floats(others))
    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = b
    training = {**meta.training, "started_from": Path(first).name}
    save_adapter(out, tensors, replace(meta, lora=lora, training=training))


def check_stackable(path: str | Path) -> None:
    """Raises CheckpointError for what is no adapter, or one whose change of the weights is no B A (DoRA)."""
    _read(path)


def _read(path: str | Path) -> tuple[dict[str, Pair], AdapterMeta]:
    tensors, meta = load_adapter(path)
    if meta.lora.dora:
        raise CheckpointError(
            f"{path} is a DoRA adapter, to which nothing can be added; merge it into a model"
        )
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, sign, kind = name.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        if not sign or kind not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise CheckpointError(f"{path}: {name!r:.120} is no tensor of a LoRA on a linear module")
        halves.setdefault(module, {})[kind[0]] = tensor.float()
    for module, half in halves.items():
        if set(half) != {"A", "B"} or len(half["A"]) != half["B"].shape[1]:
            raise CheckpointError(f"{path}: {module} lacks a half of its LoRA, or they do not fit")
    return {m: (half["A"], half["B"] * _scale(meta.lora, m)) for m, half in halves.items()}, meta


def _scale(lora: Lora, module: str) -> float:
    rank = lora.rank_of(module)
    return lora.alpha_of(module) / (rank**0.5 if lora.rslora else rank)


def _floats(numbers: Mapping[str, int]) -> dict[str, float]:
    return {name: float(number) for name, number in numbers.items()}
