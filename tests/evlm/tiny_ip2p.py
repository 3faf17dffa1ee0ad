"""A small random InstructPix2Pix of the real classes, saved in the layouts that users have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from evlm.edit.clip_tokenizer import load_tokenizer
from evlm.edit.ip2p import IP2P
from evlm.edit.parts import SD15, original_names

PREDICTION = {
    "epsilon": {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
    },
    "v_prediction": {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    },
}  # fmt: skip


def build(prediction: str = "epsilon", linear: bool = False, seed: int = 0) -> Any:
    """diffusers' own pipeline around random models: VAE f = 2, UNet of three levels, as bundled."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=linear,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=16,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=1,
        )
    )
    # Fresh UNets start near zero in their last layers; larger weights make every part of the loop visible.
    for parameter in [*unet.parameters(), *vae.parameters()]:
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae.eval(),
        unet=unet.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=load_tokenizer(SD15 / "tokenizer"),
        scheduler=DDIMScheduler(prediction_type=prediction, clip_sample=False, **PREDICTION[prediction]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_folder(pipe: Any, folder: Path, manner: dict[str, Any] | None = None) -> Path:
    """A diffusers folder, with evlm.json unless `manner` is empty."""
    pipe.save_pretrained(folder)
    if manner is None:
        manner = {"best_resolution": 32, "full_frame_resolution": 32, "steps": 3, "scheduler": "ddim"}
    if manner:
        (folder / "evlm.json").write_text(json.dumps(manner))
    return folder


def save_original(pipe: Any, path: Path) -> Path:
    """One file in the original names, with what else such files hold."""
    names = original_names(pipe.unet, pipe.vae)
    tensors = {}
    for part in ("unet", "vae", "text_encoder"):
        for name, value in getattr(pipe, part).state_dict().items():
            there = names[part](name)
            if part == "vae" and ".attn_1." in there and there.endswith("weight") and value.ndim == 2:
                value = value[:, :, None, None]  # 1x1 convolutions in the original
            tensors[there] = value.contiguous()
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["betas"] = torch.linspace(0, 1, 1000)
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def save_configs(folder: Path, configs: Path) -> Path:
    """The folder without its weights: what IP2P.load wants as `config`."""
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(folder, configs, ignore=ignored))


def load(folder: Path) -> IP2P:
    return IP2P.load(folder, device="cpu")


def frames(count: int = 1, height: int = 64, width: int = 64, seed: int = 7) -> torch.Tensor:
    """[count, height, width, 3] of smooth noise in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 8, 8, generator=generator)
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return large.movedim(1, -1).contiguous()
