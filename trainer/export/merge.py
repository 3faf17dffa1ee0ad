"""LoRA added to the weights of a Hugging Face folder, file by file: a large model needs little memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evlm.adapter.checkpoint import AdapterMeta
from evlm.adapter.lora import Lora, module_for
from evlm.errors import CheckpointError
from evlm.models.loading import read_json, read_notes
from evlm.models.safetensors_file import read_header, read_tensors

Layer = tuple[Mapping[str, Tensor], AdapterMeta]
"""What `load_adapter(path, expect)` gives: `<module>.lora_A.weight` -> tensor, and what it says of itself."""

_BESIDE = ("*.json", "*.txt", "*.jinja", "LICENSE*")


def merge(base: Path, layers: Sequence[Layer], shapes: Mapping[str, tuple[int, int]], out: Path) -> None:
    """Writes `base` with the adapters added, in order, into the folder `out`.

    shapes: `linear_shapes` of the model. Every weight keeps its dtype and its file; sums are made in
    float32. Raises CheckpointError where a part of an adapter has no weight to be added to.
    """
    from safetensors.torch import save_file

    left = {name.partition(".lora_")[0] for tensors, _ in layers for name in tensors}
    for file in weight_files(base):
        header = read_header(file)
        tensors = read_tensors(file, header)
        for name, weight in tensors.items():
            module = module_for(name.removesuffix(".weight"), shapes) if name.endswith(".weight") else None
            for parts, meta in layers:
                if f"{module}.lora_A.weight" in parts:
                    weight = _added(weight, f"{module}", parts, meta.lora)
                    left.discard(f"{module}")
            tensors[name] = weight.contiguous()
        save_file(tensors, out / file.name, metadata={"format": "pt", **header.metadata})
    if left:
        raise CheckpointError(
            f"{base} has no weights of its own for {', '.join(sorted(left)[:3])} ({len(left)} modules), so "
            "the adapter cannot be merged there; export it as adapter or peft"
        )
    for pattern in _BESIDE:
        for file in base.glob(pattern):
            shutil.copyfile(file, out / file.name)
    if any("lm_head.lora_A.weight" in tensors for tensors, _ in layers):
        _untie(out / "config.json")
    meta = layers[-1][1]
    notes = {**read_notes(base), "prompt": meta.prompt, "mask_codec": meta.mask_codec,
             "merged": {"base": meta.base_model, "training": dict(meta.training)}}  # fmt: skip
    for fitted in ("confidence_temperature", "second_look"):  # without the adapter
        notes.pop(fitted, None)
    (out / "evlm.json").write_text(json.dumps(notes, indent=1) + "\n", encoding="utf-8")


def _untie(config_file: Path) -> None:
    """Says that the output layer has weights of its own: an adapter was added to them, and not to the
    embedding's."""
    config = read_json(config_file, "the configuration of a Hugging Face model")
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and part.get("tie_word_embeddings"):
            part["tie_word_embeddings"] = False
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a whole Hugging Face folder (`zoo.resolve` checks that it is one)."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    table = read_json(index, "the list of weight files")["weight_map"]
    return [folder / name for name in sorted(set(table.values()))]


def _added(weight: Tensor, module: str, parts: Mapping[str, Tensor], lora: Lora) -> Tensor:
    """W + scale * B A, with DoRA each row brought to its magnitude; [out, in] in the weight's dtype."""
    if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise CheckpointError(
            f"{module} is stored as {weight.dtype}; an adapter is merged into weights of 16 or 32 bits: name "
            "such a copy of the model with --base"
        )
    rank = lora.rank_of(module)
    scale = lora.alpha_of(module) / (rank**0.5 if lora.rslora else rank)
    down, up = (parts[f"{module}.{name}.weight"].float() for name in ("lora_A", "lora_B"))
    whole = weight.float() + scale * (up @ down)
    if lora.dora:
        length = parts[f"{module}.lora_magnitude_vector"].float() / whole.norm(dim=1)
        whole = length[:, None] * whole
    return whole.to(weight.dtype)
