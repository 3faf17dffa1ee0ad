"""ComfyUI's part of `make gpu-check` against a server that answers as ComfyUI does and computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import comfy
from benchmarks.gpu.comfy import figures, graph, measured
from benchmarks.gpu.server import Memory, Ran, Server
from benchmarks.gpu.steps import Setting

TOY = Setting(torch.device("cpu"), True, 1)
CARD = Setting(torch.device("cuda"), False, 5, Path("nowhere"))
# A run takes .2 s, a longer one ends by /interrupt alone; 50 bytes of the card are never given back.
STAND_IN = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

runs, held, cancelled = {}, [1000], set()


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def say(self, data, code=200):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def do_GET(self):
        if self.path == "/system_stats":
            kept = {"vram_total": 10000, "vram_free": 10000 - held[0], "torch_vram_total": held[0] - 1000}
            device = {"type": "cuda", **kept}
            self.say({"system": {"comfyui_version": "0"}, "devices": [device]})
        elif self.path.startswith("/object_info"):
            self.say({"EVLM_Reason": {}})
        else:
            number = self.path.split("/")[-1]
            begun, long = runs[number]
            said = "execution_interrupted" if number in cancelled else "execution_success"
            over = number in cancelled or (not long and time.monotonic() - begun > 0.2)
            status = {"status_str": "", "messages": [[said, {}]]}
            self.say({number: {"status": status}} if over else {})

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/prompt":
            edit = given["prompt"]["edit"]["inputs"]
            if edit["editor"] != ["editor", 0]:
                return self.say({"node_errors": {"edit": {"errors": [{"details": "no editor here"}]}}}, 400)
            held[0] = 2000
            runs[str(len(runs))] = (time.monotonic(), edit["steps"] > 20)
            return self.say({"prompt_id": str(len(runs) - 1)})
        if self.path == "/interrupt":
            cancelled.add(given["prompt_id"])
        if self.path == "/free":
            held[0] = 1050
        self.say(None)


if "--broken" in sys.argv:
    sys.exit("a package is missing")
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "main.py").write_text(STAND_IN)
    return tmp_path / "home"


@pytest.fixture
def server(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    made = Server(home, tmp_path / "base", ["--lowvram"])
    yield made
    made.stop()


def test_three_cycles_and_what_is_left_of_them(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy, "CYCLES", 2)
    monkeypatch.setattr("benchmarks.gpu.server.time.sleep", lambda _: None)
    values = measured(TOY, server)
    assert values["taken GB"] == 1e-6 and values["grown"] == 0 and values["in all"] == 0.05
    assert values["left after unload"] == values["left after free"] == values["left after cancel"] == 0.05
    assert values["load s"] >= 0.2 and 0 <= values["cancel s"] < values["load s"] + 5


def test_what_the_server_refuses_or_ends_otherwise_is_said(server: Server, home: Path) -> None:
    wrong = graph(TOY, 0)
    wrong["edit"]["inputs"]["editor"] = ["picture", 0]
    with pytest.raises(RuntimeError, match="no editor here"):
        server.run(wrong)
    with pytest.raises(RuntimeError, match="without execution_interrupted"):
        server.run(graph(TOY, 0), cancel_after=9)
    with pytest.raises(RuntimeError, match=r"ended with 1: a package is missing"):
        Server(home, home.parent / "other", ["--broken"])


def test_a_leak_is_seen() -> None:
    run = Ran(1.0, 0.1, 1100)
    runs = {name: [run] for name in ("load", "again", "cancelled")}
    rest = {place: [Memory(130, 10), Memory(200, 80)] for place in ("unload", "free", "cancel")}
    values = figures(Memory(100), runs, rest)
    assert values["left after free"] == 0.08 and values["grown"] == 0.07 and values["in all"] == 0.1
    bars = comfy.steps(CARD)[0].bars
    assert not any(bar.met(values) for bar in bars) and len(bars) == 4


def test_without_a_comfyui_it_says_what_it_needs(tmp_path: Path) -> None:
    first, *others = comfy.steps(TOY)
    assert first.why_not(TOY).startswith("needs a ComfyUI: --comfyui")
    assert [step.why_not(TOY) for step in others] == ["needs a CUDA card"] * 2
    empty = Setting(TOY.device, True, 1, tmp_path)
    assert "main.py" in comfy.steps(empty)[0].why_not(empty)
    assert not comfy.steps(TOY)[0].bars
