"""SAM 2 checkpoints in Meta's format: reading them, telling which model they are, and renaming them for
transformers.

Meta ships `.pt` files ({"model": tensors}); others pass the same names on as `.safetensors`. Neither says
which model it is, so the four released sizes are told by the shapes of their tensors, and any other needs
its YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, serialization

from ..errors import CheckpointError, ModelError

PATCH = "image_encoder.trunk.patch_embed.proj.weight"
# what only tracking through a video needs, and transformers' Sam2Model does not have
VIDEO_ONLY = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)


@dataclass(frozen=True)
class Sam2Shape:
    """What the tensors of a Meta checkpoint do not say. Defaults are what all released models share."""

    name: str
    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...] = (8, 4, 14, 7)
    image_size: int = 1024
    top_down: tuple[int, ...] = (2, 3)


RELEASED = (
    Sam2Shape("hiera_t", 96, 1, (1, 2, 7, 2), (5, 7, 9)),
    Sam2Shape("hiera_s", 96, 1, (1, 2, 11, 2), (7, 10, 13)),
    Sam2Shape("hiera_b+", 112, 2, (2, 3, 16, 3), (12, 16, 20)),
    Sam2Shape("hiera_l", 144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
)


def read_meta(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a `.pt`, `.pth` or `.safetensors` file with Meta's names, on the CPU.

    A `.pt` is unpickled with weights_only: tensors and nothing that could run. Raises CheckpointError.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        elif path.suffix in (".pt", ".pth"):
            state = serialization.load(path, map_location="cpu", weights_only=True)
        else:
            raise CheckpointError(f"{path}: a SAM 2 file ends in .safetensors, .pt or .pth")
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(f"{path} cannot be read as a SAM 2 checkpoint: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} does not hold named tensors; expected a SAM 2 checkpoint by Meta")
    if PATCH not in state:
        raise CheckpointError(f"{path} has no tensor {PATCH!r}: not a SAM 2 checkpoint with Meta's names")
    return state


def shape_of(state: Mapping[str, Tensor], config: str | os.PathLike[str] | None = None) -> Sam2Shape:
    """Which SAM 2 a checkpoint is: one of the released sizes, or what the YAML `config` says. Raises
    ModelError."""
    if config is not None:
        return shape_from_yaml(load_yaml(config), Path(config).stem)
    width, blocks = state[PATCH].shape[0], _block_count(state)
    for shape in RELEASED:
        if (width, blocks) == (shape.embed_dim, sum(shape.stages)):
            return shape
    sizes = ", ".join(f"{s.name} {s.embed_dim} x {sum(s.stages)}" for s in RELEASED)
    raise ModelError(
        f"a SAM 2 of width {width} with {blocks} blocks is none of the released ones ({sizes}); "
        "give its YAML as `config`"
    )


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `model` part of a sam2 YAML. It may only name classes of `sam2.modeling`. Raises ModelError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML, but "1e-6" is a number, as it is for the loader that sam2 uses."""

    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
        model = value["model"]
        targets = list(_targets(model))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a SAM 2 configuration (a YAML with a `model`): {error!r}") from error
    strange = [t for t in targets if not re.fullmatch(r"sam2\.modeling(\.\w+)+", str(t))]
    if strange:
        raise ModelError(f"{path} would build {strange[0]!r}; only classes of sam2.modeling are allowed")
    return model


def shape_from_yaml(model: Mapping[str, Any], name: str = "custom") -> Sam2Shape:
    """The shape in the `model` part of a sam2 YAML; what it leaves out is what sam2's classes default to."""
    try:
        trunk, neck = model["image_encoder"]["trunk"], model["image_encoder"]["neck"]
        return Sam2Shape(
            name=name,
            embed_dim=int(trunk.get("embed_dim", 96)),
            num_heads=int(trunk.get("num_heads", 1)),
            stages=tuple(trunk.get("stages", (2, 3, 16, 3))),
            global_blocks=tuple(trunk.get("global_att_blocks", (12, 16, 20))),
            windows=tuple(trunk.get("window_spec", (8, 4, 14, 7))),
            image_size=int(model.get("image_size", 512)),
            top_down=tuple(neck.get("fpn_top_down_levels") or range(len(neck["backbone_channel_list"]))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the SAM 2 configuration {name!r} lacks a part or has a wrong one: {error!r}"
        ) from error


def transformers_config(state: Mapping[str, Tensor], shape: Sam2Shape) -> Any:
    """The `Sam2Config` of a Meta checkpoint. Widths come from the tensors, the rest from `shape`."""
    from transformers import Sam2Config

    widths = [shape.embed_dim * 2**i for i in range(len(shape.stages))]
    hidden = state["sam_prompt_encoder.no_mask_embed.weight"].shape[1]
    decoder = "sam_mask_decoder."
    feature = shape.image_size // 4
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": shape.embed_dim,
        "num_attention_heads": shape.num_heads,
        "image_size": [shape.image_size, shape.image_size],
        "blocks_per_stage": list(shape.stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [shape.num_heads * 2**i for i in range(len(shape.stages))],
        "window_size_per_stage": list(shape.windows),
        "global_attention_blocks": list(shape.global_blocks),
        "window_positional_embedding_background_size": list(state["image_encoder.trunk.pos_embed"].shape[2:]),
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[feature >> i, feature >> i] for i in range(3)],
        "fpn_hidden_size": hidden,
        "fpn_top_down_levels": list(shape.top_down),
    }
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": hidden, "image_size": shape.image_size, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": hidden,
            "mlp_dim": state[f"{decoder}transformer.layers.0.mlp.layers.0.weight"].shape[0],
            "iou_head_hidden_dim": state[f"{decoder}iou_prediction_head.layers.0.weight"].shape[0],
        },
    )


# Meta's name -> transformers' name; the first rule of each block that matches is applied, block by block.
_RULES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"^sam_prompt_encoder\.", "prompt_encoder."),
        (r"^sam_mask_decoder\.", "mask_decoder."),
        (r"^no_mem_embed$", "no_memory_embedding"),
    ),
    (
        (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
        (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
        (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
        (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
        (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
        (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
        (r"\.output_upscaling\.0\.", ".upscale_conv1."),
        (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
        (r"\.output_upscaling\.3\.", ".upscale_conv2."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"\.out_proj\.", ".o_proj."),
        # heads of three layers, then blocks' MLPs of two
        (r"(_mlps\.\d+|_head)\.layers\.0\.", r"\1.proj_in."),
        (r"(_mlps\.\d+|_head)\.layers\.1\.", r"\1.layers.0."),
        (r"(_mlps\.\d+|_head)\.layers\.2\.", r"\1.proj_out."),
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    ),
)


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's tensors under the names of transformers' `Sam2Model`; what only tracking needs is left out."""
    renamed: dict[str, Tensor] = {}
    points: dict[int, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(VIDEO_ONLY):
            continue
        if match := re.fullmatch(r"sam_prompt_encoder\.point_embeddings\.(\d+)\.weight", name):
            points[int(match[1])] = tensor
            continue
        for rules in _RULES:
            for pattern, replacement in rules:
                name, hits = re.subn(pattern, replacement, name)
                if hits:
                    break
        renamed[name] = tensor
    if points:
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([points[i] for i in sorted(points)])
    shared = renamed.get("prompt_encoder.shared_embedding.positional_embedding")
    if shared is not None:  # transformers keeps the image's copy apart from the prompts'
        renamed["shared_image_embedding.positional_embedding"] = shared
    return renamed


def build_transformers(state: Mapping[str, Tensor], shape: Sam2Shape) -> Any:
    """A `Sam2Model` with a Meta checkpoint's weights, in fp32. Raises ModelError where names or shapes do not
    fit."""
    from transformers import Sam2Model

    try:
        model = Sam2Model(transformers_config(state, shape))
        missing, unexpected = model.load_state_dict(to_transformers(state), strict=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"the checkpoint does not fit SAM 2 {shape.name}: {error}") from error
    if missing or unexpected:
        raise ModelError(
            f"the checkpoint does not fit SAM 2 {shape.name}: "
            f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return model.eval()


def _block_count(state: Mapping[str, Tensor]) -> int:
    matches = (re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _targets(value: Any) -> Any:
    """Every `_target_` in a nested configuration, and anything else that hydra would act on."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "_target_" or (isinstance(key, str) and key.startswith("_") and key.endswith("_")):
                yield inner if key == "_target_" else key
            yield from _targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _targets(inner)
