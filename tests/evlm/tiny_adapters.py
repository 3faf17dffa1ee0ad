"""Random LoRA adapters of the tiny models, and the bytes of their files. Not a test file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import tiny_qwen
import torch
from torch import Tensor

from evlm.adapter.checkpoint import AdapterMeta, Expected, config_hash, save_adapter
from evlm.adapter.lora import Lora, lora_from_peft

TARGETS = ["q_proj", "v_proj", "down_proj", "qkv"]


def random_adapter(model: Any, **options: Any) -> Any:
    """The model as a PeftModel whose LoRA is random, B too (PEFT starts it at zero, which changes
    nothing)."""
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **options}
    wrapped = get_peft_model(model, LoraConfig(**options))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return wrapped.eval()


def meta_of(model: Any, lora: Lora, **changes: Any) -> AdapterMeta:
    fields: dict[str, Any] = {
        "lora": lora,
        "base_model": "tiny",
        "base_config_hash": config_hash(model.config),
        "prompt": "short",
        "mask_codec": "box-spans-8",
        "training": {"steps": 10, "loss": 0.5},
    }
    return AdapterMeta(**{**fields, **changes})


def lora_of(wrapped: Any) -> Lora:
    return lora_from_peft("peft", wrapped.peft_config["default"].to_dict())


def weights_of(wrapped: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(wrapped)


def save_good(folder: Path) -> tuple[Path, Expected]:
    """A sound single file, and the model it fits."""
    wrapped = random_adapter(tiny_qwen.make_model())
    path = folder / "good.safetensors"
    save_adapter(path, weights_of(wrapped), meta_of(wrapped.get_base_model(), lora_of(wrapped)))
    return path, Expected.of(tiny_qwen.make_model())


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
