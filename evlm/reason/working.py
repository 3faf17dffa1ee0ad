"""How much memory a reasoner needs beside its weights: an estimate, for those who make room for it."""

from __future__ import annotations

from typing import Any

from ..request import Request
from .messages import MAX_FRAMES

_WORDS = 2500  # tokens of the system text, the labels and the form, at most
_ROWS = 6  # rows as wide as a layer's inside that are alive at once while a question is read
_PATCH_ROWS = 16  # the same of the vision tower, in its own width


def working_bytes(model: Any, processor: Any, request: Request, answer: int, frames: int = MAX_FRAMES) -> int:
    """Keys and values of all tokens, and what one layer and the vision tower hold of the question.

    answer: tokens that may be written. frames: of a video, that are looked at.
    """
    config, images = model.config.get_text_config(), processor.image_processor
    side = images.patch_size * images.merge_size
    most = images.size["longest_edge"] // (side * side)
    shown = [request.original, *(each.frames for each in request.references if each.frames is not None)]
    each = [
        min(most, max(1, clip.shape[1] * clip.shape[2] // (side * side))) * min(len(clip), frames)
        for clip in shown
    ]
    words = _WORDS + len(request.prompt) + sum(len(each.text) + len(each.note) for each in request.references)
    asked = words + sum(each)
    number = model.dtype.itemsize
    heads = config.num_key_value_heads
    wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kept = 2 * config.num_hidden_layers * heads * wide * number * (asked + answer)
    layer = asked * (_ROWS * config.intermediate_size + 8 * config.hidden_size) * number
    vision = model.config.vision_config
    patch = getattr(vision, "embed_dim", None) or vision.hidden_size
    seen = sum(each) * images.merge_size**2 * _PATCH_ROWS * patch * number
    return int(kept + max(layer, seen) + 2 * config.vocab_size * 4)
