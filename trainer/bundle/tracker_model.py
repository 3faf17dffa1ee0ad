"""The bundled tracker's model: one `Sam2VideoModel` whose image half serves stills, and its run over a clip.

The library's own forward is for inference, one object at a time. `unroll` computes the same for a batch of
clips, with gradients; a test holds it to the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError
from evlm.segment.tracker import can_track

from .objects import samples
from .segmenter import INPUT, SIZE, at_torchs_scale, make_model, normalise
from .widen import widened

WIDTH = 128  # of neck, decoder and memory attention: above 64, which the library wants of its memories
MEMORY = 64  # channels of a memory: Sam2VideoRoPEAttention is written for this number
SMALL = 0.3  # of a fresh layer's own scale
SURE = 2.0  # a fresh model takes things for present: an absent thing's mask has no gradient


@dataclass(frozen=True)
class Frame:
    """Of one frame of a batch of clips. logits: [B, h, w], low resolution. iou, present: [B], the model's
    guess and its logit."""

    logits: Tensor
    iou: Tensor
    present: Tensor


Points = tuple[Tensor, Tensor]
"""(places [N, P, 2] in the model's pixels, kinds [N, P]: 1 in, 0 out, 2 and 3 a box's corners, -1 none)."""


def make_tracker(segmenter: Path, seed: int = 0) -> Any:
    """A fresh tracker whose image half computes what a trained segmenter does. seed: of the new weights.
    Raises ConfigError where there is no segmenter."""
    from safetensors.torch import load_file
    from transformers import Sam2VideoConfig, Sam2VideoModel

    weights = segmenter / "model.safetensors"
    if not weights.is_file() or can_track(segmenter):
        what = "a tracker already, and" if weights.is_file() else "no segmenter:"
        raise ConfigError(f"{segmenter} is {what} not what a tracker begins with; name another by --begin")
    torch.manual_seed(seed)
    narrow, image = make_model(), make_model(WIDTH)
    narrow.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    image.load_state_dict(widened(narrow, image, torch.Generator().manual_seed(seed)))
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
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
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
        _pass_through(model)
    return model


def _pass_through(model: Any) -> None:
    """Memory attention that begins by giving back the picture's features: small branches, and a last norm
    whose scale and middle are those of the features of some pictures."""
    for layer in model.memory_attention.layers:
        for last in (layer.self_attn.o_proj, layer.cross_attn_image.o_proj, layer.linear2):
            last.weight.mul_(SMALL)
            last.bias.zero_()
    stream = samples("train", 0, SIZE)
    seen = model.get_image_features(normalise([next(stream) for _ in range(8)]), return_dict=True)
    coarse = seen.fpn_hidden_states[-1]
    model.memory_attention.layer_norm.weight.fill_(float(coarse.std(-1).mean()))
    model.memory_attention.layer_norm.bias.fill_(float(coarse.mean()))


def stills(model: Any) -> Any:
    """The tracker's image half as a `Sam2Model`: it holds the same weights and trains them."""
    view = make_model(WIDTH)
    for name in ("shared_image_embedding", "vision_encoder", "prompt_encoder", "mask_decoder"):
        setattr(view, name, getattr(model, name))
    view.no_memory_embedding = model.no_memory_embedding
    return view


def unroll(
    model: Any,
    clips: Tensor,
    points: Points,
    whose: Tensor | None = None,
    corrected: dict[int, Callable[[Frame], Points]] | None = None,
) -> list[Frame]:
    """The tracker over a batch of clips, each thing by itself, from what shows it in the first frame.

    clips: [B, T, 3, S, S], normalised, S the model's input. points: of N things. whose: [N], the clip of each
    (default: one thing a clip). corrected: by frame, given what the model says there, the points that correct
    it.
    """
    count = clips.shape[1]
    whose = torch.arange(len(clips)) if whose is None else whose
    things, sizes = len(whose), model.backbone_feature_sizes
    features = model.get_image_features(clips.transpose(0, 1).flatten(0, 1), return_dict=True)
    maps = [each.unflatten(1, (count, -1))[:, :, whose] for each in features.fpn_hidden_states]
    place = features.fpn_position_encoding[-1].unflatten(1, (count, -1))[:, 0, whose]
    memories: list[tuple[Tensor, Tensor]] = []
    pointers: list[Tensor] = []
    frames = []
    for t in range(count):
        seen = [each[:, t] for each in maps]
        fine = [
            each.permute(1, 2, 0).reshape(things, -1, *size)
            for each, size in zip(seen[:-1], sizes[:-1], strict=True)
        ]
        if t == 0:
            pixels = seen[-1] + model.no_memory_embedding
        else:
            pixels = _remember(model, t, seen[-1], place, memories, pointers)
        image = [*fine, pixels.permute(1, 2, 0).reshape(things, -1, *sizes[-1])]
        given = points if t == 0 else None
        if corrected and t in corrected:
            with torch.no_grad():
                given = corrected[t](_frame(_found(model, image, given)))
        found = _found(model, image, given)
        frames.append(_frame(found))
        memories.append(
            model._encode_new_memory(
                current_vision_feats=seen[-1],
                pred_masks_high_res=found.high_res_masks,
                object_score_logits=found.object_score_logits.reshape(things, 1, 1),
                is_mask_from_pts=given is not None,
            )
        )
        pointers.append(found.object_pointer.reshape(things, -1))
    return frames


def _found(model: Any, image: list[Tensor], points: Points | None) -> Any:
    places, kinds = (None, None) if points is None else (each[:, None] for each in points)
    return model._single_frame_forward(
        input_points=places, input_labels=kinds, image_embeddings=image, multimask_output=False
    )


def _frame(found: Any) -> Frame:
    present = found.object_score_logits.reshape(-1)
    return Frame(found.pred_masks[:, 0].float(), found.iou_scores[:, 0, 0].float(), present.float())


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
