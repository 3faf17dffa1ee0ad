"""A reasoner behind an OpenAI-compatible endpoint (vLLM, llama.cpp, a hosted service): same prompt, same
parser.

    RemoteReasoner("https://host/v1", "Qwen/Qwen2-VL-7B-Instruct").reason(request)

The key comes from the environment variable EVLM_API_KEY and from nowhere else. Redirects are not followed.
Addresses inside this machine or its network are refused unless `allow_private` or the environment variable
EVLM_ALLOW_PRIVATE_ENDPOINTS=1 says otherwise, because the address may come out of somebody else's
workflow file. For the same reason the nodes send the key only to hosts that EVLM_API_HOSTS names.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import math
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from ..errors import EndpointError
from ..plan.mask_codec import get_codec
from ..request import Request
from .messages import FULL, MAX_FRAMES, Chat, PromptStyle, build_messages
from .reasoner import Generated, OnToken, Reasoned, Sampling, understood

KEY_VARIABLE = "EVLM_API_KEY"
PRIVATE_VARIABLE = "EVLM_ALLOW_PRIVATE_ENDPOINTS"
HOSTS_VARIABLE = "EVLM_API_HOSTS"
# Python 3.10 to 3.12 call some of these global.
_INSIDE = [ipaddress.ip_network(each) for each in ("fec0::/10", "64:ff9b:1::/48", "192.0.0.0/24")]
_CARRIERS = [ipaddress.IPv6Network(each) for each in ("::/96", "64:ff9b::/96")]
_MAX_LINE = 1 << 20  # bytes of one event
_MAX_ANSWER = 16 << 20  # bytes of all events
_MAX_PIXELS = 1280 * 28 * 28  # of a picture on its way out


class RemoteReasoner:
    """Speaks to `<endpoint>/chat/completions`. Holds no connection between requests.

    endpoint: "https://host[:port][/v1]", with or without `/chat/completions`. model: its name there.
    timeout: seconds without a byte before giving up; deadline: seconds for a whole answer.
    max_pixels: larger pictures are made smaller before they are sent. key_hosts: where the key may go; None:
    to the endpoint, whichever it is.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        timeout: float = 120.0,
        deadline: float = 900.0,
        allow_private: bool | None = None,
        max_pixels: int = _MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
        style: PromptStyle = FULL,
        codec: str = "box-spans-8",
        key_hosts: Sequence[str] | None = None,
    ) -> None:
        self.key_hosts = None if key_hosts is None else {host.strip().lower() for host in key_hosts}
        self.address = _parse_address(endpoint)
        self.model = model
        self.timeout, self.deadline = timeout, deadline
        self.allow_private = (
            os.environ.get(PRIVATE_VARIABLE) == "1" if allow_private is None else allow_private
        )
        self.max_pixels, self.max_frames = max_pixels, max_frames
        self.style, self.codec = style, get_codec(codec)

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        repair: bool = True,
    ) -> Reasoned:
        """As `Reasoner.reason`. Raises EndpointError, and TraceError when the answer holds no plan."""
        made = self.generate(request, sampling, on_token)
        return understood(made, repair)

    def generate(
        self, request: Request, sampling: Sampling | None = None, on_token: OnToken | None = None
    ) -> Generated:
        """As `reason`, but the text is returned whether or not it is a trace. `tokens` is what the
        server says, or the number of pieces it sent."""
        chat = build_messages(request, self.codec, self.style, self.max_frames)
        return self.ask(chat, sampling, on_token)

    def ask(self, chat: Chat, sampling: Sampling | None = None, on_token: OnToken | None = None) -> Generated:
        """As `generate`, for any chat."""
        sampling = sampling or Sampling()
        start = time.perf_counter()
        payload = {
            "model": self.model,
            "messages": openai_messages(chat, self.max_pixels),
            "stream": True,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        answer = _Answer()
        for event in self._events(payload, start + self.deadline):
            piece = answer.add(event, self.address)
            if piece and on_token is not None:
                on_token(piece)
        if answer.ended is None:
            raise EndpointError(f"{self.address.url} stopped in the middle of its answer; ask again")
        seconds = time.perf_counter() - start
        return Generated("".join(answer.pieces), answer.tokens, seconds, answer.ended != "length")

    def _events(self, payload: dict[str, Any], until: float) -> Iterator[dict[str, Any]]:
        """The JSON objects of the answer: of its event stream, or the one of a server that does not "
        "stream."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if key and self.key_hosts is not None and self.address.host.lower() not in self.key_hosts:
            raise EndpointError(
                f"{self.address.host} would get {KEY_VARIABLE} and is not among {HOSTS_VARIABLE}: if it is "
                f"yours to use, set {HOSTS_VARIABLE}={self.address.host} in the environment, else unset it"
            )
        connection = self._connect(key)
        try:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            if key:
                headers["Authorization"] = f"Bearer {key}"
            body = json.dumps(payload).encode()
            connection.request("POST", self.address.path, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response, key)
            if "json" in response.headers.get_content_type():
                yield _json(b"".join(self._chunks(response, until)), self.address)
                return
            yield from self._stream(response, until)
        except TimeoutError as error:
            raise EndpointError(
                f"{self.address.url} sent nothing for {self.timeout:g} seconds; try again or raise the "
                f"timeout"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, EndpointError):
                raise
            raise EndpointError(
                f"{self.address.url}: the connection failed ({_hide(str(error), key)}); is the server "
                f"running?"
            ) from None
        finally:
            connection.close()

    def _stream(self, response: http.client.HTTPResponse, until: float) -> Iterator[dict[str, Any]]:
        rest = b""
        for chunk in self._chunks(response, until):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise EndpointError(
                    f"{self.address.url} sends a line without an end; is it the right address?"
                )
            for line in lines:
                name, _, value = line.strip().partition(b":")
                if name != b"data" or not value.strip():
                    continue
                if value.strip() == b"[DONE]":
                    yield {"done": True}
                    return
                yield _json(value, self.address)

    def _chunks(self, response: http.client.HTTPResponse, until: float) -> Iterator[bytes]:
        """The body as it arrives, bounded in time and size; a drip of bytes cannot hold us beyond the "
        "deadline."""
        total = 0
        while chunk := response.read1(1 << 16):
            total += len(chunk)
            if total > _MAX_ANSWER:
                raise EndpointError(
                    f"{self.address.url} sends more than an answer can be; is it the right one?"
                )
            if time.perf_counter() > until:
                raise EndpointError(f"{self.address.url} was not done after {self.deadline:g} seconds")
            yield chunk

    def _connect(self, key: str) -> http.client.HTTPConnection:
        """A connection to an address that was checked: the same one, not a second answer of the name "
        "server."""
        there = self.address
        if key and not (key.isascii() and key.isprintable()):
            raise EndpointError(f"{KEY_VARIABLE} holds characters that no key has; set it again")
        try:
            found = socket.getaddrinfo(there.host, there.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise EndpointError(
                f"{there.host} is not known ({error}); check the endpoint's address"
            ) from None
        numbers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        private = [number for number in numbers if not _is_public(number)]
        if private and not self.allow_private:
            raise EndpointError(
                f"{there.host} is {private[0]}, inside this machine or its network. If that is meant, set "
                f"{PRIVATE_VARIABLE}=1 in the environment"
            )
        if key and there.scheme == "http" and len(private) < len(numbers):
            raise EndpointError(
                f"{there.url} would get {KEY_VARIABLE} unencrypted; use https, or unset the key"
            )
        kind = http.client.HTTPSConnection if there.scheme == "https" else http.client.HTTPConnection
        connection = kind(there.host, there.port, timeout=self.timeout)
        failure: OSError | None = None
        for number in numbers:
            try:
                sock = socket.create_connection((number, there.port), min(self.timeout, 15.0))
                if there.scheme == "https":
                    sock = ssl.create_default_context().wrap_socket(sock, server_hostname=there.host)
            except OSError as error:
                failure = error
            else:
                sock.settimeout(self.timeout)
                connection.sock = sock
                return connection
        raise EndpointError(f"{there.url} cannot be reached ({failure}); is the server running?")

    def _refusal(self, response: http.client.HTTPResponse, key: str) -> EndpointError:
        status = response.status
        if 300 <= status < 400:
            target = response.getheader("Location", "nowhere")[:200]
            return EndpointError(
                f"{self.address.url} redirects to {target}, which is not followed; give that one"
            )
        body = _hide(response.read(2000).decode("utf-8", "replace"), key)
        remedy = _REMEDIES.get(status, "look at the server's log" if status >= 500 else "check the endpoint")
        return EndpointError(
            f"{self.address.url} answered {status} {response.reason}: {body[:300]!r}; {remedy}"
        )


def openai_messages(chat: Chat, max_pixels: int = _MAX_PIXELS) -> list[dict[str, Any]]:
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


@dataclass(frozen=True)
class _Address:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


class _Answer:
    """Collects the pieces of a streamed or whole answer. `ended`: the server's reason for ending, None "
    "before."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.ended: str | None = None
        self.tokens = 0

    def add(self, event: dict[str, Any], where: _Address) -> str:
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
            raise _unusable(where, event) from None
        if not isinstance(piece, str):
            raise _unusable(where, event)
        if reason:
            self.ended = str(reason)
        if piece:
            self.pieces.append(piece)
            self.tokens = max(self.tokens, len(self.pieces))
        return piece


_REMEDIES = {
    400: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    401: f"set the environment variable {KEY_VARIABLE}",
    403: f"check what the key in {KEY_VARIABLE} may use",
    404: "check the endpoint's path and the model's name",
    413: "lower max_pixels or use fewer references",
    422: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    429: "too many requests; wait and ask again",
}


def _parse_address(endpoint: str) -> _Address:
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointError(
            f"endpoint {endpoint!r:.200} is no address ({error}); expected https://host/v1"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise EndpointError(f"endpoint {endpoint!r:.200}: expected http(s)://host[:port]/v1")
    if len(endpoint) > 2000 or len(host) > 253:
        raise EndpointError(f"endpoint {endpoint!r:.80} ...: {len(endpoint):,} characters are no address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EndpointError(f"an endpoint holds no names, keys or queries; set {KEY_VARIABLE} for the key")
    path = parts.path.rstrip("/")
    for part, text in (("host", host), ("path", path)):
        if any(letter.isspace() or not letter.isprintable() for letter in text) or (
            part == "path" and not text.isascii()
        ):
            raise EndpointError(
                f"endpoint {endpoint!r:.200}: its {part} holds characters that no address has"
            )
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return _Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def _is_public(number: str) -> bool:
    address = ipaddress.ip_address(number.partition("%")[0])
    if any(address in network for network in _INSIDE):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return _is_public(str(inner))
    return address.is_global and not address.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, compatible, 6to4 or NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


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


def _json(raw: bytes, where: _Address) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise _unusable(where, raw[:200].decode("utf-8", "replace")) from None
    if not isinstance(content, dict):
        raise _unusable(where, content)
    return content


def _unusable(where: _Address, what: Any) -> EndpointError:
    return EndpointError(
        f"{where.url} answered {str(what)[:200]!r}, which is no chat completion; check the path"
    )


def _hide(text: str, key: str) -> str:
    """Servers like to repeat the key that they refuse."""
    return text.replace(key, "<key>") if key else text
