"""A second look: how likely a text is once the colour of the light is taken off its pictures.

A model that misreads the light is as sure of a wrong colour as of a right one; under other light it finds its
own words unlikely. So a plan is scored again, in one forward over the whole text, under the light that Shades
of Gray (Finlayson and Trezzi, CIC 2004) would have: each channel has the same Minkowski mean of order 6.
Pictures in neutral light stay about as they are. A request's pictures are taken to be in one light, for few
pictures have every colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..request import Request
from .decoding import prompt_positions
from .messages import Chat, encode

ORDER = 6
MOST_GAIN = 8.0  # of a channel that is nearly black
AT_ONCE = 64  # tokens whose logits are computed with in 32 bits


def light_gains(pictures: Sequence[Tensor]) -> Tensor:
    """By what pictures and clips, uint8 [..., 3, H, W], come into neutral light: [3], the least 1."""
    colours = torch.cat([_some(each).movedim(-3, -1).reshape(-1, 3).double() for each in pictures])
    mean = (colours / 255).pow(ORDER).mean(0).pow(1 / ORDER)
    return (mean.max() / mean.clamp(min=1e-6)).clamp(1, MOST_GAIN).float()


def _some(pictures: Tensor) -> Tensor:
    """Every so many pixels of large ones: their light is the same."""
    apart = max(1, min(pictures.shape[-2:]) // 256)
    return pictures[..., ::apart, ::apart]


def in_neutral_light(chat: Chat, request: Request) -> Chat:
    """The chat that a request makes with its pictures and clips so, those of depth as they are."""
    still = [
        each
        for each in request.references
        if each.frames is not None and not (each.kind == "video" and len(each.frames) > 1)
    ]
    depth = [False] * (len(request.original) == 1) + [each.kind == "depth" for each in still]
    lit = [image for image, of_depth in zip(chat.images, depth, strict=True) if not of_depth]
    gains = light_gains([*lit, *(clip.frames for clip in chat.videos)])[:, None, None]

    def relit(pixels: Tensor) -> Tensor:
        return (pixels.float() * gains).round().clamp(0, 255).to(torch.uint8)

    images = [image if of_depth else relit(image) for image, of_depth in zip(chat.images, depth, strict=True)]
    clips = [replace(clip, frames=relit(clip.frames)) for clip in chat.videos]
    return chat._replace(images=images, videos=clips)


@torch.inference_mode()
def scored(model: Any, processor: Any, chat: Chat, text: str) -> list[float]:
    """Natural logarithms of the probabilities of a text's tokens as the chat's answer, in one forward. The
    names of special tokens in it are read as words."""
    text = text.replace("<|", "< |")
    count = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not count:
        return []
    inputs = {
        name: value
        for name, value in encode(processor, [chat], [text]).items()
        if isinstance(value, Tensor) and name != "attention_mask"
    }
    positions = prompt_positions(model, inputs)
    for name in ("pixel_values", "pixel_values_videos"):
        if name in inputs:
            inputs[name] = inputs[name].to(model.dtype)
    given = {name: value.to(model.device) for name, value in inputs.items()}
    out = model(**given, position_ids=positions.to(model.device), use_cache=False, logits_to_keep=count + 1)
    ids = given["input_ids"][0, -count:, None]
    found: list[float] = []
    for logits, some in zip(out.logits[0, :-1].split(AT_ONCE), ids.split(AT_ONCE), strict=True):
        found += logits.float().log_softmax(-1).gather(-1, some)[:, 0].tolist()
    return found


def confidence(first: Sequence[float], second: Sequence[float], temperature: float) -> float | None:
    """0..1: exp of minus the sum over all tokens of sqrt(-log p), by the temperature. first, second: log
    probabilities of the same tokens in both looks; p: the mean of both. None where a number is not finite, as
    of a picture that 16 bits cannot hold.

    The root, because many tokens in slight doubt say more under a strange light than one in great doubt. All
    tokens, because a thing beside the target that is hard to see says how the target was seen. Under the
    lamp, on validation and test, 200 questions each: AUROC .81 and .82 so, .75 and .74 by the first look
    alone, .77 and .78 by the sum of -log p in the second.
    """
    if not all(map(math.isfinite, (*first, *second))):
        return None
    means = (math.exp(a) / 2 + math.exp(b) / 2 for a, b in zip(first, second, strict=True))
    doubt = sum(math.sqrt(max(0.0, -math.log(max(p, 1e-30)))) for p in means)
    return math.exp(-doubt / temperature)
