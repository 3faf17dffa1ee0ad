"""Whether a file or folder may be an adapter of a reasoner: asked of thousands of LoRA files, most of which
are another model's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..models.json_file import read_json
from ..models.safetensors_file import header_start

_METADATA = re.compile(rb'\s*\{\s*"__metadata__"\s*:\s*')
_OURS = b'"evlm.format_version"'
# Modules of Qwen-VL's decoder and eyes as PEFT writes them; CLIP's, a UNet's or a diffusion transformer's
# layers are called otherwise.
_MODULES = re.compile(rb"(?:^|[.\"])(?:model|language_model)\.layers\.\d+\.|visual\.(?:blocks|merger)\.")


def is_adapter(path: Path) -> bool:
    """A safetensors file with EVLM's metadata, or a PEFT folder of a LoRA on a vision-language model's
    layers. It is `load_adapter` that checks everything.

    Only the first 64 KB of a header are read. Raises CheckpointError or ModelError for a damaged file.
    """
    if path.is_dir():
        if not (path / "adapter_config.json").is_file():
            return False
        config = read_json(path / "adapter_config.json", "the settings of a PEFT adapter")
        return config.get("peft_type") == "LORA" and bool(
            _MODULES.search(header_start(path / "adapter_model.safetensors"))
        )
    if path.suffix != ".safetensors":
        return False
    start = header_start(path)
    beginning = _METADATA.match(start)
    if beginning is None or _OURS not in start:
        return False
    try:
        text = start[beginning.end() :].decode("utf-8", "replace")
        metadata, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False  # the mark stands somewhere else than among the metadata
    return isinstance(metadata, dict) and "evlm.format_version" in metadata
