"""The bundled tracker's model: one `Sam2VideoModel` whose image half serves stills, and its run over a clip.

The library's own forward is for inference, one object at a time. `unroll` computes the same for a batch of
clips, with gradients; a test holds it to the library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .segmenter import INPUT, at_torchs_scale, make_model

WIDTH = 128  # of neck, decoder and memory attention: above 64, which the library wants of its memories
MEMORY = 64  # channels of a memory: Sam2VideoRoPEAttention is written for this number
SURE = 2.0  # a fresh model takes things for present: an absent thing's mask has no gradient


@dataclass(frozen=True)
class Frame:
    """Of one frame of a batch of clips. logits: [B, h, w], low resolution. iou, present: [B], the model's
    guess and its logit."""

    logits: Tensor
    iou: Tensor
    present: Tensor


def make_tracker(segmenter: Path) -> Any:
    """A fresh tracker with the Hiera of a trained segmenter, whose width the rest does not share."""
    from safetensors.torch import load_file
    from transformers import Sam2VideoConfig, Sam2VideoModel

    image = make_model(WIDTH)
    carried = {
        name: tensor.float()
        for name, tensor in load_file(segmenter / "model.safetensors").items()
        if name.startswith("vision_encoder.backbone.")
    }
    image.load_state_dict(image.state_dict() | carried)
    side = INPUT // 16
    config = Sam2VideoConfig(
        vision_config=image.config.vision_config.to_dict(),
        prompt_encoder_config=image.config.prompt_encoder_config.to_dict(),
        mask_decoder_config=image.config.mask_decoder_config.to_dict(),
        image_size=INPUT,
        multimask_output_for_tracking=False,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_num_attention_heads=1,
        memory_attention_downsample_rate=1,
        memory_attention_feed_forward_hidden_size=WIDTH,
        memory_attention_rope_feat_sizes=[side, side],
        memory_encoder_hidden_size=WIDTH,
        memory_encoder_output_channels=MEMORY,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=WIDTH,
        memory_fuser_num_layers=2,
    )
    config._attn_implementation = "eager"
    model = Sam2VideoModel(config)
    for module in (model.memory_attention, model.memory_encoder, model.object_pointer_proj):
        at_torchs_scale(module)
    model.load_state_dict(model.state_dict() | image.state_dict())
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(SURE)
        model.memory_temporal_positional_encoding.normal_(std=0.02)
    return model


def stills(model: Any) -> Any:
    """The tracker's image half as a `Sam2Model`: it holds the same weights and trains them."""
    view = make_model(WIDTH)
    for name in ("shared_image_embedding", "vision_encoder", "prompt_encoder", "mask_decoder"):
        setattr(view, name, getattr(model, name))
    view.no_memory_embedding = model.no_memory_embedding
    return view


def unroll(model: Any, clips: Tensor, boxes: Tensor) -> list[Frame]:
    """The tracker over a batch of clips, one thing in each, from its box in the first frame.

    clips: [B, T, 3, S, S], normalised, S the model's input. boxes: [B, 4] in its pixels.
    """
    batch, count = clips.shape[:2]
    features = model.get_image_features(clips.transpose(0, 1).flatten(0, 1), return_dict=True)
    maps = [each.unflatten(1, (count, batch)) for each in features.fpn_hidden_states]
    places = [each.unflatten(1, (count, batch)) for each in features.fpn_position_encoding]
    sizes = model.backbone_feature_sizes
    memories: list[tuple[Tensor, Tensor]] = []
    pointers: list[Tensor] = []
    frames = []
    for t in range(count):
        seen = [each[:, t] for each in maps]
        fine = [
            each.permute(1, 2, 0).reshape(batch, -1, *size)
            for each, size in zip(seen[:-1], sizes[:-1], strict=True)
        ]
        if t == 0:
            pixels = seen[-1] + model.no_memory_embedding
        else:
            pixels = _remember(model, t, seen[-1], places[-1][:, t], memories, pointers)
        found = model._single_frame_forward(
            input_boxes=boxes[:, None] if t == 0 else None,
            image_embeddings=[*fine, pixels.permute(1, 2, 0).reshape(batch, -1, *sizes[-1])],
            multimask_output=False,
        )
        present = found.object_score_logits.reshape(batch)
        frames.append(
            Frame(found.pred_masks[:, 0].float(), found.iou_scores[:, 0, 0].float(), present.float())
        )
        memories.append(
            model._encode_new_memory(
                current_vision_feats=seen[-1],
                pred_masks_high_res=found.high_res_masks,
                object_score_logits=found.object_score_logits.reshape(batch, 1, 1),
                is_mask_from_pts=t == 0,
            )
        )
        pointers.append(found.object_pointer.reshape(batch, -1))
    return frames


def _remember(
    model: Any,
    now: int,
    seen: Tensor,
    place: Tensor,
    memories: list[tuple[Tensor, Tensor]],
    pointers: list[Tensor],
) -> Tensor:
    """The features [HW, B, C] of frame `now` under what is remembered: the first frame and the newest others,
    as the library chooses them."""
    kept = [(0, 0)] + [(back, now - back) for back in range(model.num_maskmem - 1, 0, -1) if now - back > 0]
    values = [memories[frame][0].to(seen.dtype) for _, frame in kept]
    at = [memories[frame][1] + model.memory_temporal_positional_encoding[back - 1] for back, frame in kept]
    most = model.config.max_object_pointers_in_encoder
    order = [0, *(now - back for back in range(1, most) if now - back > 0)]
    told, told_at = model._process_object_pointers(
        [now - frame for frame in order],
        [pointers[frame] for frame in order],
        most,
        seen.shape[1],
        model.hidden_dim,
        seen.device,
    )
    out = model.memory_attention(
        current_vision_features=seen,
        current_vision_position_embeddings=place,
        memory=torch.cat([*values, told]),
        memory_posision_embeddings=torch.cat([*at, told_at]),
        num_object_pointer_tokens=len(told),
    )
    return out.reshape(seen.shape[1], *seen.shape[::2]).transpose(0, 1) if out.ndim == 4 else out
