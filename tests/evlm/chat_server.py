"""A chat server on this machine that answers as it is told and keeps what it was asked. Not a test file."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from evlm.plan.trace import Plan, Trace, render
from evlm.request import Reference, Request

PLAN = Plan("make the hat red", ("hat",), "box 0 0 500 500 full")
TRACE = Trace("a größer hat \U0001f642", "paint it", "yes", PLAN)
REQUEST = Request(torch.rand(1, 8, 12, 3), "like this", (Reference("text", text="red"),))
Reply = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """What it was asked (`seen`), and how it answers (`reply`)."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.reply: Reply = stream(render(TRACE))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.asked = json.loads(body)
                outer.seen.append(self.asked)
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                outer.reply(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def send(body: bytes, status: int = 200, kind: str = "text/event-stream", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def as_json(content: Any, status: int = 200, **headers: str) -> Reply:
    return send(json.dumps(content).encode(), status, "application/json", **headers)


def event(piece: str | None = None, **choice: Any) -> bytes:
    delta = {} if piece is None else {"content": piece}
    content = json.dumps({"choices": [{"delta": delta, **choice}]}, ensure_ascii=False)
    return f"data: {content}\n\n".encode()


def stream(text: str, size: int = 3, end: bytes = b"data: [DONE]\n\n") -> Reply:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    events = b"".join(event(piece) for piece in pieces)
    return send(b": hello\n\n" + events + event(finish_reason="stop") + end)
