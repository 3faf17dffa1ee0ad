"""OpenAI's form of a chat and of its answer, streamed or whole."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import AnswerError, EndpointError
from ..plan.parts import split_thoughts
from .endpoint import Address
from .event_stream import DONE, whole_characters, words_of
from .json_form import SETTING, JsonReader, without_schema
from .messages import Chat
from .token_logs import LOGS, TOP, TokenLogs, without_logs

MAX_PIXELS = 1280 * 28 * 28
"""Of a picture on its way out."""

USAGE = "stream_options"
_THOUGHT_END = "\n</think>\n"


class Messages(list[dict[str, Any]]):
    """A chat in OpenAI's form. text: its JSON, written once, for pictures make it long."""

    @cached_property
    def text(self) -> str:
        return json.dumps(self, sort_keys=True, allow_nan=False)


class Encoded:
    """Pictures in OpenAI's form by what they are called, each encoded once, whichever of several threads
    comes first. most: characters that are held; what was asked for longest ago goes first."""

    def __init__(self, most: int = 1 << 60) -> None:
        self._most, self._size = most, 0
        self._held: OrderedDict[bytes, Future[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: bytes, encode: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                self._held.move_to_end(name)
            else:
                coming = self._held[name] = Future[dict[str, Any]]()
        if held is not None:
            return held.result()
        try:
            picture = encode()
        except BaseException as error:
            with self._lock:  # before anybody else could drop it as done
                self._held.pop(name, None)
            coming.set_exception(error)
            raise
        coming.set_result(picture)
        with self._lock:
            self._size += _size(picture)
            while self._size > self._most and next(iter(self._held.values())).done():
                self._size -= _size(self._held.popitem(last=False)[1].result())
        return picture


def openai_messages(chat: Chat, max_pixels: int = MAX_PIXELS, encoded: Encoded | None = None) -> Messages:
    """A chat in OpenAI's form: pictures as PNG data URLs, a video as its frames, each with its time.
    encoded: pictures of this max_pixels that were encoded before."""
    images, videos = iter(chat.images), iter(chat.videos)
    messages = Messages()
    encoded = Encoded() if encoded is None else encoded  # what is shown twice is encoded once
    for message in chat.messages:
        content: list[dict[str, Any]] = []
        for item in message["content"]:
            if item["type"] == "image":
                content.append(_picture(next(images), max_pixels, encoded))
            elif item["type"] == "video":
                clip = next(videos)
                for moment, frame in zip(clip.times, clip.frames, strict=True):
                    content.append({"type": "text", "text": f"{round(moment, 2):g} s: "})
                    content.append(_picture(frame, max_pixels, encoded))
            else:
                content.append({"type": "text", "text": item["text"]})
        plain = len(content) == 1 and content[0]["type"] == "text"
        messages.append({"role": message["role"], "content": content[0]["text"] if plain else content})
    return messages


class Answer:
    """Collects the pieces of a streamed or whole answer.

    text: what was answered; thought: what a reasoning model thought before, where the server keeps it apart.
    ended: the server's reason for ending, None before. reader: what answers in JSON go through. model: what
    the server calls the model that answered, "" where it does not say.
    """

    def __init__(self, where: Address, reader: JsonReader | None = None) -> None:
        self.where, self.reader = where, reader
        self.pieces: list[str] = []
        self.thoughts: list[str] = []
        self.logs = TokenLogs()
        self._raw: list[str] = []
        self.refusals: list[str] = []
        self.ended: str | None = None
        self.model = ""
        self.tokens = 0
        self.prompt_tokens: int | None = None
        self._tool = False
        self._odd: Any = None  # an event that nobody understood

    @property
    def text(self) -> str:
        return whole_characters(self.reader.text if self.reader is not None else "".join(self.pieces))

    @property
    def raw(self) -> str:
        """The answer as the server sent it."""
        return "".join(self._raw)

    @property
    def count(self) -> int:
        """How many pieces have come."""
        return len(self.pieces) + len(self.thoughts)

    @property
    def thought(self) -> str:
        return whole_characters("".join(self.thoughts))

    def add(self, event: dict[str, Any]) -> str:
        """Takes one event; gives the text that came with it, the thought as <think> ... </think>. Raises
        EndpointError for one that is an error, in the server's words."""
        if event is DONE:
            self.ended = self.ended or "stop"
            return ""
        choices = event.get("choices")
        if event.get("error") or event.get("object") == "error" or event.get("type") == "error":
            said = words_of(event) or str(event)[:300]
            raise EndpointError(f"{self.where.url} broke off: {said}", broken=True)
        if not self.model and isinstance(event.get("model"), str):
            self.model = event["model"][:200]
        usage = event.get("usage")
        if isinstance(usage, dict) and type(usage.get("completion_tokens")) is int:
            self.tokens = usage["completion_tokens"]
            asked = usage.get("prompt_tokens")
            self.prompt_tokens = asked if type(asked) is int else None
        if not choices:  # usage, or a sign of life
            self._odd = event if words_of(event) else self._odd
            return ""
        try:
            return self._choice(next(each for each in choices if each.get("index", 0) in (0, None)))
        except StopIteration:
            return ""  # another answer beside the first
        except (AttributeError, LookupError, TypeError):
            raise unusable(self.where, event) from None

    def finish(self, limit: int) -> bool:
        """Whether the answer came to its end, or to max_new_tokens, the limit. Raises EndpointError where
        there is none, with the reason."""
        url, reason = self.where.url, (self.ended or "").lower()
        if self.ended is None:
            why = f" ({words_of(self._odd)})" if self._odd is not None else ""
            raise EndpointError(f"{url} stopped in the middle of its answer{why}; ask again", broken=True)
        if self.refusals:
            raise AnswerError(
                f"{url}: the model refuses: {''.join(self.refusals)[:300]!r}; change the request"
            )
        if any(word in reason for word in ("filter", "safety", "prohibited", "blocklist", "recitation")):
            after = f" after {self.text[-100:]!r}" if self.pieces else ""
            raise AnswerError(
                f"{url}: the server's content filter stopped the answer{after} (finish_reason "
                f"{self.ended!r:.60}); change the prompt or the pictures"
            )
        if reason in ("error", "abort", "aborted", "cancelled", "canceled"):
            raise EndpointError(
                f"{url} gave the answer up (finish_reason {self.ended!r:.60}); ask again", broken=True
            )
        whole = reason not in ("length", "max_tokens", "model_length", "max_output_tokens")
        if not self.pieces and not self.thoughts:
            if self._tool:
                raise AnswerError(
                    f"{url} answered with a call of a tool instead of text; serve it without tools"
                )
            why = "" if whole else f"; it thought until max_new_tokens, {limit:,}, were used up: raise them"
            raise AnswerError(f"{url} answered with no text at all (finish_reason {self.ended!r:.60}){why}")
        if not whole and self._only_thought():
            raise AnswerError(
                f"{url}: the model thought until max_new_tokens, {limit:,}, were used up, and wrote no "
                "answer; raise max_new_tokens (a model that thinks wants some thousands), or have the server "
                "turn its thinking off"
            )
        return whole

    def _only_thought(self) -> bool:
        return not self.pieces if self.thoughts else split_thoughts(self.text).open is not None

    def closing(self, whole: bool) -> str:
        """What the text lacks at its end: of JSON its last fields, of thoughts without an answer their end.
        whole: as `finish` said."""
        if self.thoughts and not self.pieces:
            return _THOUGHT_END
        return self.reader.finish(whole) if self.reader is not None else ""

    def _choice(self, choice: dict[str, Any]) -> str:
        message = choice.get("delta")
        if not message and not self.pieces:  # at the end some servers send the whole once more
            message = choice.get("message")
        message = message or {}
        text, thought = _split_content(message.get("content"))
        thought = _first_text(message, "reasoning_content", "reasoning") or thought
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.refusals.append(refusal)
        self._tool = self._tool or bool(message.get("tool_calls") or message.get("function_call"))
        if choice.get("finish_reason"):
            self.ended = str(choice["finish_reason"])
        piece = ""
        if thought and not self.pieces:
            piece = thought if self.thoughts else f"<think>\n{thought}"
            self.thoughts.append(thought)
        self.logs.add(choice.get(LOGS))
        if text:
            self._raw.append(text)
            shown = text if self.reader is None else self.reader.feed(text)
            piece += (_THOUGHT_END if self.thoughts and not self.pieces else "") + shown
            self.pieces.append(shown)
        self.tokens = max(self.tokens, self.count)
        return piece


def _split_content(content: Any) -> tuple[str, str]:
    """(text, thought) of a message's content: text, or a list of parts. Raises TypeError for all else."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(content)
    text = thought = ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif isinstance(part.get("thinking"), (str, list)):
            thought += _split_content(part["thinking"])[0]
        elif part.get("type") == "reasoning" and isinstance(part.get("text"), str):
            thought += part["text"]
        elif isinstance(part.get("text"), str):
            text += part["text"]
    return text, thought


def _first_text(message: dict[str, Any], *names: str) -> str:
    return next((value for name in names if isinstance(value := message.get(name), str) and value), "")


OPTIONAL = (
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stream",
    SETTING,
    LOGS,
    TOP,
    USAGE,
)
_NOT_KNOWN = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted|not allowed|extra|unexpected|verif",
    re.IGNORECASE,
)
_OF_THE_SCHEMA = re.compile(
    r"response[ _.]?format|json[ _]?schema|\bschema|\bgrammar|guided[ _]?(?:json|decoding)"
    r"|structured[ _]?output",
    re.IGNORECASE,
)
_RENAMED = "max_completion_tokens"


def refused_setting(payload: dict[str, Any], status: int, body: bytes) -> tuple[str, str] | None:
    """(the setting that a server refused to take, what is to be said of it), from its words. None where they
    name no such setting, and asking again without one would not help.

    A schema is also taken for the reason where none is named: 400 is all that some servers say.
    """
    text = body[:65536].decode("utf-8", "replace")
    bad_question = status in (400, 422)
    may_be_logs = LOGS in payload and (bad_question or status in (500, 501))
    if may_be_logs and _refused_name(payload, body, text) in (LOGS, TOP):
        return LOGS, f"the server refuses {LOGS}: how sure the model is, is not known"
    if SETTING in payload and (bad_question or status in (500, 501)) and _OF_THE_SCHEMA.search(text):
        return SETTING, f"the server refuses {SETTING}: asked for the text form instead"
    name = _refused_name(payload, body, text) if bad_question else None
    if name is None:
        guess = f"the server answers {status} to {SETTING}: asked for the text form instead"
        return (SETTING, guess) if bad_question and SETTING in payload else None
    if name == "max_tokens" and (_RENAMED in text or _NOT_KNOWN.search(text)):
        return name, f"the server refuses max_tokens: sent as {_RENAMED}"
    if name in ("max_tokens", _RENAMED, "stream") and not _NOT_KNOWN.search(text):
        return None  # too large, not unknown
    return name, f"the server refuses {name} {payload[name]!r}: sent without it, so its own setting holds"


def without_setting(payload: dict[str, Any], name: str) -> dict[str, Any]:
    """The payload without a setting; `max_tokens` goes under its newer name."""
    if name == SETTING:
        return without_schema(payload)
    if name == LOGS:
        return without_logs(payload)
    changed = {key: value for key, value in payload.items() if key != name}
    return changed | ({_RENAMED: payload[name]} if name == "max_tokens" else {})


def _refused_name(payload: dict[str, Any], body: bytes, text: str) -> str | None:
    known = [name for name in OPTIONAL if name in payload and name != SETTING]
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        error = content.get("error")
        if isinstance(error, dict) and error.get("param") in known:
            return str(error["param"])
        detail = content.get("detail")
        for each in detail if isinstance(detail, list) else ():
            location = each.get("loc") if isinstance(each, dict) else None
            if isinstance(location, list) and location and location[-1] in known:
                return str(location[-1])
        text = words_of(content) or text
    names = re.findall(rf"(?<![\w-])({'|'.join(known)})(?![\w-])", text) if known else []
    return names[0] if names else None


def payload_json(payload: dict[str, Any]) -> bytes:
    """A question as it is sent."""
    texts = {
        name: value.text if isinstance(value, Messages) else json.dumps(value)
        for name, value in payload.items()
    }
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in texts.items())}}}".encode()


def read_json(raw: bytes, where: Address) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise unusable(where, raw[:200].decode("utf-8", "replace")) from None
    if not isinstance(content, dict):
        raise unusable(where, content)
    return content


def unusable(where: Address, what: Any) -> EndpointError:
    return AnswerError(
        f"{where.url} answered {str(what)[:200]!r}, which is no chat completion; check the path"
    )


def sent_size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) of a picture on its way out."""
    if height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    return max(1, int(height * scale)), max(1, int(width * scale))


def _picture(pixels: Tensor, max_pixels: int, encoded: Encoded) -> dict[str, Any]:
    """uint8 [3, H, W] as a PNG data URL of at most `max_pixels`. encoded: those before, by their hash."""
    height, width = pixels.shape[1:]
    data = pixels.contiguous().numpy()
    name = hashlib.blake2b(data.tobytes(), key=b"%d %d" % (height, width)).digest()
    return encoded.get(name, lambda: _png_url(pixels, height, width, max_pixels))


def _png_url(pixels: Tensor, height: int, width: int, max_pixels: int) -> dict[str, Any]:
    from PIL import Image

    size = sent_size(height, width, max_pixels)
    if size != (height, width):
        small = torch.nn.functional.interpolate(pixels[None].float(), size, mode="bicubic", antialias=True)
        pixels = small[0].round().clamp(0, 255).to(torch.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    # Of photographs this is a tenth smaller than level 3, and made a third faster.
    picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _size(picture: dict[str, Any]) -> int:
    return len(picture["image_url"]["url"])
