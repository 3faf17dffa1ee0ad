"""Small random SAM 2 models in the layouts users have: Meta's file with its YAML, transformers' folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

SIDE = 64

# The released YAML's structure at width 16, 64-pixel input.
YAML = f"""
model:
  _target_: sam2.modeling.sam2_base.SAM2Base
  image_encoder:
    _target_: sam2.modeling.backbones.image_encoder.ImageEncoder
    scalp: 1
    trunk:
      _target_: sam2.modeling.backbones.hieradet.Hiera
      embed_dim: 16
      num_heads: 1
      stages: [1, 2, 2, 1]
      global_att_blocks: [4]
      window_spec: [8, 4, 4, 2]
      window_pos_embed_bkg_spatial_size: [4, 4]
    neck:
      _target_: sam2.modeling.backbones.image_encoder.FpnNeck
      position_encoding: &sine
        _target_: sam2.modeling.position_encoding.PositionEmbeddingSine
        num_pos_feats: 32
        normalize: true
        scale: null
        temperature: 10000
      d_model: 32
      backbone_channel_list: [128, 64, 32, 16]
      fpn_top_down_levels: [2, 3]
      fpn_interp_model: nearest
  memory_attention:
    _target_: sam2.modeling.memory_attention.MemoryAttention
    d_model: 32
    pos_enc_at_input: true
    num_layers: 1
    layer:
      _target_: sam2.modeling.memory_attention.MemoryAttentionLayer
      activation: relu
      dim_feedforward: 32
      dropout: 0.1
      d_model: 32
      pos_enc_at_attn: false
      pos_enc_at_cross_attn_keys: true
      pos_enc_at_cross_attn_queries: false
      self_attention: &attention
        _target_: sam2.modeling.sam.transformer.RoPEAttention
        rope_theta: 10000.0
        feat_sizes: [4, 4]
        embedding_dim: 32
        num_heads: 1
        downsample_rate: 1
        dropout: 0.1
      cross_attention:
        <<: *attention
        rope_k_repeat: true
        kv_in_dim: 16
  memory_encoder:
    _target_: sam2.modeling.memory_encoder.MemoryEncoder
    in_dim: 32
    out_dim: 16
    position_encoding:
      <<: *sine
      num_pos_feats: 16
    mask_downsampler:
      _target_: sam2.modeling.memory_encoder.MaskDownSampler
      kernel_size: 3
      stride: 2
      padding: 1
      embed_dim: 32
    fuser:
      _target_: sam2.modeling.memory_encoder.Fuser
      num_layers: 1
      layer:
        _target_: sam2.modeling.memory_encoder.CXBlock
        dim: 32
        kernel_size: 7
        padding: 3
  num_maskmem: 7
  image_size: {SIDE}
  directly_add_no_mem_embed: true
  no_obj_embed_spatial: true
  use_high_res_features_in_sam: true
  multimask_output_in_sam: true
  iou_prediction_use_sigmoid: true
  use_obj_ptrs_in_encoder: true
  add_tpos_enc_to_obj_ptrs: true
  proj_tpos_enc_in_obj_ptrs: true
  pred_obj_scores: true
  pred_obj_scores_mlp: true
  fixed_no_obj_ptr: true
  use_mlp_for_obj_ptr_proj: true
"""


def tiny_yaml() -> dict[str, Any]:
    return yaml.safe_load(YAML)


def make_meta(folder: Path) -> dict[str, Path]:
    """Writes tiny.yaml, tiny.pt and tiny.safetensors with Meta's names. Needs the sam2 package."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    paths = {kind: folder / f"tiny.{kind}" for kind in ("yaml", "pt", "safetensors")}
    paths["yaml"].write_text(YAML)
    torch.manual_seed(1)
    model = instantiate(OmegaConf.create(tiny_yaml()["model"]))
    shake(model)
    torch.save({"model": model.state_dict()}, paths["pt"])
    save_file(model.state_dict(), paths["safetensors"])
    return paths


def make_folder(folder: Path, width: int = 32, memory: int = 16) -> Path:
    """Writes a folder with a `Sam2VideoModel`, which is what Meta's own repositories on the hub hold.

    width, memory: transformers runs the memory part only with a memory of 64 and a width that is a larger
    multiple of it.
    """
    from transformers import Sam2VideoConfig, Sam2VideoModel

    torch.manual_seed(2)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "fpn_hidden_size": width,
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": width, "image_size": SIDE},
        mask_decoder_config={"hidden_size": width, "mlp_dim": 64, "iou_head_hidden_dim": 32},
        image_size=SIDE,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=memory,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
    )
    model = Sam2VideoModel(config)
    shake(model)
    model.save_pretrained(folder)
    return folder


def shake(model: torch.nn.Module) -> None:
    """Random numbers everywhere: a zero left by the initialisation would hide a misplaced tensor."""
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2


def calmed(tracker: Any) -> Any:
    """Smaller random weights: what a frame looks at shows in its mask, and no mask is all or nothing. It
    takes its object for present, for the mask of an absent one is a constant."""
    for name, parameter in tracker.model.named_parameters():
        parameter.data *= 0.5
        if "pred_obj_score_head" in name and parameter.numel() == 1:
            parameter.data += 1
    return tracker
