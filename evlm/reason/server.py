"""A reasoner of this machine as an OpenAI-compatible server, by what Python itself brings.

    with Server(reasoner, "bundled") as server:
        server.url          # http://127.0.0.1:8378/v1
        server.serve_forever()

One question is answered at a time, the others wait in a line. Nothing is fetched: pictures come as data URLs.
"""

from __future__ import annotations

import hmac
import json
import math
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ..errors import EVLMError, PictureError, RequestError, explained
from .openai_chat import own_form, read_chat
from .reasoner import Generated, Guided, Reasoner, Sampling

MOST_BODY = 64 << 20  # bytes of a request
MOST_WAITING = 64  # requests in the line
PATIENCE = 60.0  # seconds without a byte of a client
LOCAL = ("127.0.0.1", "localhost", "::1")
_REFUSED = ("response_format", "tools", "functions", "stop", "logit_bias")
"""Settings that would make another text, and that are not there."""


class _Refusal(Exception):
    """An answer that is an error: its status, its words, and the setting that it speaks of."""

    def __init__(self, status: int, words: str, param: str | None = None) -> None:
        super().__init__(words)
        self.status, self.param = status, param


class Server(ThreadingHTTPServer):
    """name: the model's, for which it is asked. key: what clients must send as their bearer token, "" for
    nothing. port: 0 takes a free one. Raises RequestError where it cannot listen there."""

    daemon_threads = True

    def __init__(
        self,
        reasoner: Reasoner,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        most_body: int = MOST_BODY,
    ) -> None:
        if host not in LOCAL and not key:
            raise RequestError(f"{host}: a server that others can reach needs a key (EVLM_SERVE_KEY)")
        self.reasoner, self.name, self.key, self.most_body = reasoner, name, key, most_body
        self.host = host
        self.began = int(time.time())
        self.answered = 0
        self._turn, self._lock, self._waiting = threading.Lock(), threading.Lock(), 0
        if ":" in host:
            import socket

            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (TypeError, UnicodeError):  # Python cannot even write the name as one of the network's
            raise RequestError(f"{host!a:.80}: no address to listen at") from None
        except (OSError, OverflowError) as error:
            raise RequestError(f"{host}:{port}: cannot listen there ({error}); take another port") from None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/v1"

    def ask(self, body: dict[str, Any], on_token: Any) -> Generated:
        """The answer to one body, in its turn. Raises EVLMError, _Refusal, what on_token raises."""
        guided: Guided = "auto" if self.reasoner.backbone.tuned else "never"
        sampling = replace(_sampling(body), guided=guided)
        chat = own_form(read_chat(body.get("messages")), self.reasoner)
        with self._lock:
            if self._waiting >= MOST_WAITING:
                raise _Refusal(503, f"{MOST_WAITING} requests are waiting already; ask again later")
            self._waiting += 1
        try:
            with self._turn:
                generated = self.reasoner.answer(chat, sampling, on_token)
                self.answered += 1
        finally:
            with self._lock:
                self._waiting -= 1
        return generated

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _sampling(body: dict[str, Any]) -> Sampling:
    """How the answer is drawn. Raises _Refusal, RequestError."""
    for name in _REFUSED:
        plain = body.get(name) in (None, [], {}, {"type": "text"})
        if not plain:
            raise _Refusal(400, f"unsupported parameter: {name} is not supported here", name)
    if body.get("n") not in (None, 1):
        raise _Refusal(400, "n: one answer at a time", "n")
    most = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    given: dict[str, Any] = {}
    for name, field, kinds in (
        (most, "max_new_tokens", (int,)),
        ("temperature", "temperature", (int, float)),
        ("top_p", "top_p", (int, float)),
        ("seed", "seed", (int,)),
    ):
        value = body.get(name)
        if value is None:
            continue
        if type(value) not in kinds or not (isinstance(value, int) or math.isfinite(value)):
            raise _Refusal(400, f"{name}: {value!r:.40} is no number that it can be", name)
        given[field] = value
    return Sampling(**given)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "evlm", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """What is served."""
        with suppress(OSError):
            try:
                self._check()
                if self._path() != "models":
                    raise _Refusal(404, f"{self.path[:80]!r}: expected /v1/models or /v1/chat/completions")
                model = {"id": self.server.name, "object": "model", "created": self.server.began,
                         "owned_by": "evlm"}  # fmt: skip
                self._send(200, {"object": "list", "data": [model]})
            except _Refusal as refusal:
                self._refuse(refusal)

    def do_POST(self) -> None:
        """One question."""
        with suppress(OSError):  # the client went away
            try:
                self._check()
                if self._path() != "chat/completions":
                    raise _Refusal(404, f"{self.path[:80]!r}: expected /v1/chat/completions")
                self._answer(self._body())
            except _Refusal as refusal:
                self._refuse(refusal)
            except (RequestError, PictureError) as error:
                self._refuse(_Refusal(400, str(error)))
            except OSError:
                raise
            except Exception as error:  # of the model: the next one may go well
                self._refuse(_Refusal(500, str(error) if isinstance(error, EVLMError) else explained(error)))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _check(self) -> None:
        """Who asks. A page of the web that a browser here has open may not, whichever name it gives us."""
        said = self.headers.get("Host", "")
        try:
            host = urlsplit(f"//{said}").hostname
        except ValueError:  # "[", which is the beginning of an address
            host = said
        if self.server.host in LOCAL and host not in LOCAL:
            raise _Refusal(403, f"{host!r:.80} is not this machine")
        if self.server.key:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode("utf-8", "replace"), self.server.key.encode()):
                raise _Refusal(401, "no such key; it is the server's EVLM_SERVE_KEY")

    def _path(self) -> str:
        return urlsplit(self.path).path.strip("/").removeprefix("v1/")

    def _body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise _Refusal(415, "expected Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise _Refusal(411, "expected a Content-Length")
        if int(length) > self.server.most_body:
            raise _Refusal(413, f"{int(length):,} bytes; at most {self.server.most_body:,} are read")
        data = self.rfile.read(int(length))
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _Refusal(400, f"not JSON ({error!s:.120})") from None
        if not isinstance(body, dict):
            raise _Refusal(400, "expected an object")
        if body.get("model") != self.server.name:
            raise _Refusal(404, f"model {body.get('model')!r:.80}: here it is {self.server.name!r}", "model")
        return body

    def _answer(self, body: dict[str, Any]) -> None:
        known = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.server.name}
        if body.get("stream") is not True:
            generated = self.server.ask(body, None)
            choice = {"index": 0, "message": {"role": "assistant", "content": generated.text},
                      "finish_reason": _reason(generated)}  # fmt: skip
            usage = _usage(generated)
            self._send(200, {**known, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        known["object"] = "chat.completion.chunk"
        stream = _Stream(self, known)
        try:
            generated = self.server.ask(body, stream.piece)
        except (_Refusal, OSError):
            raise
        except Exception as error:
            if not stream.begun:
                raise
            words = str(error) if isinstance(error, EVLMError) else explained(error)
            stream.event({"error": _error(words, 500)})
            self.close_connection = True
            return
        options = body.get("stream_options")
        stream.end(generated, isinstance(options, dict) and options.get("include_usage") is True)

    def _refuse(self, refusal: _Refusal) -> None:
        self.close_connection = True  # what the client still sends is not read
        self._send(refusal.status, {"error": _error(str(refusal), refusal.status, refusal.param)})

    def _send(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "5")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


class _Stream:
    """An event stream whose head is sent with its first event."""

    def __init__(self, handler: _Handler, known: dict[str, Any]) -> None:
        self.handler, self.known, self.begun = handler, known, False

    def piece(self, text: str) -> None:
        if text:
            self._choice({"role": "assistant", "content": text}, None)

    def end(self, generated: Generated, usage: bool) -> None:
        self._choice({}, _reason(generated))
        if usage:
            self.event({**self.known, "choices": [], "usage": _usage(generated)})
        self.handler.wfile.write(b"data: [DONE]\n\n")

    def event(self, content: Any) -> None:
        if not self.begun:
            self.begun = self.handler.close_connection = True
            self.handler.send_response(200)
            self.handler.send_header("Content-Type", "text/event-stream")
            self.handler.send_header("Cache-Control", "no-store")
            self.handler.send_header("Connection", "close")
            self.handler.end_headers()
        self.handler.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def _choice(self, delta: dict[str, Any], reason: str | None) -> None:
        self.event({**self.known, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def _reason(generated: Generated) -> str:
    return "stop" if generated.finished else "length"


def _usage(generated: Generated) -> dict[str, int]:
    asked, written = generated.asked or 0, generated.tokens
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def _error(words: str, status: int, param: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": words, "type": kind, "param": param, "code": status}
