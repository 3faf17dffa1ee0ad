"""Sends hostile workflows to a real ComfyUI that is watched, and says what came of it.

    python tests/hostile_server.py --comfyui /path/to/ComfyUI [--python ITS/PYTHON] [--count 300] [--seed 0]

Standard library only, so that any Python runs it. The server gets folders of its own and `hostile_guard` on
its PYTHONPATH. Exit code 1 when something escaped, crashed, or ended in an error that says nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]

import hostile  # noqa: E402

from evlm import errors  # noqa: E402

CANARY = "evlm-canary"
TRAINED = "models/evlm/trained"  # the one place of the models where a node of ours writes
SECRET = "never-to-be-read-5e1f"  # in the canary
ERRORS = {name for name, each in vars(errors).items() if isinstance(each, type)}
ALIVE, DONE = 120.0, 240.0  # seconds for a server to start, for one workflow
ENOUGH = 60.0  # seconds: what still runs was accepted and does its work (a training, say); it is cancelled


@dataclass
class Report:
    """validation, execution, harmless: how the workflows ended. The rest are holes, one line each."""

    validation: int = 0
    execution: int = 0
    harmless: int = 0
    escapes: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = self.validation + self.execution + self.harmless + len(self.crashes)
        return (
            f"{total} hostile workflows: {self.validation} validation errors, "
            f"{self.execution} execution errors, {self.harmless} harmless, "
            f"{len(self.escapes)} escapes, {len(self.crashes)} crashes, "
            f"{len(self.unclear)} unclear answers"
        )

    @property
    def holes(self) -> list[str]:
        return [*self.escapes, *self.crashes, *self.unclear]


def attack(comfyui: Path, python: Path, count: int = 300, seed: int = 0, verbose: bool = False) -> Report:
    """Start a server, send `count` workflows, stop it."""
    with tempfile.TemporaryDirectory(prefix="evlm-hostile-") as folder:
        work = Path(folder).resolve()
        canary, report = lay_out(work), Report()
        with _listener() as (port, calls), _server(comfyui, python, work) as server:
            definitions = json.loads(server.call("/object_info")[1])
            _healthy(server, definitions, report)
            before, started = _snapshot(work), time.time()
            for case in hostile.cases(definitions, canary, port, count, seed):
                _send(server, case, report, verbose)
                if not server.alive():
                    report.crashes.append(f"{case.title}: the server is gone: {server.tail()}")
                    break
            else:
                _healthy(server, definitions, report)
            report.escapes += _escapes(work, before, started, len(calls))
        return report


def judge(case: hostile.Case, how: str, text: str, error_type: str | None) -> str | None:
    """What is wrong with an answer. how: "validation", "execution" or "harmless"; text: its whole message;
    error_type: the exception's name, None where the server does not tell."""
    if how == "harmless":
        return "was accepted in silence" if case.must_fail else None
    wrong_link = isinstance(case.value, list) and case.kind == "type"
    if "exception_during" in text and not wrong_link:
        return f"an exception in validation: {text[:300]}"
    kind = (error_type or "").rpartition(".")[2]
    if how == "execution" and kind and kind not in ERRORS and not wrong_link:
        return f"a bare {error_type}: {text[:300]}"
    if how == "execution" and len(text) > 2000:
        return f"a message of {len(text):,} characters: {text[:200]}"
    if len(text.split()) < 4:
        return f"says too little: {text!r}"
    if not (wrong_link or case.kind in ("trace", "words", "size") or _names(case, text)):
        return f"names neither {case.input} nor its value: {text[:300]}"
    return None


def _names(case: hostile.Case, text: str) -> bool:
    """Whether a message says which value it is about."""
    if case.node == "EVLM_RemoteModel" and "EVLM_ALLOW_PRIVATE_ENDPOINTS" in text:
        return True  # it names the host as it was understood
    if re.search(r"\bat character \d|shorten the prompt", text):
        return True  # it names the place in the text that was read, or all texts together
    value = (
        case.value["__value__"] if isinstance(case.value, dict) and "__value__" in case.value else case.value
    )
    beginning = str(value[0] if isinstance(value, list) and value else value)[:8].strip()
    names = (
        case.input,
        case.input.replace("_", " "),
        beginning,
        ascii(beginning)[1:-1],
        repr(beginning)[1:-1],
    )
    return any(name and name in text for name in names)


class _Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def call(self, path: str, body: Any = None) -> tuple[int, bytes]:
        """(status, answer). Raises OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def run(self, graph: hostile.GraphDict) -> tuple[str, str, str | None]:
        """(validation | execution | harmless, message, type of the exception). Raises OSError."""
        status, answer = self.call("/prompt", {"prompt": graph})
        if status != 200:
            return "validation", _details(answer), None
        prompt = json.loads(answer)["prompt_id"]
        # Of several output nodes those that are refused are left out, and the others run.
        refused = _details(answer) if json.loads(answer).get("node_errors") else ""
        begun, cancelled = time.monotonic(), False
        while (waited := time.monotonic() - begun) < DONE:
            if waited > ENOUGH and not cancelled:
                cancelled = self.call("/interrupt", {})[0] == 200
            history = json.loads(self.call(f"/history/{prompt}")[1])
            if prompt in history and cancelled:
                return "harmless", "", None
            if prompt in history:
                return ("validation", refused, None) if refused else _outcome(history[prompt]["status"])
            time.sleep(0.02)
        raise TimeoutError(f"not done after {DONE:g} s")

    def alive(self) -> bool:
        try:
            return self.process.poll() is None and self.call("/system_stats")[0] == 200
        except OSError:
            return False

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-500:]


def _outcome(status: dict[str, Any]) -> tuple[str, str, str | None]:
    if status["status_str"] == "success":
        return "harmless", "", None
    for message in status["messages"]:
        if isinstance(message, str) and message.startswith("execution_error"):  # the fork's form
            return "execution", message.partition(": ")[2], None
        if not isinstance(message, str) and message[0] == "execution_error":
            return "execution", message[1]["exception_message"], message[1]["exception_type"]
    return "execution", "", None


def _details(answer: bytes) -> str:
    """Every error of a refusal in one text."""
    try:
        refusal = json.loads(answer)
    except ValueError:
        return answer.decode("utf-8", "replace")
    rows = [refusal.get("error", {})]
    for node in (refusal.get("node_errors") or {}).values():
        rows += node["errors"]
    return "\n".join(
        " ".join(str(row.get(k, "")) for k in ("type", "message", "details"))
        for row in rows
        if isinstance(row, dict)
    )


def _send(server: _Server, case: hostile.Case, report: Report, verbose: bool) -> None:
    start = time.monotonic()
    try:
        how, text, error_type = server.run(case.graph)
    except (OSError, ValueError) as error:
        report.crashes.append(f"{case.title}: {error!r}")
        if verbose:
            print(report.crashes[-1], flush=True)
        return
    if SECRET in text:
        report.escapes.append(f"{case.title}: the secret is in the answer")
    setattr(report, how, getattr(report, how) + 1)
    report.kinds[f"{case.kind} {how}"] += 1
    if verbose:
        print(f"{time.monotonic() - start:6.2f} s  {how:10}  {case.title}", flush=True)
        print(f"{'':21}{text.strip()[:260]!r}", flush=True)
    wrong = judge(case, how, text, error_type)
    if wrong:
        report.unclear.append(f"{case.title} {wrong}")


def _healthy(server: _Server, definitions: hostile.Definitions, report: Report) -> None:
    """Without the hostile value the graphs must run: before, so that a refusal means the value; and after."""
    for name in hostile.LINKS:
        if name != "remote":
            how, text, _ = server.run(hostile.healthy(definitions, name))
            if how != "harmless":
                report.crashes.append(f"{name} does not even run by itself: {how} {text[:500]}")


def lay_out(work: Path) -> Path:
    """The server's folders, and the canary beside them."""
    canary, base = work / CANARY, work / "base"
    for each in ("custom_nodes", "input", "output", "user", "temp", "models/evlm", "models/loras"):
        (base / each).mkdir(parents=True)
    for each in ("home", "tmp"):
        (work / each).mkdir()
    (base / "custom_nodes" / "evlm").symlink_to(ROOT, target_is_directory=True)
    tiny = ROOT / "tests" / "comfyui" / "tiny_core.py"  # models for EVLM Native Editor
    (base / "custom_nodes" / tiny.name).symlink_to(tiny)
    shutil.copytree(ROOT / "evlm" / "bundled", canary)
    shutil.copy(ROOT / "evlm" / "bundled" / "examples" / "2-words.png", canary / "secret.png")
    shutil.copy(canary / "segmenter" / "model.safetensors", canary / "adapter.safetensors")
    (canary / "secret.txt").write_text(SECRET, encoding="utf-8")
    (base / "output" / "link").symlink_to(canary, target_is_directory=True)
    return canary


@contextmanager
def _server(comfyui: Path, python: Path, work: Path) -> Iterator[_Server]:
    base, log = work / "base", work / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The last is the fork's own: it sees to its folder before every prompt.
    allowed = [base / "output", base / "temp", base / "user", work / "tmp", work / "home" / ".cache"]
    allowed.append(base / TRAINED)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EVLM_", "HF_"))} | {
        "PYTHONPATH": str(TESTS / "hostile_guard"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
        "DO_NOT_TRACK": "1",
        "EVLM_GUARD_LOG": str(work / "guard.log"),
        "EVLM_GUARD_ALLOW": os.pathsep.join(map(str, allowed)),
        "EVLM_GUARD_CANARY": CANARY,
    }
    command, extra = [str(python), str(comfyui / "main.py")], ["--disable-api-nodes"]
    package = (comfyui / "comfy" / "cmd" / "main.py").is_file()
    if package:  # the fork's own main.py would look into its checkout before --base-directory
        command = [str(python), "-c", "from comfy.cmd.main import entrypoint; entrypoint()"]
        env["PYTHONPATH"] += os.pathsep + str(comfyui)
        extra = ["--disable-known-models", "--logging-level", "INFO"]
    command += ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base), *extra]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=base if package else comfyui,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    server = _Server(process, port, log)
    try:
        until = time.monotonic() + ALIVE
        while not server.alive():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start: {server.tail()}")
            time.sleep(0.3)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _listener() -> Iterator[tuple[int, list[str]]]:
    """Somebody at 127.0.0.1 whom nobody may call: (port, calls so far)."""
    calls: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def listen() -> None:
            while True:
                try:
                    caller, address = door.accept()
                except OSError:
                    return
                calls.append(str(address))
                caller.close()

        threading.Thread(target=listen, daemon=True).start()
        yield door.getsockname()[1], calls


def _snapshot(work: Path) -> dict[str, str]:
    """Everything in the work folder but what the server may write."""
    free = {work / "base" / each for each in ("output", "temp", "user")} | {
        work / "tmp",
        work / "home" / ".cache",
        work / "base" / TRAINED,
    }
    hashes = {}
    for folder, names, files in os.walk(work):
        inside = [name for name in names if Path(folder, name) not in free]
        names[:] = [name for name in inside if not Path(folder, name).is_symlink()]
        for name in (*names, *files):
            path = Path(folder, name)
            if path.name in ("guard.log", "server.log"):
                continue
            body = path.read_bytes() if path.is_file() else b""
            hashes[str(path)] = hashlib.sha256(body).hexdigest()
    return hashes


def _escapes(work: Path, before: dict[str, str], started: float, calls: int) -> list[str]:
    escapes = [f"{calls} calls to a private address"] if calls else []
    after = _snapshot(work)
    paths = sorted(before.keys() | after.keys())
    escapes += [f"changed on disk: {path}" for path in paths if before.get(path) != after.get(path)]
    if Path("/tmp/evlm-hostile").exists():
        escapes.append("a command was run: /tmp/evlm-hostile exists")
    for line in (work / "guard.log").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        what = f"{event['event']}: {event['what']}"
        if event["time"] >= started and what not in escapes:
            escapes.append(what)
    for path in (work / "base").rglob("*"):
        if path.is_file() and not path.is_symlink() and SECRET.encode() in path.read_bytes():
            escapes.append(f"the secret is in {path}")
    return escapes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    report = attack(given.comfyui, given.python, given.count, given.seed, given.verbose)
    print(report)
    print(", ".join(f"{kind} {number}" for kind, number in sorted(report.kinds.items())))
    print(*report.holes, sep="\n")
    return int(bool(report.holes))


if __name__ == "__main__":
    sys.exit(main())
