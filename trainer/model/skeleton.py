"""A backbone's shape without its weights: what a plan and an export need to know of a model of any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evlm.errors import ModelError
from evlm.models.loading import read_json
from evlm.models.zoo import resolve
from evlm.reason.transformers_compat import load_config, written_by_newer

BASES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}  # by `model_type`


def base_folder(name: str) -> Path:
    """The folder of a model that can be trained, by what `resolve` takes. Raises ModelError."""
    folder = Path(name)
    if (folder / "config.json").is_file():
        family = read_json(folder / "config.json", "the configuration of a Hugging Face model").get(
            "model_type"
        )
        if family not in BASES:
            *first, last = BASES.values()
            raise ModelError(
                f"{folder} is a {family!s:.40}; trained are dense {', '.join(first)} and {last} models"
            )
    return resolve(name, "reasoner")


def skeleton(folder: Path | Mapping[str, Any]) -> Any:
    """The transformers model of a Hugging Face folder, or of what its config.json would say, on the meta
    device; no weight is read. Raises ModelError."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        if not isinstance(folder, Path):
            config = AutoConfig.for_model(**folder)
        elif written_by_newer(folder):
            config = load_config(folder)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: its config.json makes no model ({first:.300})") from error
