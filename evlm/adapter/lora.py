"""LoRA settings, where each LoRA tensor goes in a model, and putting it there through PEFT."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError, ModelError

PEFT_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)(\.weight)?"
)
_MAX_RANK = 4096

# Module names of Qwen-VL before transformers 4.52, and as other trainers write them.
_OLD_PREFIXES = (
    ("model.layers.", "model.language_model.layers."),
    ("language_model.model.layers.", "model.language_model.layers."),
    ("language_model.layers.", "model.language_model.layers."),
    ("visual.", "model.visual."),
)
# Settings of PEFT that change the result in ways not handled here, with their harmless value.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "use_qalora": (False,),
    "arrow_config": (None,),
    "use_bdlora": (None, False),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "alora_invocation_tokens": (None, []),
}
# Starts of a LoRA (`init_lora_weights`) that leave the base as it was. The others, pissa, olora, corda, loftq
# and lora_ga, took what they start with out of it; one that is not known here might.
_KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class Lora:
    """LoRA settings in PEFT's meaning: W + scale * B A, scale = alpha / rank (alpha / sqrt(rank) with
    `rslora`).

    `targets` is PEFT's target_modules, for people and for training on; on loading the tensors' own
    names decide. The patterns give other ranks and alphas to modules whose names end so.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] | str = ()
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        return _by_ending(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        return _by_ending(self.alpha_pattern, module, self.alpha)

    def to_peft(self) -> dict[str, Any]:
        """The same as an adapter_config.json says it."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets),
            "use_rslora": self.rslora,
            "use_dora": self.dora,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
        }


def lora_from_peft(where: str | Path, config: Mapping[str, Any]) -> Lora:
    """Settings of an adapter_config.json. Raises CheckpointError for every kind of adapter that is not plain
    LoRA (with rsLoRA and DoRA)."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{where} is an adapter of type {kind!r:.40}; only LoRA is supported")
    for key, harmless in _NEUTRAL.items():
        if key in config and config[key] not in harmless:
            raise CheckpointError(
                f"{where} sets {key} to {config[key]!r:.80}, which is not supported; merge that "
                "adapter into its base model with PEFT and load the merged folder"
            )
    start = config.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in _KEEPS_BASE:
        raise CheckpointError(
            f"{where} was started with {start!r:.40}, which also changed the base model or is not known "
            "here; save it again with PEFT's path_initial_model_for_weight_conversion, as plain LoRA"
        )
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    targets = config.get("target_modules") or ()
    if not _is_rank(rank) or not _is_number(alpha):
        raise CheckpointError(f"{where}: r {rank!r:.40} and lora_alpha {alpha!r:.40} are no rank and scale")
    if not isinstance(targets, str) and not (
        isinstance(targets, (list, tuple, set)) and all(isinstance(each, str) for each in targets)
    ):
        raise CheckpointError(f"{where}: target_modules {targets!r:.80} is no list of names")
    return Lora(
        rank=rank,
        alpha=alpha,
        targets=targets if isinstance(targets, str) else tuple(sorted(targets)),
        rslora=config.get("use_rslora") is True,
        dora=config.get("use_dora") is True,
        rank_pattern=_pattern(where, "rank_pattern", config, _is_rank),
        alpha_pattern=_pattern(where, "alpha_pattern", config, _is_number),
    )


def check_places(
    where: str | Path,
    stored: Mapping[str, tuple[int, ...]],
    lora: Lora,
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, str]:
    """Finds the place of each LoRA tensor.

    stored: name (without PEFT's prefix) -> shape. shapes: linear module -> [out, in] (`linear_shapes`).
    Returns stored name -> `<module of this model>.<kind>`. Raises CheckpointError unless every tensor
    has exactly one place and its exact shape, and no module has half an adapter.
    """
    names: dict[str, str] = {}
    parts: dict[str, set[str]] = {}
    lost: list[str] = []
    for name, shape in stored.items():
        match = _TENSOR.fullmatch(name)
        module = module_for(match["module"], shapes) if match else None
        if match is None or module is None:
            lost.append(name)
            continue
        kind = match["kind"]
        if kind in parts.setdefault(module, set()):
            raise CheckpointError(f"{where}: two tensors claim {kind} of {module}")
        parts[module].add(kind)
        names[name] = f"{module}.{kind}"
        (out, into), rank = shapes[module], lora.rank_of(module)
        expected = {
            "lora_A.weight": (rank, into),
            "lora_B.weight": (out, rank),
            "lora_magnitude_vector": (out,),
        }
        if shape != expected[kind]:
            raise CheckpointError(
                f"{where}: {name} has shape {list(shape)}, this model with rank {rank} needs "
                f"{list(expected[kind])}; "
                "it was trained on another model size or saved with other settings"
            )
    if any(".lora_embedding_" in name for name in lost):
        raise CheckpointError(
            f"{where} has a LoRA on the embedding, which is not supported; merge it into its base model with "
            "PEFT and load the merged folder"
        )
    embeddings = ("embed_tokens", "lm_head.weight", ".base_layer.")
    if any(part in name for name in lost for part in embeddings):
        raise CheckpointError(
            f"{where} holds embeddings beside its LoRA, which is not supported; save it again with PEFT's "
            "save_pretrained(..., save_embedding_layers=False) if they were not trained, else merge it into "
            "its base model with PEFT and load the merged folder"
        )
    if lost:
        raise CheckpointError(
            f"{where}: {len(lost)} of {len(stored)} tensors have no place in this model, the first is "
            f"{lost[0]!r:.120}; the adapter belongs to another architecture or is no LoRA"
        )
    needed = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector"} if lora.dora else set())
    for module, kinds in parts.items():
        if kinds != needed:
            raise CheckpointError(f"{where}: {module} has {sorted(kinds)}, expected {sorted(needed)}")
    return names


def module_for(module: str, shapes: Mapping[str, tuple[int, int]]) -> str | None:
    """The linear module of this model that another name for it means (as transformers before 4.52 and other
    trainers write it); None where there is none. shapes: `linear_shapes`."""
    if module in shapes:
        return module
    for old, new in _OLD_PREFIXES:
        if module.startswith(old) and (renamed := new + module[len(old) :]) in shapes:
            return renamed
    return None


def attach_lora(model: nn.Module, tensors: Mapping[str, Tensor], lora: Lora) -> Any:
    """The model wrapped in a `peft.PeftModel` that carries the tensors of `load_adapter(..., expect)`.

    Draws no random numbers. Adapter weights are float32 where the base is half precision, as PEFT does it.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelError("LoRA adapters need the package peft: pip install peft")
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    modules = sorted({name.partition(".lora_")[0] for name in tensors})
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=modules,
        rank_pattern={m: lora.rank_of(m) for m in modules},
        alpha_pattern={m: lora.alpha_of(m) for m in modules},
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        lora_dropout=0.0,
    )
    wrapped = get_peft_model(model, config, low_cpu_mem_usage=True)
    state = {PEFT_PREFIX + name: tensor for name, tensor in tensors.items()}
    result = set_peft_model_state_dict(wrapped, state, low_cpu_mem_usage=True)
    missing = [key for key in result.missing_keys if ".lora_" in key]
    if missing or result.unexpected_keys:
        raise CheckpointError(
            f"PEFT found no place for {result.unexpected_keys[:2]} and no tensor for {missing[:2]}"
        )
    return wrapped


def _by_ending(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule for plain names: the first pattern that the module's dotted name ends with."""
    for ending, value in pattern.items():
        for old, new in (("", ""), *_OLD_PREFIXES):
            if ending.startswith(old) and f".{module}".endswith(f".{new}{ending[len(old) :]}"):
                return value
    return default


def _pattern(where: str | Path, key: str, config: Mapping[str, Any], good: Any) -> dict[str, Any]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict) or not all(good(value) for value in pattern.values()):
        raise CheckpointError(f"{where}: {key} {pattern!r:.80} is no map from names to numbers")
    for ending in pattern:
        if not re.fullmatch(r"[\w.]+", ending):
            raise CheckpointError(
                f"{where}: {key} has the pattern {ending!r:.80}; only plain module names are supported"
            )
    return pattern


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MAX_RANK


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
