"""LoRA adapters in and out: one safetensors file with everything that says where it belongs, or a PEFT
folder.

Keys are PEFT's (`base_model.model.<module>.lora_A.weight`), so that a file of ours beside an
adapter_config.json is a PEFT adapter, and still known as ours. The metadata names the base model and a hash
of its shape, the LoRA settings, the trace grammar, mask codec and prompt style that the weights were trained
on, and a summary of the training. Whatever does not fit is refused with the reason before a tensor is read.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MaskTextError
from ..files.pictures import write_atomically
from ..models.safetensors_file import Header, read_header, read_tensors
from ..plan.form import LEARNED
from ..plan.mask_codec import MASK_CODEC_VERSION, get_codec
from ..plan.trace import TRACE_VERSION
from .lora import PEFT_PREFIX, Lora, check_places, lora_from_peft

FORMAT_VERSION = 1
_DTYPES = ("F32", "F16", "BF16")
_MAX_JSON = 1 << 20
_PROMPT = re.compile(rf"(full|short)(-({'|'.join(LEARNED)}))?")


@dataclass(frozen=True)
class AdapterMeta:
    """What an adapter says of itself. The fields after `lora` are None for a PEFT folder of other
    makers, which does not say them.

    base_model: name of the backbone, for people. base_config_hash: `config_hash` of its configuration.
    prompt: prompt style (messages.py), "full" or "short"; of fewer parts "short-direct". training: JSON-able
        summary (steps, rows, scores).
    """

    lora: Lora
    base_model: str = ""
    base_config_hash: str | None = None
    prompt: str | None = None
    mask_codec: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """The model that an adapter must fit: its `config_hash`, and the [out, in] shape of each linear
    module."""

    config_hash: str
    shapes: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, model: nn.Module) -> Expected:
        """Of a transformers model, on any device, the meta device too."""
        return cls(config_hash(model.config), linear_shapes(model))


def save_adapter(path: str | Path, tensors: Mapping[str, Tensor], meta: AdapterMeta) -> None:
    """Write an adapter atomically: a reader sees the old file or the whole new one.

    `tensors` as `peft.get_peft_model_state_dict` gives them (float32, float16 or bfloat16). Raises
    CheckpointError for anything that `load_adapter` would refuse.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: adapters are written as .safetensors, not {path.suffix!r}")
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise CheckpointError(f"{name} is {tensor.dtype}; an adapter is float32, float16 or bfloat16")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinity and is not saved; lower the learning rate")
        # A copy: views of one storage and strided tensors are what safetensors refuses.
        kept[name] = tensor.detach().to("cpu", copy=True).contiguous()
    if not kept:
        raise CheckpointError("there are no tensors to save; pass get_peft_model_state_dict(model)")
    content = save(kept, metadata=_to_metadata(meta))
    write_atomically(path, lambda file: file.write(content))


def load_adapter(path: str | Path, expect: Expected | None = None) -> tuple[dict[str, Tensor], AdapterMeta]:
    """Tensors (CPU) and metadata of an adapter: our single file, or a PEFT folder.

    With `expect` everything is compared with that model before a tensor is read, and the keys come back as
    `<module>.lora_A.weight` with the model's own module names, also where the adapter was saved under
    the names of an older transformers. Without it they come back as stored. Raises CheckpointError.
    """
    path = Path(path)
    if path.is_dir():
        file, meta = path / "adapter_model.safetensors", _read_peft_meta(path)
        header = read_header(file)
        if "evlm.format_version" in header.metadata:  # an export of ours; its settings may have been changed
            meta = replace(_from_metadata(file, header), lora=meta.lora)
    else:
        file, header = path, read_header(path)
        meta = _from_metadata(path, header)
    for name, info in header.tensors.items():
        if info.dtype not in _DTYPES:
            raise CheckpointError(f"{file}: {name} is {info.dtype}; an adapter holds {', '.join(_DTYPES)}")
    if not header.tensors:
        raise CheckpointError(f"{file} holds no tensors")
    if expect is None:
        return read_tensors(file, header), meta
    if meta.base_config_hash not in (None, expect.config_hash):
        raise CheckpointError(
            f"{file} was trained on {meta.base_model or 'another model'} (shape {meta.base_config_hash}); "
            f"this model's shape is {expect.config_hash}. Load the base model that the adapter names"
        )
    stored = {name.removeprefix(PEFT_PREFIX): info.shape for name, info in header.tensors.items()}
    if len(stored) != len(header.tensors):
        raise CheckpointError(f"{file} holds the same tensor with and without the prefix {PEFT_PREFIX!r}")
    names = check_places(file, stored, meta.lora, expect.shapes)
    return {names[name.removeprefix(PEFT_PREFIX)]: t for name, t in read_tensors(file, header).items()}, meta


def config_hash(config: Any) -> str:
    """Sixteen hex digits of what fixes the shape of a backbone: family, widths, depths, heads,
    vocabulary, patches.

    The same for the same architecture in every transformers version, and for base and instruct weights.
    """
    text, vision = getattr(config, "text_config", config), config.vision_config
    shape = {
        "family": config.model_type,
        "text": {key: getattr(text, key) for key in _TEXT_FIELDS},
        "vision": {key: getattr(vision, key) for key in _VISION_FIELDS if hasattr(vision, key)},
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """[out, in] of each linear module by name: the places where LoRA can go."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def _to_metadata(meta: AdapterMeta) -> dict[str, str]:
    if meta.base_config_hash is None or meta.prompt is None or meta.mask_codec is None:
        raise CheckpointError(
            "an adapter is saved with base_config_hash, prompt and mask_codec; one of them is None"
        )
    try:
        training = json.dumps(meta.training, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the training summary is not JSON: {error}") from None
    content = {
        "format": "pt",
        "evlm.format_version": str(FORMAT_VERSION),
        "evlm.base_model": meta.base_model,
        "evlm.base_config_hash": meta.base_config_hash,
        "evlm.lora": json.dumps(meta.lora.to_peft()),
        "evlm.trace_version": str(TRACE_VERSION),
        "evlm.mask_codec": meta.mask_codec,
        "evlm.mask_codec_version": str(MASK_CODEC_VERSION),
        "evlm.prompt": meta.prompt,
        "evlm.training": training,
    }
    _from_metadata(Path("the new adapter"), Header({}, content))  # what is written can be read
    return content


def _from_metadata(path: Path, header: Header) -> AdapterMeta:
    data = header.metadata
    if "evlm.format_version" not in data:
        raise CheckpointError(
            f"{path} has no EVLM metadata. An adapter made by PEFT is loaded as its folder "
            "(adapter_config.json and adapter_model.safetensors together); a whole model as its Hugging Face "
            "folder"
        )
    missing = [key for key in _KEYS if key not in data]
    if missing:
        raise CheckpointError(f"{path}: the metadata lacks {', '.join(missing)}; save the adapter again")
    for key, known, what in (
        ("evlm.format_version", FORMAT_VERSION, "file format"),
        ("evlm.trace_version", TRACE_VERSION, "trace grammar"),
        ("evlm.mask_codec_version", MASK_CODEC_VERSION, "mask codec"),
    ):
        if data[key] != str(known):
            raise CheckpointError(
                f"{path} was made for version {data[key]!r:.20} of the {what}, this is version {known}; "
                "update ComfyUI-EVLM if the file is newer, train again if it is older"
            )
    if not _PROMPT.fullmatch(data["evlm.prompt"]):
        raise CheckpointError(
            f"{path}: unknown prompt style {data['evlm.prompt']!r:.40}; update ComfyUI-EVLM"
        )
    try:
        get_codec(data["evlm.mask_codec"])
    except MaskTextError as error:
        raise CheckpointError(f"{path}: {error}; update ComfyUI-EVLM") from None
    return AdapterMeta(
        lora=lora_from_peft(path, _json(path, data["evlm.lora"])),
        base_model=data["evlm.base_model"],
        base_config_hash=data["evlm.base_config_hash"],
        prompt=data["evlm.prompt"],
        mask_codec=data["evlm.mask_codec"],
        training=_json(path, data["evlm.training"]),
    )


def _read_peft_meta(folder: Path) -> AdapterMeta:
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no adapter_config.json; it is not a PEFT folder")
    if not (folder / "adapter_model.safetensors").is_file():
        raise CheckpointError(
            f"{folder} has no adapter_model.safetensors (adapter_model.bin is a pickle and never loaded); "
            "save it again with save_pretrained(folder, safe_serialization=True)"
        )
    if file.stat().st_size > _MAX_JSON:
        raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes; that is no adapter configuration")
    try:
        config = _json(file, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    base = config.get("base_model_name_or_path")
    return AdapterMeta(lora=lora_from_peft(file, config), base_model=base if isinstance(base, str) else "")


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: broken JSON ({str(error)[:120]}); download or save it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {text[:40]!r}")
    return content


_KEYS = tuple(
    f"evlm.{key}"
    for key in (
        "format_version",
        "base_model",
        "base_config_hash",
        "lora",
        "trace_version",
        "mask_codec",
        "mask_codec_version",
        "prompt",
        "training",
    )
)
_TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
_VISION_FIELDS = (
    "depth", "embed_dim", "hidden_size", "out_hidden_size", "intermediate_size", "num_heads", "patch_size",
    "spatial_merge_size", "temporal_patch_size",
)  # fmt: skip
