"""OpenAI's addresses for files and batches on this machine, in their exact forms. Not a test file."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.scripted_teacher import digest_of, serving, trace_of


class BatchServer:
    """files: what was uploaded and written, by id. batches: by id. looks: how often each batch was looked at.
    after: looks until one is done. ends: how it ends. failing: questions of the next batch without answer.
    loses: answers to "make a batch" that get lost on their way."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.after, self.ends, self.failing, self.loses = 2, "completed", 0, 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    outer._post(self, body)

            def do_GET(self) -> None:
                with outer._lock:
                    outer._get(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self._came(handler)
        if handler.path == "/v1/files":
            kind = handler.headers["Content-Type"]
            border = re.fullmatch(r"multipart/form-data; boundary=(\w+)", kind)[1].encode()  # type: ignore[index]
            assert body.endswith(b"\r\n--" + border + b"--\r\n")
            parts = dict(map(_part, (b"\r\n" + body).split(b"\r\n--" + border)[1:-1]))
            assert parts["purpose"] == (None, b"batch")
            name, data = parts["file"]
            return _send(handler, {
                "id": self._kept("file-in", data), "object": "file", "bytes": len(data), "created_at": 1,
                "filename": name, "purpose": "batch",
            })  # fmt: skip
        assert handler.path == "/v1/batches"
        wanted = json.loads(body)
        assert wanted.keys() == {"input_file_id", "endpoint", "completion_window"}
        assert wanted["endpoint"] == "/v1/chat/completions" and wanted["completion_window"] == "24h"
        assert wanted["input_file_id"] in self.files
        batch = f"batch_{len(self.batches) + 1}"
        self.batches[batch] = {
            "id": batch, "object": "batch", **wanted, "status": "validating", "output_file_id": None,
            "error_file_id": None, "errors": None, "created_at": 1,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self.looks[batch] = 0
        if self.loses:
            self.loses -= 1
            return handler.connection.close()
        return _send(handler, self.batches[batch])

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        self._came(handler)
        path = handler.path
        if path == "/v1/batches?limit=100":
            return _send(handler, {"object": "list", "data": [*self.batches.values()], "has_more": False})
        if found := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
            handler.send_response(200)
            handler.send_header("Content-Type", "application/octet-stream")
            handler.end_headers()
            handler.wfile.write(self.files[found[1]])
            return None
        batch = self.batches[path.removeprefix("/v1/batches/")]
        self.looks[batch["id"]] += 1
        if batch["status"] in ("validating", "in_progress"):
            self._work(batch)
        return _send(handler, batch)

    def _work(self, batch: dict[str, Any]) -> None:
        lines = self.files[batch["input_file_id"]].splitlines()
        batch["request_counts"]["total"] = len(lines)
        if self.looks[batch["id"]] <= self.after:
            batch["status"] = "in_progress"
            return
        batch["status"] = self.ends
        if self.ends == "failed":
            error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        done, failed = [], []
        for at, line in enumerate(map(json.loads, lines)):
            assert line.keys() == {"custom_id", "method", "url", "body"} and line["method"] == "POST"
            head = {"id": f"batch_req_{at}", "custom_id": line["custom_id"]}
            if at < self.failing:
                error = {"code": "batch_expired", "message": "This request could not be executed"}
                failed.append({**head, "response": None, "error": error})
                continue
            message = {"role": "assistant", "content": trace_of(digest_of(line["body"]))}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
            response = {"status_code": 200, "request_id": str(at), "body": body}
            done.append({**head, "response": response, "error": None})
        self.failing = 0
        for name, found in (("output_file_id", done), ("error_file_id", failed)):
            if found:
                text = "\n".join(map(json.dumps, found)) + "\n" * (name == "output_file_id")
                batch[name] = self._kept("file-out", text.encode())
        batch["request_counts"] |= {"completed": len(done), "failed": len(failed)}

    def _came(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(f"{handler.command} {handler.path}")
        self.keys.append(handler.headers["Authorization"])

    def _kept(self, kind: str, data: bytes) -> str:
        name = f"{kind}-{len(self.files)}"
        self.files[name] = data
        return name


def _part(part: bytes) -> tuple[str, tuple[str | None, bytes]]:
    """(field, (file name, bytes))."""
    head, data = part.removeprefix(b"\r\n").split(b"\r\n\r\n", 1)
    found = re.search(rb'form-data; name="(\w+)"(?:; filename="([\w.-]+)")?', head)
    assert found is not None
    return found[1].decode(), (found[2].decode() if found[2] else None, data)


def _send(handler: BaseHTTPRequestHandler, content: Any) -> None:
    data = json.dumps(content).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@contextmanager
def batching() -> Iterator[BatchServer]:
    """A server that runs inside the block."""
    server = BatchServer()
    with serving(server.http):
        yield server
