"""Server-sent events: JSON in `data:` lines, and a server's words when something goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import AnswerError, EndpointError

MAX_LINE = 1 << 20
"""Bytes of one event."""

DONE: dict[str, Any] = {"done": True}
"""What `[DONE]` at the end of a stream becomes."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_KEPT = 2000  # bytes of what is no event, to be quoted


class EventReader:
    """Reads the JSON objects of one stream. stray: text that is no event, in case there is nothing else.

    where: the address, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.stray = b""
        self._name = b""  # of the event that is being read
        self._ended = False  # nothing more comes
        self._data: list[bytes] = []  # its lines, while they are no JSON yet

    def read(self, chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """The events of a body that arrives in pieces, cut anywhere. Raises EndpointError for one that is an
        error, or too long."""
        rest = b""
        for number, chunk in enumerate(chunks):
            *lines, rest = _LINE_END.split(
                rest + (chunk.removeprefix(b"\xef\xbb\xbf") if number == 0 else chunk)
            )
            if len(rest) > MAX_LINE:
                raise EndpointError(f"{self.where} sends a line without an end; is it the right address?")
            for line in lines:
                yield from self._line(line)
        self._ended = True
        yield from self._line(rest)  # a last line without an end
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[dict[str, Any]]:
        name, _, value = line.strip().partition(b":")
        value = value.strip()
        if not line.strip():
            if self._data:
                raise AnswerError(_unreadable(self.where, b"\n".join(self._data)), broken=self._ended)
            self._name = b""
        elif name == b"event":
            self._name = value
        elif name == b"error":
            raise EndpointError(
                f"{self.where} broke off: {words_of(value) or 'it does not say why'}", broken=True
            )
        elif name == b"data":
            yield from self._take(value)
        elif line.lstrip()[:1] == b"{":  # JSON without "data:"
            yield from self._take(line.strip())
        elif name not in (b"", b"id", b"retry") and len(self.stray) < _KEPT:
            self.stray += line[:_KEPT] + b"\n"

    def _take(self, value: bytes) -> Iterator[dict[str, Any]]:
        if not value:
            return
        if value == b"[DONE]":
            yield DONE
            return
        self._data.append(value)
        if sum(map(len, self._data)) > MAX_LINE:
            raise AnswerError(_unreadable(self.where, self._data[0]))
        try:
            content = json.loads(b"\n".join(self._data))
        except (ValueError, RecursionError):
            return  # over several lines, or broken: the blank line behind it decides
        self._data.clear()
        if not isinstance(content, dict):
            raise AnswerError(_unreadable(self.where, value))
        if self._name == b"error":
            raise EndpointError(
                f"{self.where} broke off: {words_of(content) or str(content)[:300]}", broken=True
            )
        yield content


def words_of(content: Any) -> str:
    """What a server says went wrong, from JSON of the usual kinds or as text; "" where nothing does."""
    if isinstance(content, bytes):
        text = content[:_KEPT].decode("utf-8", "replace").strip()
        try:
            return words_of(json.loads(content)) or text[:300]
        except (ValueError, RecursionError):
            return text[:300]
    if isinstance(content, str):
        return content.strip()[:300]
    if isinstance(content, list):
        return "; ".join(words for each in content[:5] if (words := words_of(each)))[:300]
    if not isinstance(content, dict):
        return ""
    for key in ("error", "errors", "detail", "message", "msg", "error_msg", "reason"):
        words = words_of(content.get(key))
        if words:
            location = content.get("loc")
            place = (
                ".".join(map(str, location[-3:])) + ": " if isinstance(location, list) and location else ""
            )
            return f"{place}{words}"[:300]
    return ""


def page_words(body: bytes) -> str:
    """The text of a web page, without its tags: at most 200 characters."""
    text = re.sub(
        r"(?is)<(script|style)\b.{0,4000}?</\1>|<[^>]{0,2000}>", " ", body[:20_000].decode("utf-8", "replace")
    )
    return " ".join(text.split())[:200]


def _unreadable(where: str, raw: bytes) -> str:
    text = raw[:200].decode("utf-8", "replace")
    return f"{where} answered {text!r}, which is no chat completion; check the path"


def whole_characters(text: str) -> str:
    """With halves of characters beyond 16 bits joined, which events may part; one that stays alone, which no
    file and no tokenizer takes, becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
