"""What the parameters of diffusers' classes are called in an original (CompVis / ldm) checkpoint.

A Stable Diffusion file in the original layout holds the UNet as `model.diffusion_model.*`, the VAE as
`first_stage_model.*` and CLIP's text model as `cond_stage_model.transformer.text_model.*`. Here each
diffusers name is translated, so that a loader walks over the parameters that a model HAS and every one
finds its place or is missed by name. The tests hold this table against diffusers' own conversion, which
goes the other way.
"""

from __future__ import annotations

import re

Rules = tuple[tuple[str, str], ...]

_UNET_TOP: dict[str, str] = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET: Rules = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_VAE: Rules = (
    ("conv_shortcut.", "nin_shortcut."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("conv_norm_out.", "norm_out."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.", "mid.attn_1."),
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
)


def unet_name(
    name: str, layers_per_block: int, down_block_types: list[str], up_block_types: list[str]
) -> str:
    """The original name of UNet2DConditionModel's parameter `name`.

    The original counts all layers of the way down, and all of the way up, sampling layers included.
    """
    module, _, leaf = name.rpartition(".")
    if module in _UNET_TOP:
        return f"model.diffusion_model.{_UNET_TOP[module]}.{leaf}"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        kind, index, rest = match[1], int(match[2]), match[3]
        original = f"middle_block.{2 * index if kind == 'resnets' else 2 * index + 1}"
    elif match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        way, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        down, per_block = way == "down", layers_per_block + 1
        if kind == "downsamplers":
            original, rest = f"input_blocks.{per_block * (block + 1)}.0", rest.replace("conv.", "op.")
        elif kind == "upsamplers":
            original = (
                f"output_blocks.{per_block * block + layers_per_block}.{1 + _attends(up_block_types[block])}"
            )
        else:
            first = "input_blocks" if down else "output_blocks"
            original = f"{first}.{per_block * block + layer + down}.{int(kind == 'attentions')}"
    else:
        raise KeyError(f"{name}: not a parameter of a Stable Diffusion UNet")
    if kind == "resnets":
        rest = _apply(_UNET_RESNET, rest)
    return f"model.diffusion_model.{original}.{rest}"


def vae_name(name: str, blocks: int) -> str:
    """The original name of AutoencoderKL's parameter `name`; the decoder's blocks count backwards there."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    name = re.sub(r"(up\.\d+)\.resnets\.(\d+)", r"\1.block.\2", name)
    return "first_stage_model." + _apply(_VAE, name)


def text_name(name: str) -> str:
    """The original name of CLIPTextModel's parameter `name` (transformers 5.6 dropped `text_model.`)."""
    return "cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")


def _attends(block_type: str) -> bool:
    return "CrossAttn" in block_type


def _apply(rules: Rules, name: str) -> str:
    for new, old in rules:
        # at a component's start only: "proj_out." must not become part of another name
        name = re.sub(rf"(^|\.){re.escape(new)}", rf"\g<1>{old}", name)
    return name
