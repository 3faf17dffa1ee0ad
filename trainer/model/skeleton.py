"""A backbone's shape without its weights: what a plan and an export need to know of a model of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evlm.errors import ModelError
from evlm.reason.transformers_compat import load_config, written_by_newer


def skeleton(folder: Path) -> Any:
    """The transformers model of a Hugging Face folder on the meta device; no weight is read. Raises
    ModelError."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        if written_by_newer(folder):
            config = load_config(folder)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: its config.json makes no model ({first:.300})") from error
