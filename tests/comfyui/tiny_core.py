"""A custom node for the tests' server: core's own models of three kinds, with few and random weights.

Core's loaders tell a model by sizes that only the real ones have, so the objects are made here as those
loaders make them; everything that runs is core's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.ldm.wan.vae
import comfy.model_base
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models as supported
import comfy.text_encoders.flux as flux
import comfy.text_encoders.llama as llama
import comfy.text_encoders.qwen_image as qwen_image
import comfy.text_encoders.qwen_vl as qwen_vl
import comfy.text_encoders.t5
import torch
from comfy.ldm.flux.model import FluxParams
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.supported_models_base import ClipTarget

WIDTH = 64
CLIP_L = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1,
          "hidden_act": "quick_gelu", "max_position_embeddings": 77, "vocab_size": 49408,
          "eos_token_id": 49407, "projection_dim": WIDTH}  # fmt: skip
T5 = {"d_ff": WIDTH, "d_kv": 32, "d_model": WIDTH, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True,
      "num_heads": 2, "num_layers": 1, "vocab_size": 32128, "model_type": "t5"}  # fmt: skip
QWEN = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "num_layers": 1}
UNET = {"image_size": 32, "in_channels": 8, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1, "context_dim": WIDTH, "num_heads": 2, "use_spatial_transformer": True,
        "use_linear_in_transformer": False, "adm_in_channels": None,
        "use_temporal_attention": False}  # fmt: skip
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": WIDTH, "patch_size": 2,
        "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True,
        "guidance_embed": True}  # fmt: skip
QWEN_IMAGE = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 32,
              "num_attention_heads": 2, "joint_attention_dim": 128,
              "axes_dims_rope": (8, 12, 12)}  # fmt: skip

WAN_VACE = {"image_model": "wan2.1", "model_type": "vace", "dim": 48, "ffn_dim": 64, "freq_dim": 32,
            "text_dim": WIDTH, "num_heads": 2, "num_layers": 2, "vace_layers": 1,
            "vace_in_dim": 96}  # fmt: skip


def randomised(module: torch.nn.Module, seed: int) -> Any:
    """Core leaves what it makes empty, for a file to fill: here weights that keep their input's scale."""
    random = torch.Generator().manual_seed(seed)
    for name, each in module.named_parameters():
        if each.ndim > 1:
            each.data = torch.randn(each.shape, generator=random) / each[0].numel() ** 0.5
        else:
            each.data = (
                torch.ones(each.shape)
                if name.endswith(("weight", "scale", "gamma"))
                else 0.1 * torch.randn(each.shape, generator=random)
            )
    return module.eval().requires_grad_(False)


@contextmanager
def replaced(module: ModuleType, name: str, other: Any) -> Iterator[None]:
    """Meanwhile core makes another class."""
    whole = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, whole)


def tiny_vision(whole: Any = qwen_vl.Qwen2VLVisionTransformer, **how: Any) -> Any:
    return whole(**{**how, **VISION})


def patched(config: Any, made: type) -> ModelPatcher:
    config.set_inference_dtype(torch.float32, None)
    model = randomised(made(config, device="cpu"), 1)
    return ModelPatcher(model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())


def encoder(tokenizer: type, model: type) -> Any:
    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model))
    randomised(clip.cond_stage_model, 2)
    return clip


def coder(channels: int) -> Any:
    """An AutoencoderKL."""
    sizes = {"double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3,
             "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
             "dropout": 0.0}  # fmt: skip
    how = {"ddconfig": sizes, "embed_dim": channels}
    made = randomised(comfy.ldm.models.autoencoder.AutoencoderKL(**how), 3)
    return comfy.sd.VAE(sd=made.state_dict(), config={"params": how})


class TinyClip(SDClipModel):
    def __init__(self, **how: Any) -> None:
        super().__init__(**{**how, "textmodel_json_config": dict(CLIP_L)})


class TinySD1(SD1ClipModel):
    def __init__(self, **how: Any) -> None:
        super().__init__(clip_model=TinyClip, **how)


class TinyT5(SDClipModel):
    def __init__(self, **how: Any) -> None:
        end, t5 = {"end": 1, "pad": 0}, comfy.text_encoders.t5.T5
        super().__init__(textmodel_json_config=dict(T5), special_tokens=end, model_class=t5, **how)


class TinyFlux(flux.FluxClipModel):
    def __init__(self, device: str = "cpu", dtype: Any = None, **how: Any) -> None:
        torch.nn.Module.__init__(self)
        self.clip_l = TinyClip(device=device, dtype=dtype, return_projected_pooled=False)
        self.t5xxl = TinyT5(device=device, dtype=dtype)
        self.dtypes = {dtype}


class TinyQwen(qwen_image.Qwen25_7BVLIModel):
    def __init__(self, device: str = "cpu", dtype: Any = None, **how: Any) -> None:
        SDClipModel.__init__(
            self,
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(QWEN),
            special_tokens={"pad": 151643},
            layer_norm_hidden_state=False,
            model_class=llama.Qwen25_7BVLI,
            enable_attention_masks=True,
            return_attention_masks=True,
        )


class TinyQwenImage(qwen_image.QwenImageTEModel):
    def __init__(self, **how: Any) -> None:
        SD1ClipModel.__init__(self, name="qwen25_7b", clip_model=TinyQwen, **how)


def instruct_pix2pix() -> tuple[Any, Any, Any]:
    model = patched(supported.SD15_instructpix2pix(dict(UNET)), comfy.model_base.SD15_instructpix2pix)
    return model, encoder(SD1Tokenizer, TinySD1), coder(4)


def kontext() -> tuple[Any, Any, Any]:
    later = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    model = patched(supported.Flux({**FLUX, **later}), comfy.model_base.Flux)
    return model, encoder(flux.FluxTokenizer, TinyFlux), coder(16)


class TinyWan(torch.nn.Module):
    """What core's VAE asks of Wan's, whose least one takes half a minute of a CPU for a megapixel."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.down = torch.nn.Conv3d(3, 16, (1, 8, 8), (1, 8, 8))
        self.up = torch.nn.ConvTranspose3d(16, 3, (1, 8, 8), (1, 8, 8))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(x[:, :, ::4])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.up(z.repeat_interleave(4, 2)[:, :, 3:])


def qwen() -> tuple[Any, Any, Any]:
    model = patched(supported.QwenImage(dict(QWEN_IMAGE)), comfy.model_base.QwenImage)
    with replaced(qwen_vl, "Qwen2VLVisionTransformer", tiny_vision):
        clip = encoder(qwen_image.QwenImageTokenizer, TinyQwenImage)
    return model, clip, wan_coder()


def wan_coder() -> Any:
    told_by = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True]).state_dict()
    with replaced(comfy.ldm.wan.vae, "WanVAE", TinyWan):
        vae = comfy.sd.VAE(sd=told_by)
    randomised(vae.first_stage_model, 3)
    return vae


def wan_vace() -> tuple[Any, Any, Any]:
    """Its own text encoder takes its words from a file of the real one: Flux's are as good."""
    model = patched(supported.WAN21_Vace(dict(WAN_VACE)), comfy.model_base.WAN21_Vace)
    return model, encoder(flux.FluxTokenizer, TinyFlux), wan_coder()


def plain() -> tuple[Any, Any, Any]:
    """Stable Diffusion 1.5, which edits nothing."""
    model = patched(supported.SD15({**UNET, "in_channels": 4}), comfy.model_base.BaseModel)
    return model, encoder(SD1Tokenizer, TinySD1), coder(4)


MAKERS = {
    "instruct-pix2pix": instruct_pix2pix,
    "flux-kontext": kontext,
    "qwen-image-edit": qwen,
    "wan-vace": wan_vace,
    "plain": plain,
}


class TinyModels:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CLIP", "VAE"), "make", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"which": (list(MAKERS),)}}

    def make(self, which: str) -> tuple[Any, Any, Any]:
        return MAKERS[which]()


NODE_CLASS_MAPPINGS = {"TinyCoreModels": TinyModels}
