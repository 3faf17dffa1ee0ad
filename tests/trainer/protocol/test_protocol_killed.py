"""The protocol as a process that is killed in each of its stages: the same tables, and of each kill at most
the workers' requests asked again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from scripted_panel import Panel, vote_all

from trainer.__main__ import main
from trainer.evaluation.questions import world_questions
from trainer.raters.items import load_items
from trainer.raters.store import FILE, Store

ROWS = int(os.environ.get("EVLM_PROTOCOL_ROWS", "200"))
WORKERS = 4
PROTOCOL = """
questions: {{world: true, rows: {rows}, seed: 1, lamp: 0.5}}
models:
  - {{name: bundled, base: bundled}}
  - {{name: half, endpoint: "{url}", model: half, trust: tuned, workers: {workers}, tries: 1, pause: 0}}
judges: [{{endpoint: "{url}", model: exact}}]
asking: {{workers: {workers}, tries: 1, pause: 0}}
humans: {{wanted: 3}}
out: {out}
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_process_that_is_killed_in_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    with closing(Panel(world_questions(ROWS, 1, lamp=0.5))) as server:
        whole, out = tmp_path / "whole", tmp_path / "again"
        run(command(whole, server.url))
        vote(whole)
        run(command(whole, server.url))
        asked = server.asked.total()
        server.asked.clear()

        answers, verdicts = out / "answers", out / "verdicts.jsonl"
        half, judged = ROWS // 2, asked - ROWS
        moments: list[Callable[[], bool]] = [
            lambda: lines(answers / "bundled.jsonl") >= ROWS // 6,
            lambda: lines(answers / "bundled.jsonl") >= ROWS // 2,
            lambda: lines(answers / "half.jsonl") >= half,
            lambda: lines(verdicts) >= judged // 3,
            lambda: lines(verdicts) >= 2 * judged // 3,
            lambda: (out / "humans").exists(),
            lambda: (out / "tables").exists(),
        ]
        killed = sum(kill(command(out, server.url), moment) for moment in moments)
        run(command(out, server.url))
        vote(out)
        killed += kill(command(out, server.url), lambda: False, 2.0)
        run(command(out, server.url))
        again = sum(count - 1 for count in server.asked.values())
        print(f"{killed} kills, {asked} requests, {again} asked again")
        assert killed >= 6 and len(server.asked) == asked and again <= killed * WORKERS
    assert tables(out) == tables(whole)


def command(out: Path, url: str) -> list[str]:
    file = out.with_suffix(".yaml")
    file.write_text(PROTOCOL.format(rows=ROWS, url=url, workers=WORKERS, out=out))
    return ["protocol", str(file)]


def run(words: list[str]) -> None:
    process = begun(words)
    process.join()
    assert process.exitcode == 0


def kill(words: list[str], moment: Callable[[], bool], patience: float = 600.0) -> bool:
    """Whether it was killed: at the moment, or when patience is over, if it was not done before that."""
    process, end = begun(words), time.monotonic() + patience
    while process.is_alive() and not moment() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode != 0


def begun(words: list[str]) -> Any:
    """A process of its own, of a server that has loaded all modules once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["trainer.protocol.tables", "evlm.reason.reasoner", "transformers"])
    process = context.Process(target=command_line, args=(words, dict(os.environ)))
    process.start()
    return process


def command_line(words: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.exit(main(words))


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def vote(out: Path) -> None:
    with closing(Store(out / "humans" / FILE)) as store:
        load_items(store, out / "humans", 3, 0, lambda problem: None)
        for name, errs in (("ann", 0.05), ("bo", 0.1), ("cy", 0.2)):
            vote_all(store, name, errs)


def tables(out: Path) -> dict[str, bytes]:
    """What was half written is hidden, and is taken away a minute later."""
    files = [path for path in (out / "tables").iterdir() if not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in [*files, out / "protocol.html"]}
