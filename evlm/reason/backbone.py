"""Loads a Qwen-VL backbone from its Hugging Face folder, checked, with its processor and an adapter.

Qwen2-VL, Qwen2.5-VL and Qwen3-VL, through transformers 4.57 and 5.x. Nothing is downloaded, no code of the
folder is run, no pickle is opened.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.checkpoint import AdapterMeta, Expected, load_adapter
from ..adapter.lora import attach_lora
from ..errors import CheckpointError, ModelError
from ..models.families import REASONERS
from ..models.load_report import check_report
from ..models.loading import half_dtype, pick_device, pick_dtype, read_json, read_notes
from ..models.quantized import check_four_bit, check_plain, keep_plain_on_cpu, quantization_of
from ..models.safetensors_file import read_header
from ..plan.native_boxes import OF_FAMILY, OWN, BoxForm, box_form
from ..plan.trace import Trust
from .messages import MAX_FRAMES, PromptStyle, for_untuned, get_style
from .transformers_compat import load_config, load_processor, written_by_newer

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
DEFAULT_MAX_PIXELS = 1280 * 28 * 28
"""A picture's budget where nobody sets one, 1.0 megapixel or 1,280 tokens. The models themselves would take
12.8 megapixels, 16,384 tokens, which no usual card holds."""

_MOST_FRAMES = 768  # of a video, which is what Qwen2.5-VL was trained on at most
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_CPU_FLOAT32_BYTES = 4 << 30  # weights up to this size are computed in float32 on a CPU


@dataclass
class Backbone:
    """A loaded model. `model` is the transformers module (in eval mode), `quantized` says that it cannot
    move; `tuned`, that it knows the form, and `trust`, whether it was trained on masks (`Plan.trust`).
    `boxes`: the form in which one that was not tuned writes a box. `temperature` is that of its confidence,
    where one was fitted (`confidence.confidence`), by a second look if `second_look` says so."""

    model: nn.Module
    processor: Any
    family: str
    style: PromptStyle
    codec: str
    max_frames: int
    quantized: bool
    adapter: AdapterMeta | None
    tuned: bool = True
    trust: Trust = "tuned"
    boxes: BoxForm = OWN
    temperature: float | None = None
    second_look: bool = False

    @property
    def request_style(self) -> PromptStyle:
        """How a request is put to it: in the words it was tuned on, or with all that must be said to one that
        was not."""
        return self.style if self.tuned else for_untuned(self.style, self.boxes)


def load_backbone(
    source: str | Path,
    adapter: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attention: str | None = None,
    quantize: str | None = None,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    style: str | None = None,
) -> Backbone:
    """See `Reasoner.load`. Raises ModelError, or CheckpointError for an adapter that does not fit."""
    folder = Path(source)
    config = _check_folder(folder)
    stored = quantization_of(folder, config)
    files = _check_weights(folder, plain=stored is None)
    where = pick_device(device)
    kind = pick_dtype(dtype, auto_dtype(where, sum(file.stat().st_size for file in files)))
    _check_attention(attention)
    processor = open_processor(folder, max_pixels, min_pixels)
    model = _load_model(folder, kind, where, attention, quantize, stored)
    quantized = quantize is not None or stored is not None
    _check_processor(folder, processor, model.config)
    meta = None
    if adapter is not None:
        tensors, meta = load_adapter(adapter, Expected.of(model))
        wrapped = attach_lora(model, tensors, meta.lora)
        # Merged weights cost nothing per token; 4-bit weights would lose small changes in their rounding.
        if quantized:
            model = wrapped.get_base_model()
        else:
            _untie(model, tensors)
            model = wrapped.merge_and_unload()
    notes = read_notes(folder)
    said = style or (meta and meta.prompt) or notes.get("prompt", "full")
    asked = get_style(said, baselines=True)
    boxes = box_form(notes["boxes"]) if "boxes" in notes else OF_FAMILY[config["model_type"]]
    return Backbone(
        model=model.eval().requires_grad_(False),
        processor=processor,
        family=config["model_type"],
        style=asked,
        codec=str((meta and meta.mask_codec) or notes.get("mask_codec", "box-spans-8")),
        max_frames=_max_frames(folder, notes),
        quantized=quantized,
        adapter=meta,
        tuned=(meta is not None or "prompt" in notes) and not asked.untuned,
        boxes=boxes,
        trust="tuned" if (meta and meta.mask_codec) or "mask_codec" in notes else "base",
        temperature=_temperature(folder, notes) if meta is None else None,
        second_look=_second_look(folder, notes) and meta is None,
    )


def _max_frames(folder: Path, notes: Mapping[str, Any]) -> int:
    value = notes.get("max_frames", MAX_FRAMES)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_FRAMES:
        return value
    raise ModelError(f"{folder / 'evlm.json'}: max_frames {value!r:.40}, expected 1 to {_MOST_FRAMES}")


def _temperature(folder: Path, notes: Mapping[str, Any]) -> float | None:
    """Of the confidence. An adapter makes another model, for which it was not fitted."""
    value = notes.get("confidence_temperature")
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ModelError(f"{folder / 'evlm.json'}: confidence_temperature {value!r:.40}, expected above 0")
    return float(value)


def _second_look(folder: Path, notes: Mapping[str, Any]) -> bool:
    value = notes.get("second_look", False)
    if not isinstance(value, bool) or (value and "confidence_temperature" not in notes):
        raise ModelError(
            f"{folder / 'evlm.json'}: second_look {value!r:.40}, expected true or false, and a "
            "confidence_temperature that was fitted with it"
        )
    return value


def open_processor(source: str | Path, max_pixels: int | None = None, min_pixels: int | None = None) -> Any:
    """A folder's processor as `load_backbone` sets it up, without the model. Raises ModelError."""
    folder = Path(source)
    family = _check_folder(folder)["model_type"]
    processor = _load_processor(folder, family)
    set_pixel_budget(processor, family, min_pixels, max_pixels)
    return processor


def auto_dtype(device: torch.device, weight_bytes: int) -> torch.dtype:
    """What "auto" means: bfloat16 on CUDA where the card computes in it, else float16; float16 on Apple; on a
    CPU float32 for weights up to 4 GiB on disk, else bfloat16."""
    if device.type == "cuda":
        return half_dtype(device)
    if device.type == "cpu":
        return torch.float32 if weight_bytes <= _CPU_FLOAT32_BYTES else torch.bfloat16
    return torch.float16


def set_pixel_budget(processor: Any, family: str, min_pixels: int | None, max_pixels: int | None) -> None:
    """Sets the smallest and largest picture, in pixels, that the processor makes of what it is given.

    None keeps the model's own limits, the largest at most DEFAULT_MAX_PIXELS. A frame of a video has a
    quarter of the largest, and no more than the model's own limit. Raises ModelError when the limits
    contradict each other or are below one patch.
    """
    images = processor.image_processor
    limits = dict(images.size)
    low = limits["shortest_edge"] if min_pixels is None else min_pixels
    high = min(limits["longest_edge"], DEFAULT_MAX_PIXELS) if max_pixels is None else max_pixels
    side = images.patch_size * images.merge_size
    if max_pixels is not None and min_pixels is None:
        low = min(low, high)
    if not side * side <= high or not 0 < low <= high:
        raise ModelError(
            f"image budget {low:,} to {high:,} pixels: expected 0 < min_pixels <= max_pixels and "
            f"max_pixels of at least {side * side} (one patch of this model)"
        )
    _set_size(images, low, high)
    videos = getattr(processor, "video_processor", None)
    if videos is None:
        return
    count = MAX_FRAMES if REASONERS[family].counts_all_frames else 1
    limits = dict(videos.size)
    budget = DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels
    most = min(limits["longest_edge"], max(side * side, budget // 4) * count)
    _set_size(videos, min(limits["shortest_edge"], most), most)
    if getattr(videos, "cap_pixels_per_frame", False) is None:
        videos.cap_pixels_per_frame = False  # the budget is set here; None only warns


def _set_size(processor: Any, low: int, high: int) -> None:
    processor.size = type(processor.size)(shortest_edge=low, longest_edge=high)
    if hasattr(processor, "min_pixels"):  # transformers 4.57 keeps a second copy
        processor.min_pixels, processor.max_pixels = low, high


def _check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json, of one of our families."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder. A reasoner is a Hugging Face folder of Qwen2-VL, Qwen2.5-VL or "
            "Qwen3-VL; `python -m evlm models` lists what is there and how to fetch more"
        )
    config = read_json(folder / "config.json", "the configuration of a Hugging Face model")
    family = config.get("model_type")
    if family not in REASONERS:
        raise ModelError(
            f"{folder} is a model of type {family!r:.40}; a reasoner is one of {', '.join(REASONERS)}"
        )
    return config


def _check_weights(folder: Path, plain: bool) -> list[Path]:
    """The safetensors files of a folder, sharded or single, each with a sound header. plain: without the
    scales of quantised weights."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        table = read_json(index, "the list of weight files").get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise ModelError(f"{index} has no weight_map; download the folder again")
        names = sorted(set(table.values()))
        if any(Path(name).name != name for name in names):
            raise ModelError(f"{index} names files outside its folder; do not use this download")
        files = [folder / name for name in names]
    elif single.is_file():
        files = [single]
    else:
        raise ModelError(
            f"{folder} has no model.safetensors; weights in .bin files are pickles and never loaded"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {', '.join(missing[:3])} ({len(missing)} files); finish the download"
        )
    tensors: list[str] = []
    for file in files:
        try:
            tensors += read_header(file).tensors
        except CheckpointError as error:
            raise ModelError(str(error)) from None
    if plain:
        check_plain(folder, tensors)
    return files


def _check_attention(attention: str | None) -> None:
    if attention not in (None, *ATTENTIONS):
        raise ModelError(f"attention {attention!r}: expected one of {', '.join(ATTENTIONS)}, or None")
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise ModelError(
            "attention flash_attention_2 needs the package flash-attn; use 'sdpa', which needs nothing"
        )


def _load_processor(folder: Path, family: str) -> Any:
    from transformers import AutoProcessor

    try:
        if written_by_newer(folder):
            processor = load_processor(folder, family)
        else:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{folder}: the processor cannot be loaded ({_first_line(error)}). Tokenizer, image processor "
            "and chat template must lie beside the weights; download the whole folder"
        ) from error
    if not processor.chat_template:
        processor.chat_template = _template_of_tokenizer(folder, processor)
    return processor


def _template_of_tokenizer(folder: Path, processor: Any) -> str:
    """The chat template that lies in tokenizer_config.json, where the folder has no file for it.

    A tokenizer's may be of a model without eyes: one that drops the pictures is refused.
    """
    template = processor.tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if not template:
        raise ModelError(
            f"{folder} has no chat template, neither chat_template.jinja nor one in tokenizer_config.json; "
            "download the whole folder"
        )
    content = [{"type": "image"}, {"type": "text", "text": "a"}]
    try:
        text = processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False
        )
    except Exception as error:  # a template is a program; what it raises is its own
        raise ModelError(
            f"{folder}: the chat template in tokenizer_config.json fails ({_first_line(error)})"
        ) from error
    if processor.image_token not in text:
        raise ModelError(
            f"{folder}: the chat template in tokenizer_config.json leaves pictures out, so it belongs to a "
            "model of words alone; take chat_template.jinja from the model's own repository"
        )
    return str(template)


def _check_processor(folder: Path, processor: Any, config: Any) -> None:
    """transformers makes an empty tokenizer of a folder without one; such a processor would mean other
    tokens."""
    words = processor.tokenizer
    for token, expected in (
        (processor.image_token, config.image_token_id),
        (processor.video_token, config.video_token_id),
    ):
        number = words.convert_tokens_to_ids(token)
        if number != expected:
            raise ModelError(
                f"{folder}: the tokenizer gives {token} the number {number}, the model {expected}; the "
                "tokenizer is missing or belongs to another model. Download the whole folder"
            )


def _load_model(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    quantize: str | None,
    stored: str | None,
) -> Any:
    """stored: the method by which the folder's own weights are quantised."""
    from transformers import AutoModelForImageTextToText

    options: dict[str, Any] = {}
    if attention is not None:
        options["attn_implementation"] = attention
    if quantize is not None:
        options.update(_quantization(quantize, dtype, device))
    elif stored is not None:
        options["device_map"] = {"": device}  # such weights are made where they stay
    try:
        if written_by_newer(folder):
            options["config"] = load_config(folder)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged or quantised folder makes the libraries raise nearly anything
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}") from error
    check_report(folder, report, strict=stored is None)  # a quantiser has tensors of its own
    if quantize is not None or stored is not None:
        keep_plain_on_cpu(model)
        return model
    for parameter in model.parameters():  # transformers 4 leaves weights that lie in fp8 as they are
        if parameter.dtype in _FP8:
            parameter.data = parameter.data.to(dtype)
    return model.to(device)


def _untie(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Gives the output layer weights of its own where an adapter changes it and it shares the embedding's.

    Such an adapter adds to what the output layer computes and leaves the embedding alone: merged into shared
    weights it would change both.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    layer = getattr(head, "base_layer", head)
    names = [name for name, module in model.named_modules() if module is head]
    if layer.weight is embedding.weight and any(f"{name}.lora_A.weight" in tensors for name in names):
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def _quantization(quantize: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if quantize != "4bit":
        raise ModelError(f"quantize {quantize!r}: expected '4bit' or None")
    check_four_bit(device)
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
