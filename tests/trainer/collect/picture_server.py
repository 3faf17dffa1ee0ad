"""OpenAI's addresses for pictures on this machine. Not a test file."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from batch_server import _part
from PIL import Image

from benchmarks.scripted_teacher import serving
from benchmarks.seams import diptych


class PictureServer:
    """asked: (path, fields) of every request. failing: statuses of the next ones. plain: refuses to be told
    the form of its answer. links: answers with links. usage: what it says of tokens. stop_after: pictures
    until it refuses all."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failing: list[int] = []
        self.plain = self.links = False
        self.stop_after: int | None = None
        self.drawn = 0
        self.usage: Any = {"input_tokens": 50, "output_tokens": 100}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    status, content = outer._answer(self.path, self.headers["Content-Type"], body)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _answer(self, path: str, kind: str, body: bytes) -> tuple[int, Any]:
        if kind == "application/json":
            assert path == "/v1/images/generations"
            fields = json.loads(body)
        else:
            assert path == "/v1/images/edits"
            border = re.fullmatch(r"multipart/form-data; boundary=(\w+)", kind)[1].encode()  # type: ignore[index]
            parts = dict(map(_part, (b"\r\n" + body).split(b"\r\n--" + border)[1:-1]))
            fields = {name: data if file else data.decode() for name, (file, data) in parts.items()}
        self.asked.append((path, fields))
        if self.failing:
            status = self.failing.pop(0)
            return status, {"error": {"message": "slow down" if status == 429 else "not this one"}}
        if self.stop_after is not None and self.drawn >= self.stop_after:
            return 401, {"error": {"message": "no more"}}
        if self.plain and "response_format" in fields:
            return 400, {"error": {"message": "Unknown parameter: 'response_format'."}}
        self.drawn += 1
        file = io.BytesIO()
        self._picture(fields).save(file, "PNG")
        said = base64.b64encode(file.getvalue()).decode()
        picture = {"url": "https://example.org/1.png"} if self.links else {"b64_json": said}
        return 200, {"created": 1, "data": [picture], "usage": self.usage}

    def _picture(self, fields: dict[str, Any]) -> Image.Image:
        if "image" not in fields:
            return diptych(fields["prompt"], "border", 128).picture
        picture = Image.open(io.BytesIO(fields["image"]))
        picture.paste((250, 20, 20), (2, 2, 8, 8))
        return picture


@contextmanager
def drawing() -> Iterator[PictureServer]:
    """A server that runs inside the block."""
    server = PictureServer()
    with serving(server.http):
        yield server
