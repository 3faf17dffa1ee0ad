"""The adapter that learns: where it goes, the frozen copy beside it, and its file."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evlm.adapter.checkpoint import save_adapter
from evlm.adapter.stacking import stack_adapters
from evlm.errors import ConfigError

from ..config.recipe import LoraConfig
from ..model.reference import frozen_of

if TYPE_CHECKING:
    from .learner import Learner

REFERENCE = "reference"  # the name of the frozen adapter


def lora_targets(model: torch.nn.Module, settings: LoraConfig) -> list[str]:
    """The linear modules that get an adapter, by the recipe's settings. Raises ConfigError."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    seeing = [name for name in linear if ".visual." in f".{name}"]
    ends = {n: n.rpartition(".")[2] for n in linear if n not in seeing}
    missing = [target for target in settings.targets if target not in ends.values()]
    if missing or not settings.targets:
        raise ConfigError(
            f"lora.targets {', '.join(missing) or 'of none'}: the model has no such linear modules; it has "
            f"{', '.join(dict.fromkeys(ends.values()))}"
        )
    chosen = [n for n, end in ends.items() if end in settings.targets]
    return chosen + ([name for name in seeing if ".blocks." in name] if settings.vision else [])


def unfreeze(model: torch.nn.Module, train: str) -> None:
    """What learns of a model whose own weights do: those of its "merger", Qwen3-VL's deepstack mergers among
    them, or "full"."""
    for name, parameter in model.named_parameters():
        merging = ".visual." in f".{name}" and "merger" in name.split("visual.")[-1].partition(".")[0]
        parameter.requires_grad_(train == "full" or merging)


def save_learned(
    learner: Learner, path: Path, training: dict[str, Any], below: str | Path | None = None
) -> Path:
    """Writes the adapter as the one file that the nodes and `--adapter` load; or the whole model's folder,
    where its own weights learn. below: the adapter that was merged into the base before this one was trained;
    the file does what both do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if learner.train != "lora":
        return _save_model(learner, path, training)
    from peft import get_peft_model_state_dict

    # Where lm_head learns, PEFT would add all embeddings, which no loader takes for a part of an adapter.
    tensors = get_peft_model_state_dict(learner.model, save_embedding_layers=False)
    meta = replace(learner.meta, training=training)
    if below is None:
        save_adapter(path, tensors, meta)
        return path
    with tempfile.TemporaryDirectory() as folder:
        above = Path(folder) / "above.safetensors"
        save_adapter(above, tensors, meta)
        stack_adapters(below, above, path)
    return path


def remove_learned(path: Path) -> None:
    """What an earlier run left there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _save_model(learner: Learner, folder: Path, training: dict[str, Any]) -> Path:
    """A folder as the hub's, which takes its place when all of it is written."""
    fresh = folder.with_name(folder.name + ".tmp")
    remove_learned(fresh)
    learner.model.save_pretrained(fresh)
    learner.processor.save_pretrained(fresh)
    notes = {"prompt": learner.style.name, "mask_codec": learner.meta.mask_codec}
    kept = {**notes, "max_frames": learner.max_frames, "training": training}
    (fresh / "evlm.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    remove_learned(folder)
    fresh.rename(folder)
    return folder


def freeze_reference(model: Any) -> None:
    """The adapter as it is now becomes the reference: a second one, frozen, in the same base; or the weights
    that learn become their copy."""
    values = dict(model.named_parameters())
    with torch.no_grad():
        for name, copy in frozen_of(model).items():
            copy.copy_(values[name])
        for name, value in values.items():
            if f".{REFERENCE}." in name:
                value.copy_(values[name.replace(f".{REFERENCE}.", ".default.")])
