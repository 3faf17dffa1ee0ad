"""The shapes of models that recipes name, to plan a training before anything of the model is on disk.

The numbers are those of each model's config.json on the hub; their sums are held to the catalogue's download
sizes (tests/trainer/run/test_plan_of_a_shape.py). A config.json that is there is read in their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evlm.models.loading import read_json
from evlm.models.zoo import find

from .skeleton import BASES

_Shape = dict[str, Any]
_QWEN2 = ("depth", "embed_dim", "num_heads", "mlp_ratio", "patch_size", "hidden_size")
_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "vocab_size")  # fmt: skip


def _qwen2(text: tuple[int, ...], tied: bool) -> _Shape:
    vision = dict(zip(_QWEN2, (32, 1280, 16, 4, 14, text[0]), strict=True))
    return _model("qwen2_vl", text, vision, tied)


def _qwen2_5(text: tuple[int, ...], tied: bool) -> _Shape:
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
              "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": text[0],
              "tokens_per_second": 2}  # fmt: skip
    return _model("qwen2_5_vl", text, vision, tied)


def _qwen3(text: tuple[int, ...], tower: tuple[int, int, int], deep: list[int], tied: bool) -> _Shape:
    depth, width, inner = tower
    vision = {"depth": depth, "hidden_size": width, "intermediate_size": inner, "num_heads": 16,
              "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": deep,
              "out_hidden_size": text[0]}  # fmt: skip
    return _model("qwen3_vl", text, vision, tied, head_dim=128)


def _model(family: str, text: tuple[int, ...], vision: _Shape, tied: bool, **more: Any) -> _Shape:
    section = [24, 20, 20] if family == "qwen3_vl" else [16, 24, 24]
    return {
        "model_type": family,
        "tie_word_embeddings": tied,
        "text_config": {
            **dict(zip(_TEXT, text, strict=True)),
            **more,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": tied,
            "rope_scaling": {"rope_type": "default", "mrope_section": section},
        },
        "vision_config": vision,
    }


SHAPES: dict[str, _Shape] = {  # by the hub's name
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2((1536, 8960, 28, 12, 2, 151936), True),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2((3584, 18944, 28, 28, 4, 152064), False),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5((2048, 11008, 36, 16, 2, 151936), True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5((3584, 18944, 28, 28, 4, 152064), False),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3((2048, 6144, 28, 16, 8, 151936), (24, 1024, 4096), [5, 11, 17], True),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3((2560, 9728, 36, 32, 8, 151936), (24, 1024, 4096), [5, 11, 17], True),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3(
        (4096, 12288, 36, 32, 8, 151936), (27, 1152, 4304), [8, 16, 24], False
    ),
}


def known_shape(name: str) -> _Shape | Path | None:
    """What config.json says, or the folder of one, of a model that is named as a recipe names it; None where
    nothing is known of it."""
    file = Path(name) / "config.json"
    if file.is_file():
        family = read_json(file, "the configuration of a Hugging Face model").get("model_type")
        return Path(name) if family in BASES else None
    model = find(name)
    return SHAPES.get(model.repo if model else name.partition("@")[0])
