"""A chat in OpenAI's form, as it comes in from outside, for a model on this machine.

chat = read_chat(body["messages"])
chat = own_form(chat, reasoner)      # a question of EVLM's in the words that this model was tuned on
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import EVLMError, PictureError, RequestError
from ..files.pictures import check_size, from_pil, open_image
from ..request import Reference, ReferenceKind, Request
from .messages import KIND_WORDS, Chat, build_messages

if TYPE_CHECKING:
    from .reasoner import Reasoner

MOST_PICTURES = 256  # of one chat
MOST_MESSAGES = 256
ROLES = ("system", "developer", "user", "assistant")
_MARK = "\ufffc"  # stands for a picture where a chat is read as one text
_FPS = 1000.0  # above any clip's rate

_WHAT = "|".join(re.escape(words) for words in KIND_WORDS.values())
_PICTURES = rf"(?P<pictures>(?:(?:[0-9.e+-]+ s: )?{_MARK})+)"
_ORIGINAL = re.compile(rf"Original (?P<kind>picture|video)(?P<when>, frames [^\n]*)?:\n{_PICTURES}\n")
_SHOWN = re.compile(
    rf"Reference [0-9]+ \((?P<kind>{_WHAT})\)(?:, note: (?P<note>[^\n]*?))?(?P<when>, frames [^\n]*?)?:\n"
    rf"{_PICTURES}\n"
)
_SAID = re.compile(r"Reference [0-9]+ \(text\)(?:, note: (?P<note>[^\n:]*))?: (?P<text>[^\n]*)\n")
_PROMPT = re.compile(r"Prompt: (?P<words>[^\n]*)\nWrite [^\n]* now\.\s*\Z")
_KINDS: dict[str, ReferenceKind] = {
    words: kind  # type: ignore[misc]
    for kind, words in KIND_WORDS.items()
}


def read_chat(messages: Any) -> Chat:
    """A chat of OpenAI's messages, pictures in it as data URLs. Raises RequestError, PictureError."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= MOST_MESSAGES:
        raise RequestError(f"messages: expected a list of 1 to {MOST_MESSAGES}")
    images: list[Tensor] = []
    return Chat([_message(each, number, images) for number, each in enumerate(messages)], images, [])


def own_form(chat: Chat, reasoner: Reasoner) -> Chat:
    """The chat as this model is to be asked. One that was never tuned on EVLM's form takes any; to one that
    was, EVLM's question is put in its own words, whichever style the client has. Raises RequestError for
    another question: such a model answers no other."""
    if not reasoner.backbone.tuned:
        return chat
    request = read_request(chat)
    if request is None:
        raise RequestError(
            "messages: this model was tuned on EVLM's questions and answers no other; ask through "
            "evlm.reason.RemoteReasoner, `python -m evlm edit --endpoint`, the nodes, or `data make` with "
            "`hint: none`"
        )
    return build_messages(request, reasoner.codec, reasoner.style, reasoner.backbone.max_frames)


def read_request(chat: Chat) -> Request | None:
    """What a chat of `messages.build_messages`, in a style that explains itself, asks; None where it is
    something else. What is said after a first answer is no part of it. Raises RequestError for a request that
    cannot be."""
    roles = [message["role"] for message in chat.messages]
    if roles[:2] != ["system", "user"] or set(zip(roles[2::2], roles[3::2], strict=False)) - {
        ("assistant", "user")
    }:
        return None
    text = "".join(item.get("text", _MARK) for item in chat.messages[1]["content"])
    images = iter(chat.images)
    original = _ORIGINAL.match(text)
    if original is None:
        return None
    frames = _frames(original, images)
    at, references = original.end(), []
    while (found := _PROMPT.match(text, at)) is None:
        part = _SAID.match(text, at) or _SHOWN.match(text, at)
        if part is None:
            return None
        at = part.end()
        note = part["note"] or ""
        if part.re is _SAID:
            references.append(Reference("text", text=part["text"], note=note))
            continue
        shown = _frames(part, images)
        references.append(Reference(_KINDS[part["kind"]], shown, note=note, fps=_rate(part, len(shown))))
    prompt = "" if found["words"] == "none" else found["words"]
    fps = _rate(original, len(frames)) if original["kind"] == "video" else None
    return Request(frames, prompt, tuple(references), fps)


def _frames(part: re.Match[str], images: Iterator[Tensor]) -> Tensor:
    """[F, H, W, 3] in 0..1 of the pictures of one part."""
    every = [next(images) for _ in range(part["pictures"].count(_MARK))]
    if len({image.shape for image in every}) > 1:
        raise RequestError("messages: the frames of one video are of several sizes")
    return torch.stack(every).permute(0, 2, 3, 1).float() / 255


def _rate(part: re.Match[str], count: int) -> float | None:
    """Frames a second of what was sent, by the times that the text says."""
    times = re.search(r"frames at (.*) seconds", part["when"] or "")
    if times is None or count < 2:
        return None
    try:
        last = float(times[1].split(",")[-1])
    except ValueError:
        return None
    return min(_FPS, (count - 1) / last) if last > 0 else None


def _message(data: Any, number: int, images: list[Tensor]) -> dict[str, Any]:
    where = f"messages.{number}"
    if not isinstance(data, dict) or data.get("role") not in ROLES:
        raise RequestError(f"{where}: expected an object with a role of {', '.join(ROLES)}")
    content = data.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise RequestError(f"{where}.content: expected text, or a list of parts")
    role = "system" if data["role"] == "developer" else data["role"]
    parts = [_part(each, f"{where}.content.{at}", images) for at, each in enumerate(content)]
    return {"role": role, "content": parts}


def _part(data: Any, where: str, images: list[Tensor]) -> dict[str, Any]:
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "text" and isinstance(data.get("text"), str):
        plain = re.sub(r"<(?=\|)", "< ", data["text"]).replace(_MARK, "")  # no special token, no picture
        return {"type": "text", "text": plain}
    if kind != "image_url":
        raise RequestError(f"{where}: expected a part of type text or image_url, got {kind!r:.40}")
    url = data.get("image_url")
    url = url.get("url") if isinstance(url, dict) else url
    if len(images) >= MOST_PICTURES:
        raise RequestError(f"{where}: more than {MOST_PICTURES} pictures")
    try:
        images.append(_picture(url))
    except EVLMError as error:
        raise PictureError(f"{where}: {error}") from None
    return {"type": "image"}


def _picture(url: Any) -> Tensor:
    """uint8 [3, H, W] of a data URL. Raises RequestError, PictureError."""
    found = re.match(r"data:image/[\w.+-]+;base64,", url) if isinstance(url, str) else None
    if found is None:
        raise RequestError("a picture must be a data URL (data:image/png;base64,...); nothing is fetched")
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("a picture that is no base64") from None
    try:
        with open_image(io.BytesIO(data)) as image:
            check_size(image)
            pixels = from_pil(image)
    except EVLMError:
        raise
    except Exception as error:  # decoders raise a zoo of errors on damaged bytes
        raise PictureError(f"cannot be decoded ({error}); it is damaged or truncated") from None
    return (pixels.reshape(*pixels.shape[-3:]) * 255).round().to(torch.uint8).permute(2, 0, 1).contiguous()
