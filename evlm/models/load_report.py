"""What `from_pretrained` says of a folder's tensors: none may lack, and none may be left out unseen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .quantized import check_plain

_COMPUTED = ("inv_freq", "position_ids")  # buffers that older versions saved, and every model computes


def load_folder(kind: Any, folder: Path, what: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder in transformers' layout, complete, from safetensors of this disk alone.

    kind: its class, with `from_pretrained`. what: "the segmenter", for messages. Raises ModelError.
    """
    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # a damaged folder makes the libraries raise nearly anything
        raise ModelError(f"{what} in {folder} cannot be loaded: {error}") from error
    check_report(folder, report)
    return model


def check_report(folder: Path, report: Mapping[str, Any], strict: bool = False) -> None:
    """Raises ModelError where `from_pretrained(..., output_loading_info=True)` found tensors missing, which
    it would have drawn at random, or scales of 8-bit weights unused; strict: or any tensor unused."""
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not name.endswith(_COMPUTED))
    check_plain(folder, unexpected)
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}; the weights belong to "
            "another configuration. Download the folder again"
        )
    if strict and unexpected:
        raise ModelError(
            f"{folder}: {len(unexpected)} tensors have no place in the model, the first is {unexpected[0]}; "
            "they may change what the others mean, so nothing is loaded without them. Take the model's plain "
            "weights in 16 bits"
        )
