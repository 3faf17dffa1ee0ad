"""Qwen-VL of random weights at the sizes that people have, made where they are computed, and toys of each
family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from evlm.reason.backbone import Backbone
from evlm.reason.messages import SHORT
from trainer.bundle.tiny_qwen import TEMPLATE

from ..guided_overhead import whole_vocabulary
from .steps import Setting

Shape = dict[str, Any]
MODELS = ("Qwen2-VL-2B", "Qwen2-VL-7B", "Qwen2.5-VL-7B", "Qwen3-VL-8B")
FAMILY = {
    "Qwen2-VL-2B": "qwen2_vl",
    "Qwen2-VL-7B": "qwen2_vl",
    "Qwen2.5-VL-7B": "qwen2_5_vl",
    "Qwen3-VL-8B": "qwen3_vl",
}
SIDE = {"qwen2_vl": 448, "qwen2_5_vl": 448, "qwen3_vl": 512}  # pixels of a picture of 256 tokens
_SEVEN = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_TEXT: dict[str, Shape] = {  # the models' own config.json
    "Qwen2-VL-2B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "Qwen2-VL-7B": _SEVEN,
    "Qwen2.5-VL-7B": _SEVEN,
    "Qwen3-VL-8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}
_VISION: dict[str, Shape] = {
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
    "qwen2_5_vl": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "qwen3_vl": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}
_TOY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_TOY_VISION: dict[str, Shape] = {
    "qwen2_vl": {"depth": 1, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
    "qwen2_5_vl": {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
                   "window_size": 56, "fullatt_block_indexes": [1]},
    "qwen3_vl": {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
                 "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
}  # fmt: skip


def backbone(name: str, setting: Setting) -> Backbone:
    """A model of one of MODELS' sizes (a toy of its family), with a processor, in `setting.half` on the
    device."""
    import transformers as hf

    family, tokenizer = FAMILY[name], whole_vocabulary(1_000 if setting.toy else 151_669)
    kinds = {
        "qwen2_vl": (hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration),
        "qwen2_5_vl": (hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration),
        "qwen3_vl": (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration),
    }
    config_kind, model_kind = kinds[family]
    text = {**(_TOY_TEXT if setting.toy else _TEXT[name])}
    head = text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    sections = [head // 8, head * 3 // 16, head * 3 // 16]
    rope: Shape = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    if family == "qwen3_vl":
        rope["mrope_interleaved"] = True
    vision = {**(_TOY_VISION if setting.toy else _VISION)[family]}
    vision["hidden_size" if family == "qwen2_vl" else "out_hidden_size"] = text["hidden_size"]
    if family != "qwen3_vl":
        text.pop("head_dim")
    words = {"image": "image_pad", "video": "video_pad"}
    words |= {name: name for name in ("vision_start", "vision_end")}
    config = config_kind(
        text_config={
            **text,
            "vocab_size": len(tokenizer) if setting.toy else 152_064,
            "max_position_embeddings": 32_768,
            "rope_parameters": rope,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=vision,
        tie_word_embeddings=name == "Qwen2-VL-2B",
        **{f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{word}|>") for key, word in words.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(setting.half)
    try:
        with torch.device(setting.device):
            model = model_kind(config)
    finally:
        torch.set_default_dtype(before)
    model = model.eval().requires_grad_(False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    made = processor(family, tokenizer, setting)
    return Backbone(model, made, family, SHORT, "box-spans-8", 8, False, None, tuned=True)


def save(made: Backbone, folder: Path) -> None:
    """As a folder that `load_backbone` and our loaders take."""
    model: Any = made.model
    model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    about = {"prompt": made.style.name, "mask_codec": made.codec}
    (folder / "evlm.json").write_text(json.dumps(about), "utf-8")


def processor(family: str, tokenizer: Any, setting: Setting) -> Any:
    """The family's own, for pictures of one size."""
    import transformers as hf

    side = picture_side(family, setting)
    shape: Shape = {
        "patch_size": 16 if family == "qwen3_vl" else 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": side * side, "longest_edge": side * side},
    }
    images = hf.Qwen2VLImageProcessor(**shape)
    if family == "qwen3_vl":
        clips = hf.Qwen3VLVideoProcessor(**shape)
        return hf.Qwen3VLProcessor(images, tokenizer, clips, chat_template=TEMPLATE)
    kind = hf.Qwen2VLProcessor if family == "qwen2_vl" else hf.Qwen2_5_VLProcessor
    return kind(images, tokenizer, hf.Qwen2VLVideoProcessor(**shape), chat_template=TEMPLATE)


def picture_side(family: str, setting: Setting) -> int:
    return SIDE[family] // 8 if setting.toy else SIDE[family]
