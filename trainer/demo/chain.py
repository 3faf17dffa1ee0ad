"""Each step of the chain as the command that a user would type, in a process of its own; what is done already
is not done again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError, TrainingError
from evlm.records import ROWS_FILE

from ..config.settings import read_yaml
from ..raters.store import FILE, Store, add_rater
from .maker import TRUTH, draw_pairs
from .scripted import ScriptedRater

RATERS = ("first", "second", "third")
ERRS = 0.08  # share of each rater's votes that are wrong
_ROOT = Path(__file__).resolve().parents[2]
_WAIT = 180.0  # seconds until a server listens
_ENVIRONMENT = {"EVLM_ALLOW_PRIVATE_ENDPOINTS": "1", "PYTHONPATH": str(_ROOT)}


class Chain:
    """out: where all of it lies. rows: questions to plan. steps: of the training. Raises EVLMError."""

    def __init__(self, out: Path, rows: int, steps: int) -> None:
        self.out, self.rows, self.steps = out, rows, steps
        self.photos, self.set, self.rated = out / "photos", out / "set", out / "rated"

    def run(self) -> None:
        """All of it, in order; each step says how long it took."""
        for name, step in (("draw", self.draw), ("make", self.make), ("rate", self.rate),
                           ("rated", self.label), ("train", self.train)):  # fmt: skip
            start = time.perf_counter()
            said = step()
            print(f"{name:<6}  {time.perf_counter() - start:6.1f} s  {said}", flush=True)

    def draw(self) -> str:
        draw_pairs(self.photos, self.rows)
        return f"{self.rows:,} pairs of the drawn world in {self.photos}"

    def make(self) -> str:
        """The bundled reasoner teaches behind `evlm serve`; `data make` filters and finds masks."""
        if not (self.set / ROWS_FILE).is_file():
            port = self._port()
            self._write("make.yaml", self._recipe(port))
            with self._serving(["evlm", "serve", "--port", str(port)], "served at"):
                self._do(["trainer", "data", "make", str(self.out / "make.yaml")], good=(0, 1))
        self._do(["trainer", "data", "card", str(self.set)])
        return f"{self._count(self.set):,} rows of {self.rows:,} questions in {self.set}"

    def rate(self) -> str:
        """Three scripts vote by the page's own addresses."""
        truth = json.loads((self.photos / TRUTH).read_text(encoding="utf-8"))
        with self._serving(["trainer", "data", "rate", str(self.set), "--port", "0"], "listening at") as url:
            store = Store(self.set / FILE)
            try:
                tokens = {name: add_rater(store, name, "rater") for name in RATERS}
            finally:
                store.close()
            votes = sum(
                ScriptedRater(url, token, name, truth, ERRS).rate_all() for name, token in tokens.items()
            )
        return f"{votes:,} votes of {len(RATERS)} raters at {url}"

    def label(self) -> str:
        if not (self.rated / ROWS_FILE).is_file():
            self._do(["trainer", "data", "rated", str(self.set), str(self.rated)])
        rows = _rows(self.rated)
        liked = sum(row["label"] for row in rows)
        return f"{len(rows):,} rated rows, {liked:,} desired, {len(rows) - liked:,} not"

    def train(self) -> str:
        recipe = {
            "out": str(self.out / "run"),
            "model": {"base": "bundled", "attention": "eager"},
            "lora": {"rank": 8, "alpha": 16},
            "data": [{"path": str(self.rated)}],
            "phases": [{"kind": "kto", "steps": self.steps, "batch": 8, "lr": 1.0e-4, "warmup": 1}],
        }
        self._write("train.yaml", recipe)
        self._do(["trainer", "run", str(self.out / "train.yaml")])
        return f"{self.steps} steps of KTO in {self.out / 'run'}"

    def _recipe(self, port: int) -> dict[str, Any]:
        return {
            "out": str(self.set),
            "rows": self.rows,
            "reuse": 2,
            "split": {"test": 0.1},
            "sources": [{"kind": "folder", "path": str(self.photos), "license": "Apache-2.0"}],
            "teacher": {
                "endpoint": f"http://127.0.0.1:{port}/v1", "model": "bundled", "hint": "none",
                "terms": "Apache-2.0: the bundled reasoner's answers may be trained on",
                "send_pictures": True, "samples": 2, "temperature": 0.5, "workers": 2,
                "max_tokens": 512, "timeout": 600,
            },
        }  # fmt: skip

    def _port(self) -> int:
        """The same in each run, for an answer is known by who gave it."""
        if (self.out / "make.yaml").is_file():
            return int(read_yaml(self.out / "make.yaml")["teacher"]["endpoint"].split(":")[2].split("/")[0])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    def _write(self, name: str, recipe: dict[str, Any]) -> None:
        import yaml

        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / name).write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")

    def _do(self, words: Sequence[str], good: Sequence[int] = (0,)) -> None:
        """One command; what it says goes to OUT/log.txt. Raises TrainingError with its last line."""
        print("  python -m " + " ".join(words), flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env={**os.environ, **_ENVIRONMENT}
        )
        with open(self.out / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n")
        if done.returncode not in good:
            last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise TrainingError(f"{words[0]} {words[1]} ended with {done.returncode}: {last:.400}")

    @contextmanager
    def _serving(self, words: Sequence[str], said: str) -> Iterator[str]:
        """A server's address, while the block lasts. Raises ConfigError where it does not listen."""
        print("  python -m " + " ".join(words), flush=True)
        with open(self.out / "log.txt", "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **_ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        try:
            yield _address(process, said, " ".join(words))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _count(self, folder: Path) -> int:
        return len(_rows(folder))


def _address(process: subprocess.Popen[str], said: str, words: str) -> str:
    assert process.stdout is not None
    until = time.monotonic() + _WAIT
    while time.monotonic() < until:
        line = process.stdout.readline()
        if not line:
            raise ConfigError(f"{words} ended before it listened; log.txt says why")
        if found := re.search(rf"{said} (http://[^;\s]+)", line):
            return found[1]
    raise ConfigError(f"{words} did not listen within {_WAIT:g} seconds")


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROWS_FILE).read_text(encoding="utf-8").splitlines()]
