"""Folders whose weights are stored in few bits: by which method, and whether this machine can read it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .loading import read_json

# method -> groups of packages (import name, pip's name); of each group one must be installed
_NEEDS: dict[str, tuple[tuple[tuple[str, str], ...], ...]] = {
    "awq": ((("gptqmodel", "gptqmodel"), ("awq", "autoawq")),),
    "gptq": ((("optimum", "optimum"),), (("gptqmodel", "gptqmodel"), ("auto_gptq", "auto-gptq"))),
    "compressed-tensors": ((("compressed_tensors", "compressed-tensors"),),),
    "auto-round": ((("auto_round", "auto-round"),),),
    "torchao": ((("torchao", "torchao"),),),
    "bitsandbytes": ((("bitsandbytes", "bitsandbytes"),),),
    "quanto": ((("optimum.quanto", "optimum-quanto"),),),
    "hqq": ((("hqq", "hqq"),),),
    "aqlm": ((("aqlm", "aqlm"),),),
    "vptq": ((("vptq", "vptq"),),),
    "quark": ((("quark", "amd-quark"),),),
}
_SCALES = ("scale_weight", "scale_input", "weight_scale", "weight_scale_inv", "scaled_fp8", "comfy_quant")


def quantization_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The method by which a folder's weights are quantised, None for plain ones; config: its config.json.

    Raises ModelError where the package that the method needs is not installed, and for a method that
    transformers would ignore.
    """
    settings = _settings(config)
    if settings is None:
        return None
    method = None
    if isinstance(settings, dict):
        method = settings.get("quant_method")
        if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
            method = "bitsandbytes"
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    if not isinstance(method, str) or method not in known:
        raise ModelError(
            f"{folder} is quantised in a way that this transformers does not know ({method!r:.40}): "
            f"expected one of {', '.join(sorted(known))}. Take the model's plain weights in 16 bits"
        )
    for alternatives in _NEEDS.get(method, ()):
        if not any(_installed(module) for module, _ in alternatives):
            packages = " or ".join(package for _, package in alternatives)
            raise ModelError(
                f"{folder} is quantised with {method}, which needs the package {packages} "
                f"(pip install {alternatives[0][1]}); or take the model's plain weights in 16 bits"
            )
    return method


def check_unquantised(folder: Path, config: Mapping[str, Any], what: str) -> None:
    """Raises ModelError for a folder with quantised weights, where `what` is loaded from plain ones alone:
    it is small, and moved between devices."""
    method = quantization_of(folder, config)
    if method is not None:
        raise ModelError(
            f"{folder} is quantised with {method}, and {what} is not loaded so; take its plain weights in "
            "16 or 32 bits"
        )


def check_four_bit(device: Any) -> None:
    """Raises ModelError where a device (torch's) cannot hold weights that are made 4 bits while they are
    loaded."""
    if not _installed("bitsandbytes"):
        raise ModelError(
            "quantize '4bit' needs the package bitsandbytes (pip install bitsandbytes); or load in bf16"
        )
    if device.type == "cuda":
        return
    if device.type != "cpu":
        raise ModelError(
            f"quantize '4bit' works on a CUDA device or a CPU, not on {device}; load in bf16 or fp32 instead"
        )
    import bitsandbytes

    if "cpu" not in getattr(bitsandbytes, "supported_torch_devices", ()):
        raise ModelError(
            f"quantize '4bit': bitsandbytes {bitsandbytes.__version__} knows CUDA alone; pip install -U "
            "bitsandbytes, or load in bf16 or fp32"
        )


def keep_plain_on_cpu(model: Any, every: bool = False) -> None:
    """Keeps bitsandbytes from packing 4-bit weights anew once a model in eval mode has been run on a CPU that
    computes in bfloat16: packed ones cut the graph of what learns, compute in bfloat16 whatever was asked
    for, and must have rows in thirty-twos, of whole blocks. every: of all modules; else of those that packing
    would break."""
    import torch

    for module in model.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        block = getattr(getattr(module.weight, "quant_state", None), "blocksize", 64)
        breaks = module.out_features % 32 or module.in_features % block
        if every or breaks or module.compute_dtype != torch.bfloat16:
            module.support_avx512bf16_for_cpu = False


def is_quantised(folder: Path) -> bool:
    """Whether a folder's weights are stored in few bits; such a model stays on the device it is loaded on.

    Raises ModelError for a broken config.json.
    """
    return (
        _settings(read_json(folder / "config.json", "the configuration of a Hugging Face model")) is not None
    )


def check_plain(where: Path, names: Iterable[str]) -> None:
    """Raises ModelError where tensors of these names are scales, which only a quantised model has.

    ComfyUI's fp8 files are such: weights that mean nothing without the `scale_weight` beside each.
    """
    scales = [name for name in names if name.rpartition(".")[2] in _SCALES]
    if scales:
        raise ModelError(
            f"{where} holds {len(scales)} scales of 8-bit weights, the first is {scales[0]}, and no "
            "quantization_config says what to do with them (files for ComfyUI's own loaders are so); take "
            "the model's plain weights in 16 bits"
        )


def _settings(config: Mapping[str, Any]) -> Any:
    return config.get("quantization_config", config.get("compression_config"))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is not there
        return False
