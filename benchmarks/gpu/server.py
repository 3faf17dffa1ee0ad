"""A ComfyUI of the user's, started with this pack in it, and what is asked of it, over HTTP alone."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STARTS, RUNS = 180.0, 420.0  # seconds at most
SAME = 8 << 20  # bytes by which memory at rest may still move
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Memory:
    """Bytes. used: of the card, whoever holds them, without what torch keeps in reserve; on a CPU what the
    server's process has in RAM. torch: what torch holds of the card, its reserve included; 0 on a CPU."""

    used: int
    torch: int = 0


@dataclass(frozen=True)
class Ran:
    """One queued graph. seconds: from queueing to its end; late: from the interrupt to the end; peak: bytes
    that were seen in use, at most."""

    seconds: float
    late: float
    peak: int


class Server:
    """A running server. folder: its models, inputs, outputs and custom nodes."""

    def __init__(self, home: Path, folder: Path, words: Sequence[str]) -> None:
        """Raises RuntimeError with the log's end where it does not come up."""
        for name in ("input", "output", "temp", "user", "models/evlm", "custom_nodes", "page"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        link = folder / "custom_nodes" / "evlm-edit"
        if not link.is_symlink():
            link.symlink_to(ROOT, target_is_directory=True)
        (
            folder / "page" / "index.html"
        ).touch()  # in place of the package with the page, which nobody looks at
        self.port, self.log = free_port(), folder / "server.log"
        command = [os.environ.get("COMFYUI_PYTHON") or sys.executable, str(home / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(folder)]
        command += ["--front-end-root", str(folder / "page"), *words]
        environment = os.environ | dict.fromkeys(("HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"), "1")
        environment.pop("PYTHONPATH", None)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    def _await(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < STARTS:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}: {self.tail()}")
            try:
                self.ask("/system_stats")
            except OSError:
                time.sleep(0.2)
                continue
            if "EVLM_Reason" not in self.ask("/object_info/EVLM_Reason"):
                raise RuntimeError(f"ComfyUI did not take this pack: {self.tail()}")
            return
        raise RuntimeError(f"no answer from ComfyUI within {STARTS:g} s: {self.tail()}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:]

    def ask(self, path: str, data: Any = None) -> Any:
        """What it answers; data: posted as JSON. Raises OSError, and RuntimeError where it refuses."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read()
            raise RuntimeError(f"{path}: {error.code}: {_why(said.decode('utf-8', 'replace'))}") from error
        return json.loads(said) if said.strip() else None

    def memory(self) -> Memory:
        device = self.ask("/system_stats")["devices"][0]
        if device["type"] == "cpu":
            import psutil

            return Memory(int(psutil.Process(self.process.pid).memory_info().rss))
        return Memory(device["vram_total"] - device["vram_free"], device["torch_vram_total"])

    def run(self, graph: Graph, cancel_after: float | None = None, most: float = RUNS) -> Ran:
        """A graph from the queue to its end; cancel_after: it is interrupted after so many seconds. Raises
        RuntimeError where it ends otherwise, or takes more than `most` seconds."""
        began, interrupted, peak = time.monotonic(), 0.0, 0
        number = self.ask("/prompt", {"prompt": graph})["prompt_id"]
        while time.monotonic() - began < most:
            if entry := self.ask(f"/history/{number}").get(number):
                ended = time.monotonic()
                self._check(entry["status"], cancel_after is not None)
                return Ran(ended - began, ended - interrupted if interrupted else 0.0, peak)
            peak = max(peak, self.memory().used)
            if cancel_after is not None and not interrupted and time.monotonic() - began > cancel_after:
                interrupted = time.monotonic()
                self.ask("/interrupt", {"prompt_id": number})
            time.sleep(0.1)
        raise RuntimeError(f"a graph did not end within {most:g} s: {self.tail()}")

    def _check(self, status: dict[str, Any], cancelled: bool) -> None:
        said = dict(status["messages"])
        wanted = "execution_interrupted" if cancelled else "execution_success"
        if wanted not in said:
            error = said.get("execution_error", {}).get("exception_message", status["status_str"])
            raise RuntimeError(f"a graph ended without {wanted}: {error}")

    def free(self, everything: bool) -> Memory:
        """As the buttons do: the models are unloaded, with `everything` what nodes gave is forgotten as well.
        What is used when that has had its effect."""
        held: list[Memory] = []
        for _ in range(30):
            # Asked twice: the worker misses a request that comes while it tidies up after a run.
            if len(held) in (0, 3):
                self.ask("/free", {"unload_models": True, "free_memory": everything})
            time.sleep(0.5)
            held.append(self.memory())
            last = [each.used for each in held[-4:]]
            if len(held) > 6 and max(last) - min(last) < SAME:
                break
        return held[-1]


def _why(refused: str) -> str:
    """Of a graph what the nodes say, of anything else all of it."""
    found = re.findall(r'"details": "([^"]+)"', refused)
    return "; ".join(found) or refused[:1000]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
