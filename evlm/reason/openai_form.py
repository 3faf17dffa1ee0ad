"""OpenAI's form of a chat and of its answer, streamed or whole."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import torch
from torch import Tensor

from ..errors import EndpointError
from .endpoint import Address
from .messages import Chat

MAX_PIXELS = 1280 * 28 * 28
"""Of a picture on its way out."""


def openai_messages(chat: Chat, max_pixels: int = MAX_PIXELS) -> list[dict[str, Any]]:
    """A chat in OpenAI's form: pictures as PNG data URLs, a video as its frames, each with its time."""
    images, videos = iter(chat.images), iter(chat.videos)
    messages: list[dict[str, Any]] = []
    for message in chat.messages:
        content: list[dict[str, Any]] = []
        for item in message["content"]:
            if item["type"] == "image":
                content.append(_picture(next(images), max_pixels))
            elif item["type"] == "video":
                clip = next(videos)
                for moment, frame in zip(clip.times, clip.frames, strict=True):
                    content.append({"type": "text", "text": f"{round(moment, 2):g} s: "})
                    content.append(_picture(frame, max_pixels))
            else:
                content.append({"type": "text", "text": item["text"]})
        plain = len(content) == 1 and content[0]["type"] == "text"
        messages.append({"role": message["role"], "content": content[0]["text"] if plain else content})
    return messages


class Answer:
    """Collects the pieces of a streamed or whole answer. `ended`: the server's reason for ending, None
    before."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ended: str | None = None
        self.tokens = 0

    def add(self, event: dict[str, Any], where: Address) -> str:
        if event.get("done") is True:
            self.ended = self.ended or "stop"
            return ""
        if event.get("error"):
            raise EndpointError(f"{where.url} broke off: {str(event['error'])[:300]}")
        usage = event.get("usage")
        if isinstance(usage, dict) and type(usage.get("completion_tokens")) is int:
            self.tokens = usage["completion_tokens"]
        choices = event.get("choices")
        if not choices:
            return ""  # usage, or a sign of life
        try:
            choice = choices[0]
            piece = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
            reason = choice.get("finish_reason")
        except (AttributeError, LookupError, TypeError):
            raise unusable(where, event) from None
        if not isinstance(piece, str):
            raise unusable(where, event)
        if reason:
            self.ended = str(reason)
        if piece:
            self.pieces.append(piece)
            self.tokens = max(self.tokens, len(self.pieces))
        return piece


def read_json(raw: bytes, where: Address) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise unusable(where, raw[:200].decode("utf-8", "replace")) from None
    if not isinstance(content, dict):
        raise unusable(where, content)
    return content


def unusable(where: Address, what: Any) -> EndpointError:
    return EndpointError(
        f"{where.url} answered {str(what)[:200]!r}, which is no chat completion; check the path"
    )


def _picture(pixels: Tensor, max_pixels: int) -> dict[str, Any]:
    """uint8 [3, H, W] as a PNG data URL of at most `max_pixels`."""
    from PIL import Image

    height, width = pixels.shape[1:]
    if height * width > max_pixels:
        scale = math.sqrt(max_pixels / (height * width))
        size = (max(1, int(height * scale)), max(1, int(width * scale)))
        small = torch.nn.functional.interpolate(pixels[None].float(), size, mode="bicubic", antialias=True)
        pixels = small[0].round().clamp(0, 255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", compress_level=3)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}
