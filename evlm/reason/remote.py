"""A reasoner behind an OpenAI-compatible endpoint (vLLM, llama.cpp, a hosted service): same prompt, same
parser.

    RemoteReasoner("https://host/v1", "Qwen/Qwen2-VL-7B-Instruct").reason(request)

The key comes from the environment variable EVLM_API_KEY and from nowhere else. Redirects are not followed.
Addresses inside this machine or its network are refused unless `allow_private` or the environment variable
EVLM_ALLOW_PRIVATE_ENDPOINTS=1 says otherwise, because the address may come out of somebody else's
workflow file. For the same reason the nodes send the key only to hosts that EVLM_API_HOSTS names.
"""

from __future__ import annotations

import http.client
import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from ..errors import BusyError, EndpointError
from ..plan.mask_codec import get_codec
from ..plan.native_boxes import Size, box_form, form_of_model, resized
from ..plan.trace import PARTS, Trust
from ..request import Request
from .endpoint import KEY_VARIABLE, PRIVATE_VARIABLE, Calls, connect, parse_address
from .event_stream import EventReader, page_words, words_of
from .json_form import SETTING, JsonReader, with_schema
from .messages import (
    FULL,
    MAX_FRAMES,
    UNTUNED,
    Chat,
    PromptStyle,
    build_messages,
    chosen_style,
    for_untuned,
    original_size,
)
from .openai_form import (
    MAX_PIXELS,
    OPTIONAL,
    USAGE,
    Answer,
    openai_messages,
    payload_json,
    read_json,
    refused_setting,
    sent_size,
    unusable,
    without_setting,
)
from .reasoner import Generated, OnToken, Reasoned, Sampling, understood
from .token_logs import ASKED

HOSTS_VARIABLE = "EVLM_API_HOSTS"
_MAX_ANSWER = 64 << 20  # bytes of all events


class Completion(NamedTuple):
    """An answer; its `tokens` are what it has itself. prompt_tokens: what was asked, as the server counts it,
    None where it does not say. model: what the server calls itself, "" where it does not say."""

    generated: Generated
    prompt_tokens: int | None
    model: str = ""


class RemoteReasoner:
    """Speaks to `<endpoint>/chat/completions`. Holds no connection between requests.

    endpoint: "https://host[:port][/v1]", with or without `/chat/completions`. model: its name there.
    timeout: seconds without a byte before giving up; deadline: seconds for a whole answer.
    max_pixels: larger pictures are made smaller before they are sent. key_hosts: where the key may go; None:
    to the endpoint, whichever it is. style: how the question is put; None: as trust says, to a model that was
    tuned on the full form or to one that was not.
    trust: "tuned" for a model that was trained on EVLM's masks (`Plan.trust`). boxes: the form in which it
    writes a box (`plan.native_boxes`), by its name where that is "auto". at_once: how many requests of a
    batch are sent together (`batch.reason_all`).
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        timeout: float = 120.0,
        deadline: float = 900.0,
        allow_private: bool | None = None,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
        style: PromptStyle | None = None,
        codec: str = "box-spans-8",
        key_hosts: Sequence[str] | None = None,
        trust: str = "base",
        boxes: str = "auto",
        at_once: int = 8,
    ) -> None:
        self.key_hosts = None if key_hosts is None else {host.strip().lower() for host in key_hosts}
        self.address = parse_address(endpoint)
        self.model = model = model.strip()  # servers compare names to the letter, and a paste brings blanks
        self.timeout, self.deadline = timeout, deadline
        self.allow_private = (
            os.environ.get(PRIVATE_VARIABLE) == "1" if allow_private is None else allow_private
        )
        self.max_pixels, self.max_frames = max_pixels, max_frames
        form = form_of_model(model) if boxes == "auto" else box_form(boxes)
        style = style or (FULL if trust == "tuned" else UNTUNED)
        self.style = for_untuned(style, form) if style.untuned else style
        self.codec = get_codec(codec)
        if trust not in get_args(Trust):
            raise EndpointError(f"trust {trust!r:.40}: expected {' or '.join(get_args(Trust))}")
        if not 1 <= at_once <= 64:
            raise EndpointError(f"at_once {at_once}: expected 1 to 64 requests")
        self.at_once = at_once
        self.trust: Trust = "tuned" if trust == "tuned" else "base"
        self._refused: dict[str, str] = {}  # settings that the server does not take, and what is said of them

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        repair: bool = True,
        calls: Calls | None = None,
    ) -> Reasoned:
        """As `Reasoner.reason`. Raises EndpointError, and TraceError when the answer holds no plan.

        May be called from several threads. calls: which of them belong together (`batch.reason_all`)."""
        sampling = sampling or Sampling()
        style = chosen_style(self.style, sampling.style)
        generated = self.generate(request, sampling, on_token, calls)
        return understood(generated, repair, self.trust, style)

    def generate(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        calls: Calls | None = None,
    ) -> Generated:
        """As `reason`, but the text is returned whether or not it is a trace; what the model thought before
        it stands there inside <think> ... </think>. `tokens` is what the server says, or the number of pieces
        it sent."""
        sampling = sampling or Sampling()
        style = chosen_style(self.style, sampling.style)
        chat = build_messages(request, self.codec, style, self.max_frames)
        four = style.untuned and style.parts == PARTS  # which is what the schema has
        schema, seen = four and sampling.guided != "never", self._seen(chat)
        answer, generated = self._ask(chat, sampling, on_token, calls, schema, seen, logs=True)
        closing = answer.closing(generated.finished)
        if closing and on_token is not None:
            on_token(closing)
        text, notes = answer.text, generated.notes
        if answer.thoughts:
            text = f"<think>\n{answer.thought}\n</think>\n{text}"
        in_form = answer.reader is not None and answer.reader.in_form
        if sampling.guided == "always" and not in_form:
            notes = (*notes, "guided: always, but the endpoint wrote freely: no schema held it to the form")
        written = answer.logs.of(answer.raw)
        return replace(generated, text=text, notes=notes, seen=None if in_form else seen, written=written)

    def _seen(self, chat: Chat) -> Size | None:
        """The original's size as the model sees it, where its boxes are in pixels of that: the server's
        processor makes whole patches of what is sent."""
        if not self.style.boxes.pixels:
            return None
        return resized(*sent_size(*original_size(chat), self.max_pixels))

    def ask(self, chat: Chat, sampling: Sampling | None = None, on_token: OnToken | None = None) -> Generated:
        """As `generate`, for any chat. The text is the answer alone; where the server calls all of it a
        thought, that is the answer."""
        return self._ask(chat, sampling, on_token)[1]

    def complete(
        self, chat: Chat, sampling: Sampling | None = None, messages: list[dict[str, Any]] | None = None
    ) -> Completion:
        """As `ask`, with what the server says that it cost. messages: the chat's `openai_messages`, of who
        has them and may ask again: pictures take longer to encode than all else. Raises EndpointError."""
        answer, generated = self._ask(chat, sampling, None, usage=True, messages=messages)
        text = f"<think>\n{answer.thought}\n</think>\n{answer.text}" if answer.thoughts else generated.text
        return Completion(replace(generated, text=text), answer.prompt_tokens, answer.model)

    def _ask(
        self,
        chat: Chat,
        sampling: Sampling | None,
        on_token: OnToken | None,
        calls: Calls | None = None,
        schema: bool = False,
        seen: Size | None = None,
        logs: bool = False,
        usage: bool = False,
        messages: list[dict[str, Any]] | None = None,
    ) -> tuple[Answer, Generated]:
        """schema: ask for JSON of the trace's schema, as long as the server takes it. seen: `_seen` of the
        chat. logs: ask for the tokens' probabilities, likewise; usage: for their number."""
        sampling, calls = sampling or Sampling(), calls or Calls()
        start = time.perf_counter()
        payload = {
            "model": self.model,
            "messages": openai_messages(chat, self.max_pixels) if messages is None else messages,
            "stream": True,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **({"seed": sampling.seed % 2**31} if sampling.temperature > 0 else {}),
            **(ASKED if logs else {}),
            **({USAGE: {"include_usage": True}} if usage else {}),
        }
        if schema:
            payload = with_schema(payload, max(self.style.boxes.limits(seen)))
        notes = []
        for name, note in list(self._refused.items()):  # known from an answer before
            if name in payload:
                payload = without_setting(payload, name)
                notes.append(note)
        answer = Answer(self.address, JsonReader(self.style.boxes, seen) if SETTING in payload else None)
        key = self._key()
        try:
            for event in self._events(payload, key, calls, notes):
                heard = answer.count
                piece = answer.add(event)
                if on_token is not None and (piece or answer.count > heard):
                    on_token(piece)
            finished = answer.finish(sampling.max_new_tokens)
        except EndpointError as error:  # servers like to repeat the key
            said = "; ".join([_hide(str(error), key), *notes])
            raise type(error)(said, error.status, error.broken, error.after) from None
        seconds = time.perf_counter() - start
        text = answer.text or answer.thought
        return answer, Generated(text, answer.tokens, seconds, finished, tuple(notes))

    def _key(self) -> str:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if key and self.key_hosts is not None and self.address.host.lower() not in self.key_hosts:
            raise EndpointError(
                f"{self.address.host} would get {KEY_VARIABLE} and is not among {HOSTS_VARIABLE}: if it is "
                f"yours to use, set {HOSTS_VARIABLE}={self.address.host} in the environment, else unset it"
            )
        return key

    def _events(
        self, payload: dict[str, Any], key: str, calls: Calls, notes: list[str]
    ) -> Iterator[dict[str, Any]]:
        """The JSON objects of the answer: of its event stream, or the one of a server that does not stream.

        A setting that the server does not take is renamed or left out, and the question sent again; notes
        says which.
        """
        refused: dict[str, str] = {}
        timeout, deadline = self.timeout * calls.patience, self.deadline * calls.patience
        until = time.perf_counter() + deadline
        for _ in range(len(OPTIONAL) + 1):
            connection = connect(self.address, key, self.allow_private, timeout)
            try:
                with calls.call(connection):
                    response = self._post(connection, payload, key)
                    if response.status == 200:
                        self._refused |= refused
                        yield from self._read(response, until)
                        return
                    body = response.read(65536)
                    changed = refused_setting(payload, response.status, body)
                    if changed is None:
                        raise self._refusal(response, body)
                    name, note = changed
                    payload = without_setting(payload, name)
                    refused[name] = note
                    notes.append(note)
            except _Late:
                raise EndpointError(
                    f"{self.address.url} was not done after {deadline:g} seconds", broken=True
                ) from None
            except TimeoutError as error:
                raise EndpointError(
                    f"{self.address.url} sent nothing for {timeout:g} seconds; "
                    "try again or raise the timeout",
                    broken=True,
                ) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if isinstance(error, EndpointError):
                    raise
                raise EndpointError(
                    f"{self.address.url}: the connection failed ({error}); is the server running?",
                    broken=True,
                ) from None
        raise EndpointError(f"{self.address.url} refuses each of {', '.join(OPTIONAL)}; check the endpoint")

    def _post(
        self, connection: http.client.HTTPConnection, payload: dict[str, Any], key: str
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", self.address.path, payload_json(payload), headers)
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse, until: float) -> Iterator[dict[str, Any]]:
        """The events of a good answer, whatever the server calls its kind."""
        chunks = self._chunks(response, until)
        first = next(chunks, b"")
        kind = response.headers.get_content_type()
        begin = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if "json" in kind or begin in (b"{", b"<"):
            yield from self._whole(b"".join([first, *chunks]))
            return
        reader = EventReader(self.address.url)
        count = 0
        for event in reader.read(itertools.chain([first], chunks)):
            count += 1
            yield event
        if not count and reader.stray:
            raise unusable(self.address, reader.stray.decode("utf-8", "replace"))

    def _whole(self, body: bytes) -> Iterator[dict[str, Any]]:
        """Of a body that is no event stream: one JSON object, or one a line. Raises EndpointError for a web
        page, or JSON without an answer, with what it says."""
        if body.lstrip()[:1] == b"<":
            raise EndpointError(
                f"{self.address.url} answered with a web page, {page_words(body)!r}; check the path"
            )
        lines = [line for line in body.splitlines() if line.strip()]
        each_one = len(lines) > 1 and all(line[:1] == b"{" and line.rstrip()[-1:] == b"}" for line in lines)
        for content in [read_json(raw, self.address) for raw in (lines if each_one else [body])]:
            if not each_one and not content.get("choices"):
                raise unusable(self.address, words_of(content) or content)
            yield content

    def _chunks(self, response: http.client.HTTPResponse, until: float) -> Iterator[bytes]:
        """The body as it arrives, bounded in time and size; a drip of bytes cannot hold us beyond the
        deadline."""
        total = 0
        while chunk := response.read1(1 << 16):
            total += len(chunk)
            if total > _MAX_ANSWER:
                raise EndpointError(
                    f"{self.address.url} sends more than an answer can be; is it the right one?"
                )
            if time.perf_counter() > until:
                raise _Late
            yield chunk

    def _refusal(self, response: http.client.HTTPResponse, body: bytes) -> EndpointError:
        status = response.status
        if 300 <= status < 400:
            target = response.getheader("Location", "nowhere")[:200]
            return EndpointError(
                f"{self.address.url} redirects to {target}, which is not followed; give that one"
            )
        text = body[:2000].decode("utf-8", "replace")
        if text.lstrip()[:1] == "<":
            text = page_words(body)
        remedy = _REMEDIES.get(status, "look at the server's log" if status >= 500 else "check the endpoint")
        wait = response.getheader("Retry-After", "").strip()
        after = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None
        if wait:
            remedy += f" (the server says: after {wait[:40]}{' seconds' * wait.isdigit()})"
        said = f"{self.address.url} answered {status} {response.reason}: {text[:300]!r}; {remedy}"
        return (BusyError if status == 429 else EndpointError)(said, status, after=after)


class _Late(Exception):
    """The deadline is over."""


_REMEDIES = {
    400: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    401: f"set the environment variable {KEY_VARIABLE}",
    403: f"check what the key in {KEY_VARIABLE} may use",
    404: "check the endpoint's path and the model's name",
    413: "lower max_pixels or use fewer references",
    422: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    429: "too many requests; wait and ask again",
}


def _hide(text: str, key: str) -> str:
    """Servers like to repeat the key that they refuse."""
    return text.replace(key, "<key>") if key else text
