"""A teacher on this machine that answers by what it is asked, with faults in between: of tests and of
`data_load`."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evlm.plan.trace import Plan, Trace, render


class Teacher:
    """asked: every body that came, in order, where they are kept. came: how many. served: whole answers.
    whole: how many of these went to a question, by its digest. faults: share of requests that fail.
    seconds: that an answer takes. stop_after: answers until it refuses all (None: never), with the status
    `stopped` and the Retry-After `after`. nonsense: says what is no trace, while this is above 0. filtered:
    `digest_of` what its content filter stops. breaks: every answer breaks off. says: its answers, traces
    unless a test says otherwise."""

    def __init__(self, faults: float = 0.0, seconds: float = 0.0, keep: bool = True) -> None:
        self.faults, self.seconds, self.keep = faults, seconds, keep
        self.came, self.whole = 0, Counter[str]()
        self.stop_after: int | None = None
        self.stopped, self.after = 401, "0"
        self.nonsense = 0
        self.breaks = False
        self.filtered: set[str] = set()
        self.says: Callable[[dict[str, Any]], str] = lambda body: trace_of(digest_of(body))
        self.asked: list[dict[str, Any]] = []
        self.served, self.tokens_in, self.tokens_out = 0, 0, 0
        self._dice, self._lock = random.Random(5), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *args: Any) -> None:
                pass

        self.http = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.came += 1
            if self.keep:
                self.asked.append(body)
            dice = self._dice.random() if self.faults else 1.0
            gone = self.stop_after is not None and self.served >= self.stop_after
            silly, self.nonsense = self.nonsense > 0, self.nonsense - 1
        time.sleep(self.seconds)
        if gone:
            return _status(handler, self.stopped, self.after)
        if dice < self.faults:
            fault = int(dice / self.faults * 5)
            if fault < 4:
                return _status(handler, (429, 500, 503, 408)[fault])
        digest = digest_of(body)
        text = "I would rather not say." if silly else self.says(body)
        reason = "content_filter" if digest in self.filtered else "stop"
        with self._lock:
            tokens_in, tokens_out = len(json.dumps(body["messages"])) // 100, len(text) // 4
            if dice >= self.faults and reason == "stop":
                self.served += 1
                self.whole[digest] += 1
                self.tokens_in, self.tokens_out = self.tokens_in + tokens_in, self.tokens_out + tokens_out
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
        events = [{"choices": [{"index": 0, "delta": {"content": text}}]},
                  {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
                  {"choices": [], "usage": usage}]  # fmt: skip
        data = "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        broken = data.encode()[: 60 if dice < self.faults or self.breaks else None]
        with suppress(OSError):  # who asked was killed
            handler.wfile.write(broken)
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of 16 workers at once none is to wait for a second SYN


def digest_of(body: dict[str, Any]) -> str:
    """Of a question."""
    return hashlib.sha256(
        json.dumps([body["messages"], body.get("seed", 0)], sort_keys=True).encode()
    ).hexdigest()


def trace_of(digest: str) -> str:
    """A good trace that is another for each question."""
    plan = Plan(f"make the hat {digest[:6]} red now", ("hat",), None, "local")
    return render(Trace(f"seen {digest[:8]}", "paint it", "it holds", plan))


def _status(handler: BaseHTTPRequestHandler, status: int, after: str = "0") -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Retry-After", after)
    with suppress(OSError):  # who asked was killed
        handler.end_headers()
        handler.wfile.write(b'{"error": {"message": "no"}}')


@contextmanager
def teaching(faults: float = 0.0, seconds: float = 0.0, keep: bool = True) -> Iterator[Teacher]:
    """A teacher that runs inside the block."""
    teacher = Teacher(faults, seconds, keep)
    with serving(teacher.http):
        yield teacher


@contextmanager
def serving(http: ThreadingHTTPServer) -> Iterator[None]:
    """Answers in a thread inside the block."""
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()
