"""What thousands of LoRA files cost a real ComfyUI, and what crafted files do to it.

    python -m benchmarks.many_loras --comfyui DIR [--python PYTHON] [--files 5000] [--header 450000]

Starts real servers on 127.0.0.1, with this pack linked and folders of their own. Printed are, for a graph
with every loader in it and for one of core's nodes alone: `POST /prompt` as the first request of a new server
and again, and how long the server's event loop stood still meanwhile (a task in it that sleeps for 2 ms
measures the longest gap). Then 200 crafted files (deep JSON, huge headers, links, pipes, odd names) in all
model folders: the nodes that are left, `/object_info`, and every file outside that was touched.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STARTS = 240.0  # seconds
WARM = 7  # prompts
BARS = {"first": 1.0, "warm": 0.05, "gap": 0.05, "object_info": 1.0}  # seconds; the first three over core
KINDS = ("loras", "checkpoints", "evlm", "LLM", "sam2", "grounding-dino", "diffusers")
CANARY = "many-loras-canary"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

PROBE = '''
"""Measures the longest time for which the server's event loop did not run."""
import asyncio, time
from aiohttp import web
from server import PromptServer
NODE_CLASS_MAPPINGS = {}
state = {"longest": 0.0, "task": None}
async def beat():
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(0.002)
        state["longest"] = max(state["longest"], time.perf_counter() - begun - 0.002)
@PromptServer.instance.routes.get("/gap")
async def gap(request):
    if state["task"] is None:
        state["task"] = asyncio.get_running_loop().create_task(beat())
    longest, state["longest"] = state["longest"], 0.0
    return web.json_response(longest)
'''


class Server:
    """One ComfyUI, from the start to the end of the `with` block. base: its folders."""

    def __init__(self, comfyui: Path, python: str, base: Path, guard: Path | None = None) -> None:
        self.comfyui, self.python, self.base, self.guard = comfyui, python, base, guard
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> Server:
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DO_NOT_TRACK": "1",
        }
        environment.pop("PYTHONPATH", None)
        if self.guard is not None:
            environment |= {
                "PYTHONPATH": str(ROOT / "tests" / "hostile_guard"),
                "EVLM_GUARD_LOG": str(self.guard),
                "EVLM_GUARD_ALLOW": os.pathsep.join(
                    [*(str(self.base / each) for each in ("output", "temp", "user")), tempfile.gettempdir()]
                ),
                "EVLM_GUARD_CANARY": CANARY,
            }
        command = [self.python, str(self.comfyui / "main.py"), "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--base-directory", str(self.base), "--disable-api-nodes"]
        self.log = open(self.base / "server.log", "ab")
        self.process = subprocess.Popen(
            command,
            cwd=self.comfyui,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        begun = time.monotonic()
        while time.monotonic() - begun < STARTS and self.process.poll() is None:
            try:
                self.call("/gap")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"the server did not start; see {self.base / 'server.log'}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with _DIRECT.open(request, timeout=STARTS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read()[:2000]!r}") from error

    def timed(self, path: str, body: Any = None) -> tuple[float, float, Any]:
        """(seconds until the answer, the event loop's longest gap in them, the answer)."""
        self.call("/gap")
        begun = time.perf_counter()
        answer = self.call(path, body)
        seconds = time.perf_counter() - begun
        return seconds, self.call("/gap"), answer

    def finish(self, answer: Any) -> None:
        """Waits for the end of a queued prompt. Raises RuntimeError where it failed."""
        while not (history := self.call(f"/history/{answer['prompt_id']}")):
            time.sleep(0.05)
        status = history[answer["prompt_id"]]["status"]
        if status["status_str"] != "success":
            raise RuntimeError(f"the graph failed: {json.dumps(status)[:2000]}")


CORE = {
    "picture": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
    },
    "out": {"class_type": "PreviewImage", "inputs": {"images": ["picture", 0]}},
}


def with_every_loader(definitions: dict[str, Any]) -> dict[str, Any]:
    """A graph from request to edit; what is not said has its default."""
    links: dict[str, tuple[str, dict[str, Any]]] = {
        "example": ("EVLM_Example", {}),
        "model": ("EVLM_LoadModel", {}),
        "detector": ("EVLM_LoadDetector", {}),
        "segmenter": ("EVLM_LoadSegmenter", {}),
        "editor": ("EVLM_LoadEditor", {}),
        "reason": ("EVLM_Reason", {"model": ["model", 0], "image": ["example", 0],
                                   "references": ["example", 1], "prompt": ["example", 2]}),
        "ground": ("EVLM_Ground", {"image": ["reason", 5], "plan": ["reason", 0],
                                   "detector": ["detector", 0]}),
        "segment": ("EVLM_Segment", {"image": ["reason", 5], "plan": ["reason", 0], "boxes": ["ground", 0],
                                     "segmenter": ["segmenter", 0]}),
        "edit": ("EVLM_Edit", {"image": ["reason", 5], "plan": ["reason", 0], "mask": ["segment", 0],
                               "editor": ["editor", 0], "steps": 2}),
        "out": ("PreviewImage", {"images": ["edit", 0]}),
    }  # fmt: skip
    return {
        name: {"class_type": kind, "inputs": {**_defaults(definitions.get(kind, {})), **given}}
        for name, (kind, given) in links.items()
    }


def _defaults(definition: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for name, spec in definition.get("input", {}).get("required", {}).items():
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        choices = kind if isinstance(kind, list) else options.get("options")
        if choices:
            values[name] = options.get("default", choices[0])
        elif kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            values[name] = options.get("default", {"STRING": "", "BOOLEAN": False}.get(kind, 0))
    return values


@contextmanager
def folders() -> Iterator[Path]:
    """A server's folders with the pack and the probe in them."""
    with tempfile.TemporaryDirectory(prefix="many-loras-") as work:
        base = Path(work).resolve() / "base"
        for each in (
            "input",
            "output",
            "temp",
            "user",
            "custom_nodes",
            *(f"models/{kind}" for kind in KINDS),
        ):
            (base / each).mkdir(parents=True)
        (base / "custom_nodes" / "evlm-edit").symlink_to(ROOT, target_is_directory=True)
        (base / "custom_nodes" / "probe.py").write_text(PROBE, encoding="utf-8")
        yield base


def write_loras(folder: Path, files: int, header: int) -> None:
    """LoRAs of SDXL's UNet, each with a header of so many bytes; their weights are a hole in the file."""
    entries: dict[str, Any] = {"__metadata__": {"ss_network_module": "networks.lora", "ss_tag_frequency": ""}}
    end, number = 0, 0
    while number % 100 or len(json.dumps(entries)) < header:
        name = f"lora_unet_input_blocks_{number}_1_transformer_blocks_0_attn1_to_k.lora_down.weight"
        entries[name] = {"dtype": "F16", "shape": [16, 640], "data_offsets": [end, end + 20480]}
        end, number = end + 20480, number + 1
    raw = json.dumps(entries).encode()
    raw += b" " * (-len(raw) % 8)
    for each in range(files):
        with open(folder / f"style-{each:05}.safetensors", "wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + end)


def write_crafted(base: Path, count: int, seed: int = 0) -> None:
    """Files that are not what their names say, in every model folder, and links to a canary beside them."""
    rng = random.Random(seed)
    canary = base.parent / CANARY
    canary.mkdir()
    (canary / "secret.txt").write_text("secret", encoding="utf-8")
    (canary / "secret.json").with_suffix(".txt").write_text('{"model_type": "qwen2_vl"}', encoding="utf-8")
    deep = b"[" * 400_000

    def container(path: Path, header: bytes, length: int | None = None) -> None:
        path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header)

    def folder(path: Path, name: str, text: bytes) -> None:
        path.mkdir()
        (path / name).write_bytes(text)

    makers = [
        lambda p: container(p.with_suffix(".safetensors"), deep),
        lambda p: container(p.with_suffix(".safetensors"), b'{"a":' * 80_000),
        lambda p: container(p.with_suffix(".safetensors"), b'{"__metadata__":{"evlm.format_version":' + deep),
        lambda p: container(p.with_suffix(".safetensors"), b"{" + b'"x":0,' * 5_000_000 + b'"y":0}'),
        lambda p: container(p.with_suffix(".safetensors"), b"{}", 1 << 62),
        lambda p: p.with_suffix(".safetensors").write_bytes(b"PK\x03\x04" + bytes(99)),
        lambda p: p.with_suffix(".safetensors").write_bytes(b""),
        lambda p: folder(p, "config.json", deep),
        lambda p: folder(p, "model_index.json", deep),
        lambda p: folder(p, "adapter_config.json", b'{"peft_type": ' + deep),
        lambda p: folder(p, "config.json", b" " * 80_000_000),
        lambda p: folder(p, "config.json", b'{"model_type": [{}]}'),
        lambda p: p.with_suffix(".safetensors").symlink_to(canary / "secret.txt"),
        lambda p: p.with_suffix(".pt").symlink_to(canary / "secret.txt"),
        lambda p: (p.mkdir(), (p / "config.json").symlink_to(canary / "secret.txt")),
        lambda p: p.with_suffix(".safetensors").symlink_to("/dev/zero"),
        lambda p: p.with_suffix(".safetensors").symlink_to(p.with_suffix(".safetensors")),
        # ComfyUI itself would follow two such loops in one of its own folders for ever.
        lambda p: (base / "models" / "evlm" / p.name).symlink_to(base / "models" / "evlm"),
        lambda p: os.mkfifo(p.with_suffix(".safetensors")),
        lambda p: (p.parent / f"{p.name}\nline.safetensors").write_bytes(b""),
        lambda p: (p.parent / os.fsdecode(p.name.encode() + b"\xff.safetensors")).write_bytes(b""),
        lambda p: container(p.parent / f"{p.name}\u202e\u0300{'x' * 100}.safetensors", b"{}"),
    ]
    for number in range(count):
        kind = (
            KINDS[number // len(makers) % len(KINDS)]
            if number < len(makers) * len(KINDS)
            else rng.choice(KINDS)
        )
        makers[number % len(makers)](base / "models" / kind / f"crafted{number}")


def measure(comfyui: Path, python: str, files: int, header: int) -> dict[str, float]:
    """Prints a line for each server; seconds by the names of BARS."""
    with folders() as base:
        with Server(comfyui, python, base) as server:  # the first one compiles and warms the disk's cache
            definitions = server.call("/object_info")
            graph = {"prompt": with_every_loader(definitions)}
            server.finish(server.call("/prompt", graph))
        write_loras(base / "models" / "loras", files, header)
        print(f"{files:,} LoRA files, headers of {header:,} bytes")
        with Server(comfyui, python, base) as server:
            core, core_gap, answer = server.timed("/prompt", {"prompt": CORE})
            server.finish(answer)
            core_warm, core_warm_gap = _again(server, {"prompt": CORE})
        print(
            f"core's nodes alone     first {core:.3f} s (gap {core_gap:.3f})   warm {core_warm:.4f} s "
            f"(gap {core_warm_gap:.4f})"
        )
        with Server(comfyui, python, base) as server:
            first, first_gap, answer = server.timed("/prompt", graph)
            server.finish(answer)
            warm, warm_gap = _again(server, graph)
        print(
            f"with every loader      first {first:.3f} s (gap {first_gap:.3f})   warm {warm:.4f} s "
            f"(gap {warm_gap:.4f})"
        )
        with Server(comfyui, python, base) as server:
            for _ in range(2):
                seconds, gap, definitions = server.timed("/object_info")
                offered = definitions["EVLM_LoadModel"]["input"]["required"]["adapter"]
                print(f"/object_info           {seconds:.3f} s; adapters offered: {offered[1]['options']}")
        gap = max(first_gap - core_gap, warm_gap - core_warm_gap)
        return {"first": first - core, "warm": warm - core_warm, "gap": gap}


def _again(server: Server, graph: dict[str, Any]) -> tuple[float, float]:
    """Medians of (seconds, longest gap) of prompts that were queued before."""
    rows = []
    for _ in range(WARM):
        seconds, gap, answer = server.timed("/prompt", graph)
        server.finish(answer)
        rows.append((seconds, gap))
    return statistics.median(row[0] for row in rows), statistics.median(row[1] for row in rows)


def survive(comfyui: Path, python: str, count: int) -> tuple[float, set[str], list[str]]:
    """(seconds of /object_info, nodes that are gone, what was touched outside) with crafted files."""
    with folders() as base:
        with Server(comfyui, python, base) as server:
            before = {name for name in server.call("/object_info") if name.startswith("EVLM_")}
        write_crafted(base, count)
        guard = base.parent / "guard.log"
        with Server(comfyui, python, base, guard) as server:
            seconds, _, definitions = server.timed("/object_info")
            time.sleep(3)  # the listing's thread
            seconds = max(seconds, server.timed("/object_info")[0])
            server.finish(server.call("/prompt", {"prompt": with_every_loader(definitions)}))
        touched = {json.loads(line)["what"] for line in guard.read_text(encoding="utf-8").splitlines()}
        outside = sorted(each for each in touched if CANARY in each)
        return seconds, before - definitions.keys(), outside


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--python", default=os.environ.get("COMFYUI_PYTHON", sys.executable))
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--header", type=int, default=450_000, help="bytes of each file's header")
    parser.add_argument("--crafted", type=int, default=200)
    given = parser.parse_args()
    if given.comfyui is None:
        parser.error("say where ComfyUI is: --comfyui DIR, or COMFYUI_PATH")
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * given.files * given.header:
        parser.error(f"{given.files:,} files need {given.files * given.header / 1e9:.1f} GB of disk")
    figures = measure(given.comfyui, given.python, given.files, given.header)
    figures["object_info"], gone, outside = survive(given.comfyui, given.python, given.crafted)
    for name, bar in BARS.items():
        print(
            f"{name:12} {figures[name]:.4f} s   bar {bar:g}   {'met' if figures[name] <= bar else 'NOT MET'}"
        )
    print(
        f"{given.crafted} crafted files: nodes gone {sorted(gone) or 'none'}; outside {outside or 'nothing'}"
    )
    return int(bool(gone or outside) or any(figures[name] > bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
