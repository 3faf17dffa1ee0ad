"""Twenty raters without thinking time at the rating page's own addresses, and a server that is killed.

    python -m benchmarks.raters_load FOLDER [--raters 20] [--seconds 120] [--kills 2]

FOLDER is a dataset that nobody has rated (30,000 rows: what `benchmarks.data_load` leaves in
out/data-load/whole); its votes are taken away again. Each rater takes up to three items and votes; one vote
in ten is taken back, each is sent twice. What was not acknowledged when the server died is sent again by its
key, as the page's outbox does. Bars: 0 errors, 0 items with a vote too many, 0 votes counted twice, 0
acknowledged votes lost.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from trainer.raters.store import FILE, Store, add_rater

ROOT = Path(__file__).resolve().parents[1]


class Page:
    """The command, at one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.start()

    def start(self) -> None:
        words = ["trainer", "data", "rate", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        while "listening at" not in (line := self.process.stdout.readline()):
            if not line:
                raise SystemExit("the page ended before it listened")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Person(threading.Thread):
    """kept: keys of votes that were acknowledged, and not taken back. spans: seconds of each answer."""

    def __init__(self, page: Page, token: str, until: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.page, self.token, self.until, self.dice = page, token, until, random.Random(seed)
        self.kept, self.back, self.errors = set[str](), set[str](), list[str]()
        self.spans: list[float] = []
        self._line: http.client.HTTPConnection | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                items = self._ask("GET", "/api/next?n=3")["items"]
                for item in items:
                    key = uuid.uuid4().hex
                    vote = {"key": key, "item": item["id"], "value": self.dice.random() < 0.6, "ms": 900}
                    said = [self._ask("POST", "/api/votes", vote)["status"] for _ in range(2)]
                    if set(said) == {"kept"}:
                        self.kept.add(key)
                    elif "kept" in said:
                        self.errors.append(f"one vote, two words: {said}")
                    if set(said) == {"kept"} and self.dice.random() < 0.1:
                        self._ask("POST", "/api/undo", {"key": key})
                        self.kept.discard(key)
                        self.back.add(key)
                if not items:
                    time.sleep(0.5)
        except Exception as error:
            self.errors.append(repr(error)[:200])

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        while True:
            began = time.perf_counter()
            try:
                self._line = self._line or http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=60)
                self._line.request(method, path, None if body is None else json.dumps(body), headers)
                response = self._line.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException):  # it was killed, and comes back
                self._line = None
                time.sleep(0.2)
                continue
            if response.status == 429:
                time.sleep(float(response.getheader("Retry-After") or 1))
                continue
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status} {data[:100]!r}")
            self.spans.append(time.perf_counter() - began)
            return json.loads(data)


def main(options: argparse.Namespace) -> int:
    file = options.folder / FILE
    if file.exists():
        raise SystemExit(f"{file} has votes of people; give a folder that nobody has rated")
    page = Page(options.folder)
    try:
        store = Store(file)
        tokens = [add_rater(store, f"rater {number}") for number in range(options.raters)]
        store.close()
        began = time.monotonic()
        people = [Person(page, token, began + options.seconds, seed) for seed, token in enumerate(tokens)]
        for each in people:
            each.start()
        for _ in range(options.kills):
            time.sleep(options.seconds / (options.kills + 1))
            page.kill()
            page.start()
        for each in people:
            each.join(options.seconds + 120)
        took = time.monotonic() - began
        page.kill()
        return judged(file, people, took, options.kills)
    finally:
        page.process.kill()
        for each in options.folder.glob(f"{FILE}*"):
            each.unlink()


def judged(file: Path, people: list[Person], took: float, kills: int) -> int:
    base = sqlite3.connect(file)
    items = base.execute("SELECT count(*) FROM item").fetchone()[0]
    live = "SELECT count(*) FROM vote WHERE vote.item = item.id AND undone = 0 AND value IS NOT NULL"
    over = base.execute(f"SELECT count(*) FROM item WHERE ({live}) > wanted OR votes != ({live})").fetchone()[
        0
    ]
    twice = base.execute(
        "SELECT count(*) FROM (SELECT 1 FROM vote WHERE undone = 0 GROUP BY item, rater HAVING count(*) > 1)"
    ).fetchone()[0]
    there = {key for (key,) in base.execute("SELECT key FROM vote WHERE undone = 0")}
    gone = {key for (key,) in base.execute("SELECT key FROM vote WHERE undone != 0")}
    lost = sum(len(each.kept - there) + len(each.back - gone) for each in people)
    errors = [error for each in people for error in each.errors]
    spans = np.array([span for each in people for span in each.spans])
    votes = sum(len(each.kept) + len(each.back) for each in people)
    print(f"{items:,} items, {len(people)} raters, killed {kills} times")
    print(f"{votes:,} votes in {took:.0f} s, {votes / took:.0f} a second")
    middle, late = 1e3 * np.quantile(spans, (0.5, 0.95))
    print(f"an answer: p50 {middle:.0f} ms, p95 {late:.0f} ms")
    print(f"errors {len(errors)} {errors[:2]}; items with a vote too many or miscounted: {over}")
    print(f"votes twice {twice}, acknowledged and lost {lost}")
    base.close()
    return int(bool(errors or over or twice or lost or not votes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kills", type=int, default=2)
    sys.exit(main(parser.parse_args()))
