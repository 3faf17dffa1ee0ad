"""A judge that compares pixels, and a stand-in for a ComfyUI server, both on this machine."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

Answer = tuple[int, bytes]


class Local:
    """A server whose `reply(method, path, body)` answers."""

    def __init__(self, reply: Callable[[str, str, bytes], Answer]) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.seen.append((self.command, self.path, body))
                status, data = reply(self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _do

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def judging(answer: Callable[[str, list[np.ndarray]], str]) -> Callable[[str, str, bytes], Answer]:
    """An OpenAI-compatible reply: `answer(words, pictures)`."""

    def reply(method: str, path: str, body: bytes) -> Answer:
        content = json.loads(body)["messages"][-1]["content"]
        words = "".join(each.get("text", "") for each in content)
        urls = [each["image_url"]["url"] for each in content if "image_url" in each]
        shown = [np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]
        choice = {"message": {"content": answer(words, shown)}, "finish_reason": "stop"}
        return 200, json.dumps({"model": "pixels-1", "choices": [choice]}).encode()

    return reply


def by_pixels(words: str, shown: list[np.ndarray]) -> str:
    """Full marks for what was kept where the two pictures are alike, for what was asked where the last one is
    red, for quality always; each of the dimensions that the words name, on their own scale."""
    asked = {key: int(most) for key, most in re.findall(r'"(\w+)": "\d+ to (\d+)"', words)}
    alike = len(shown) > 1 and shown[0].shape == shown[-1].shape and bool((shown[0] == shown[-1]).all())
    red = bool(shown[-1][..., 0].mean() > 200 and shown[-1][..., 1].mean() < 60)
    scores = {}
    for name, most in asked.items():
        least = 0 if most in (1, 10) else 1
        good = alike if name == "consistency" else True if name in ("plausibility", "quality") else red
        scores[name] = most if good else least
    return "I looked at the pixels.\n" + json.dumps(scores)


class StandIn:
    """What ComfyUI's addresses do: it takes an upload and a workflow, is done at the second question, and
    gives a red picture. fails: whether the workflow ends with an error."""

    def __init__(self) -> None:
        self.uploads: list[bytes] = []
        self.prompts: list[dict[str, Any]] = []
        self.asked = 0
        self.fails = False
        self.local = Local(self.reply)

    def reply(self, method: str, path: str, body: bytes) -> Answer:
        parts = urlsplit(path)
        if parts.path == "/upload/image":
            self.uploads.append(body)
            return 200, json.dumps(
                {"name": f"up-{len(self.uploads)}.png", "subfolder": "", "type": "input"}
            ).encode()
        if parts.path == "/prompt":
            self.prompts.append(json.loads(body)["prompt"])
            return 200, json.dumps(
                {"prompt_id": f"p{len(self.prompts)}", "number": 1, "node_errors": {}}
            ).encode()
        if parts.path.startswith("/history/"):
            self.asked += 1
            if self.asked % 2:
                return 200, b"{}"
            status = {"status_str": "error" if self.fails else "success", "completed": not self.fails}
            images = [
                {"filename": "t.png", "subfolder": "", "type": "temp"},
                {"filename": "red.png", "subfolder": "x y", "type": "output"},
            ]
            done = {"outputs": {"9": {"images": images}}, "status": status}
            return 200, json.dumps({parts.path.rpartition("/")[2]: done}).encode()
        if parts.path == "/view" and parse_qs(parts.query) == {
            "filename": ["red.png"],
            "subfolder": ["x y"],
            "type": ["output"],
        }:
            return 200, picture((255, 0, 0))
        return 404, b"no"


def picture(colour: tuple[int, int, int], size: int = 16) -> bytes:
    file = BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()
