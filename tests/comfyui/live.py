"""A real ComfyUI on a free port, with this pack linked, and the requests that the tests make of it.

Two kinds are known: the usual checkout (main.py), and the fork that installs as a package.
"""

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
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

PACK = Path(__file__).resolve().parents[2]
LINK = "evlm-edit"  # the folder's name where Manager installs it
STARTS = 300  # seconds; on a full machine two minutes are too few
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Graph = dict[str, dict[str, Any]]


@dataclass
class Run:
    """What became of one queued graph. events: (seconds since queueing, kind, data)."""

    status: str = ""
    error: Any = None
    begun: float = 0.0  # time.monotonic()
    cached: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    events: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    def progress(self, node: str) -> list[tuple[float, int]]:
        """(seconds, value) of a node's progress bar."""
        return [
            (at, data["value"])
            for at, kind, data in self.events
            if kind == "progress" and str(data.get("node")) == node
        ]


class Comfy:
    """One server. base: its folders for models, input, output and custom nodes."""

    def __init__(self, home: Path, python: str, base: Path, arguments: Sequence[str] = ()) -> None:
        self.home, self.python, self.base = home, python, base
        self.arguments = list(arguments)
        self.fork = (home / "comfy" / "cmd" / "main.py").is_file()
        self.log = base / "server.log"
        for name in ("input", "output", "temp", "user", "models", "custom_nodes"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link = base / "custom_nodes" / LINK
        if not link.is_symlink():
            link.symlink_to(PACK, target_is_directory=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *more: str) -> float:
        """Start it and wait for its answer; the seconds that took."""
        self.port = _free_port()
        command = [self.python, str(self.home / "main.py")]
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DO_NOT_TRACK": "1",
        }
        environment.pop("PYTHONPATH", None)
        if self.fork:
            # Its main.py would look into its own checkout before --base-directory.
            command = [self.python, "-c", "from comfy.cmd.main import entrypoint; entrypoint()"]
            environment["PYTHONPATH"] = str(self.home)
            more = ("--disable-known-models", *more)
        command += ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), *self.arguments, *more]
        begun = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.base if self.fork else self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        while time.monotonic() - begun < STARTS:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}:\n{self.tail()}")
            try:
                self.get("/system_stats")
                return time.monotonic() - begun
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer within {STARTS} s:\n{self.tail()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def tail(self, characters: int = 4000) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]

    def get(self, path: str) -> Any:
        with _DIRECT.open(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with _DIRECT.open(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body.strip() else None

    def run(
        self,
        graph: Graph,
        timeout: float = 240,
        watch: Callable[[Run, str, dict[str, Any]], None] | None = None,
    ) -> Run:
        """Queue a graph and follow it to its end. watch(run, kind, data) sees each message as it comes."""
        run, client = Run(), uuid.uuid4().hex
        door = websocket.create_connection(
            f"ws://127.0.0.1:{self.port}/ws?clientId={client}", timeout=timeout, http_no_proxy=["127.0.0.1"]
        )
        try:
            door.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
            begun = run.begun = time.monotonic()
            try:
                asked = self.post("/prompt", {"prompt": graph, "client_id": client})
            except urllib.error.HTTPError as error:
                run.status, run.error = "rejected", json.load(error)
                return run
            if asked.get("node_errors"):
                run.error = asked["node_errors"]
            while not run.status:
                if time.monotonic() - begun > timeout:
                    raise TimeoutError(f"{timeout} s and no end of the run:\n{self.tail()}")
                message = door.recv()
                if isinstance(message, bytes):
                    run.previews += 1
                    continue
                said = json.loads(message)
                kind, data = said["type"], said.get("data") or {}
                if data.get("prompt_id") not in (None, asked["prompt_id"]):
                    continue
                run.events.append((time.monotonic() - begun, kind, data))
                _note(run, kind, data)
                if watch is not None:
                    watch(run, kind, data)
        finally:
            door.close()
        run.outputs = self._outputs(asked["prompt_id"])
        return run

    def _outputs(self, prompt_id: str) -> dict[str, Any]:
        for _ in range(50):  # the history is written a little after the last message
            if history := self.get(f"/history/{prompt_id}"):
                outputs: dict[str, Any] = history[prompt_id]["outputs"]
                return outputs
            time.sleep(0.1)
        raise TimeoutError(f"no history of {prompt_id}")

    def free(self, patience: float = 30) -> int:
        """The button "Unload Models and Execution Cache"; the bytes held when it has had its effect."""
        held = [self.resident()]
        begun = time.monotonic()
        while time.monotonic() - begun < patience:
            # Asked twice: ComfyUI's worker misses a request that comes while it tidies up after a run.
            if len(held) in (1, 4):
                self.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(1)
            held.append(self.resident())
            if len(held) > 8 and max(held[-4:]) - min(held[-4:]) < 1 << 20:
                break
        return held[-1]

    def resident(self) -> int:
        """Bytes of memory that the server holds."""
        import psutil

        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def import_seconds(self) -> float:
        """What the server says that loading this pack took, to a tenth of a second."""
        found = re.search(rf"([\d.]+) seconds(.*): \S*{LINK}\s", self.log.read_text(encoding="utf-8") + "\n")
        assert found, f"no import time of {LINK} in the log:\n{self.tail()}"
        assert "FAILED" not in found[2], f"the import failed:\n{self.tail()}"
        return float(found[1])


def _note(run: Run, kind: str, data: dict[str, Any]) -> None:
    if kind == "execution_cached":
        run.cached.update(map(str, data.get("nodes", [])))
    elif kind == "executing" and data.get("node") is not None:
        run.ran.append(str(data["node"]))
    elif kind == "execution_error":
        run.status = "error"
        run.error = {
            key: data.get(key) for key in ("node_type", "exception_type", "exception_message", "traceback")
        }
    elif kind == "execution_interrupted":
        run.status = "interrupted"
    elif kind == "execution_success":
        run.status = "success"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def from_environment(base: Path) -> Comfy:
    """As COMFYUI_PATH, COMFYUI_PYTHON and COMFYUI_FRONTEND (the files of another frontend) say."""
    home = Path(os.environ["COMFYUI_PATH"]).resolve()
    if not (home / "main.py").is_file():
        raise RuntimeError(f"COMFYUI_PATH={home}: expected a ComfyUI, with its main.py")
    frontend = os.environ.get("COMFYUI_FRONTEND")
    arguments = ["--front-end-root", frontend] if frontend else []
    return Comfy(home, os.environ.get("COMFYUI_PYTHON") or sys.executable, base, arguments)
