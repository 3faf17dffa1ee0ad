"""`data make` under load: a scripted teacher that takes its time and fails often, and a run that is killed
again and again beside one that is left alone.

    python -m benchmarks.data_load [--rows 30000] [--kills 20] [--folder out/data-load]

Drawn pairs and clips are the sources, so many that every quota is filled: JPEG pairs of --side pixels, clips
as folders of three frames. The teacher takes --seconds for an answer and fails --faults of the requests by
429, 408, 5xx or an answer that breaks off, and counts the whole answers that it gave to each question. Time
and memory are of `python -m trainer data make` alone; the teacher's work shares its cores.

Pictures and the run left alone are kept in --folder, and used again by the next call.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.scripted_teacher import Teacher, teaching
from trainer.collect.quota import categories

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 16


class Ran(NamedTuple):
    """Of one process: wall and CPU seconds, peak memory in MB, its exit code (below 0: killed)."""

    wall: float
    cpu: float
    memory: float
    code: int


def main(options: argparse.Namespace) -> int:
    folder, rows = options.folder.resolve(), options.rows
    draw(folder / "sources", rows, options.side)
    whole = recipe(folder, "whole", options)
    figures = folder / "whole.json"
    if figures.is_file() and (folder / "whole/rows.jsonl").is_file():
        print(f"left alone, as it was measured before: {figures.read_text().strip()}")
        ran = Ran(**json.loads(figures.read_text()))
    else:
        shutil.rmtree(folder / "whole", ignore_errors=True)
        with teaching(options.faults, options.seconds, keep=False) as teacher:
            ran = make(whole, teacher)
            print(f"left alone: {ran}; {teacher.came:,} requests for {teacher.served:,} answers")
            print(f"answered twice: {twice(teacher)}; ledger {ledger(folder / 'whole')}")
            right = ledger(folder / "whole") == (teacher.came, teacher.served)
        if ran.code not in (0, 1) or not right:
            return 1
        figures.write_text(json.dumps(ran._asdict()) + "\n")
    lines = (folder / "whole/rows.jsonl").read_bytes().splitlines()
    print(
        f"{len(lines):,} rows of {rows:,}; {ran.wall / 60:.1f} min, {ran.cpu:.0f} CPU-s, {ran.memory:.0f} MB"
    )
    kept = ran.wall <= 25 * 60 and ran.memory <= 1500 and len(lines) >= 0.99 * rows
    return int(not kept) | (killed(folder, options, ran) if options.kills else 0)


def killed(folder: Path, options: argparse.Namespace, ran: Ran) -> int:
    """A run that is killed at random moments, a part of its length apart; then it goes on to its end."""
    shutil.rmtree(folder / "cut", ignore_errors=True)
    dice, path = random.Random(options.seed), recipe(folder, "cut", options)
    began, runs = time.monotonic(), list[Ran]()
    with teaching(options.faults, options.seconds, keep=False) as teacher:
        share = len((folder / "whole/rows.jsonl").read_bytes().splitlines()) / (options.kills + 1)
        while len(runs) < options.kills:
            runs.append(make(path, teacher, at=len(runs) * share + dice.uniform(0, 1.5 * share), dice=dice))
            if runs[-1].code >= 0:
                break
        kills = sum(each.code < 0 for each in runs)
        last = make(path, teacher)
        again = twice(teacher)
    same = (folder / "whole/rows.jsonl").read_bytes() == (folder / "cut/rows.jsonl").read_bytes()
    memory = max(each.memory for each in (*runs, last))
    bytes_are = "the same bytes" if same else "DIFFER"
    print(f"killed {kills} times, {(time.monotonic() - began) / 60:.1f} min in all, {memory:.0f} MB at most")
    print(f"rows: {bytes_are}; {again} answers given twice, {again / max(1, kills):.1f} a kill of {WORKERS}")
    return int(not same or kills < options.kills or again > WORKERS * kills)


def make(path: Path, teacher: Teacher, at: float | None = None, dice: random.Random | None = None) -> Ran:
    """The command in a process of its own; at: killed soon after so many answers were given in all."""
    settings = json.loads(path.read_text())
    settings["teacher"]["endpoint"] = teacher.url
    path.write_text(json.dumps(settings))
    environment = {**os.environ, "EVLM_ALLOW_PRIVATE_ENDPOINTS": "1", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with open(path.with_suffix(".txt"), "a") as said:
        command = [sys.executable, "-m", "trainer", "data", "make", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        ended = threading.Event()
        if at is not None and dice is not None:
            wait = dice.uniform(0, 2)
            threading.Thread(target=_kill, args=(process, teacher, at, wait, ended), daemon=True).start()
        _, status, used = os.wait4(process.pid, 0)
        ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Ran(time.monotonic() - began, cpu, used.ru_maxrss / 1024, process.returncode)


def _kill(
    process: subprocess.Popen[bytes], teacher: Teacher, at: float, wait: float, ended: threading.Event
) -> None:
    while teacher.served < at:
        if ended.wait(0.02):
            return
    if not ended.wait(wait):
        process.send_signal(signal.SIGKILL)


def twice(teacher: Teacher) -> int:
    """Whole answers beyond the first of each question."""
    return sum(count - 1 for count in teacher.whole.values())


def ledger(out: Path) -> tuple[int, int]:
    """(requests sent, answers) by the run's own count."""
    data = json.loads((out / "ledger.json").read_text())
    return data["sent"], data["answers"]


def recipe(folder: Path, name: str, options: argparse.Namespace) -> Path:
    path = folder / f"{name}.yaml"
    places = {"folder": folder / "sources", "frames": folder / "sources/clips"}
    sources = [{"kind": kind, "path": str(place), "license": "CC0-1.0"} for kind, place in places.items()]
    path.write_text(json.dumps({
        "out": str(folder / name), "rows": options.rows, "sources": sources,
        "teacher": {"endpoint": "http://127.0.0.1:1/v1", "model": "scripted", "terms": "ours", "samples": 1,
                    "send_pictures": True, "workers": WORKERS, "pause": 0.05, "tries": 20},
    }))  # fmt: skip
    return path


def draw(folder: Path, rows: int, side: int) -> None:
    """As many pairs and clips as the largest category of each takes."""
    quota = categories(rows)
    for n in range(max(quota["image"], quota["text"])):
        if not (folder / f"edited/{n:06d}.jpg").is_file():
            before = texture(n, side)
            after, x, y = before.copy(), side * (n % 5) // 8, side * (n // 5 % 5) // 8
            after[y : y + side // 3, x : x + side // 3] = 255 - after[y : y + side // 3, x : x + side // 3]
            for name, pixels in (("originals", before), ("edited", after)):
                save(folder / f"{name}/{n:06d}.jpg", pixels)
    for n in range(quota["image->video"]):
        pixels = texture(10**6 + n, side // 2)
        for frame in range(3):
            file = folder / f"clips/{n:06d}/{frame}.jpg"
            if not file.is_file():
                save(file, np.roll(pixels, 3 * frame, 1))


def texture(seed: int, side: int) -> np.ndarray:
    """Soft blots, another picture for each seed, with some grain."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
    grain = dice.integers(-6, 7, (side, side, 1), dtype=np.int16)
    return np.asarray((soft + grain).clip(0, 255), np.uint8)


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "JPEG", quality=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--kills", type=int, default=20, help="0: the run that is left alone, and no other")
    parser.add_argument("--seconds", type=float, default=0.02, help="that an answer takes")
    parser.add_argument("--faults", type=float, default=0.3)
    parser.add_argument("--side", type=int, default=256, help="of a picture; clips have half of it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "out/data-load")
    sys.exit(main(parser.parse_args()))
