"""`model.shard` by the trainer's own command under torchrun: rows a second and each process's memory, SFT of
Qwen2-VL-2B's size with LoRA of rank 64 on the world's rows, weights of random numbers on this machine's disk.

With one process nothing is split: it is what two are measured by.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.report.events import LOG

from .qwen import backbone, save
from .server import ROOT, free_port
from .steps import Setting, Step
from .train import RANK, ROWS
from .turns import empty

NAME = "Qwen2-VL-2B"
ENDS = 480.0  # seconds at most
COUNTS = {"one process": 1, "two processes": 2}


def steps(setting: Setting) -> list[Step]:
    """As a toy the last that can be made: what one process does two do as well, and each takes its time to
    start."""
    found = [
        Step(f"shard: {NAME}, {said}", 3.0, partial(train, setting, count), (), ("peft", "accelerate"),
             lacks=lacks(setting, count))
        for said, count in COUNTS.items()
    ]  # fmt: skip
    return [step for step in found if not step.lacks][-1:] if setting.toy else found


def lacks(setting: Setting, count: int) -> str:
    from torch.distributed.fsdp import FSDPModule

    cards = torch.cuda.device_count() if setting.device.type == "cuda" else count
    if cards < count:
        return f"needs {count} cards, here is {cards}"
    if count > 1 and not hasattr(FSDPModule, "reset_iter_state"):
        return f"needs torch 2.15 or newer to split a model, here is {torch.__version__}"
    return ""


def train(setting: Setting, count: int) -> dict[str, float]:
    """One training by so many processes. Raises RuntimeError with its last words."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(backbone(NAME, setting), folder / "model")
        empty(setting.device)  # the processes are alone on the card but for our own context
        (folder / "recipe.json").write_text(json.dumps(recipe(setting, folder)), "utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
        command += ["-m", "benchmarks.gpu.sharded", str(folder), str(folder / "recipe.json")]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=ENDS
        )
        if done.returncode:
            raise RuntimeError(
                f"torchrun ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
            )
        events = [json.loads(line) for line in (folder / "out" / LOG).read_text("utf-8").splitlines()]
        peaks = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("peak-*.json"))]
    if len(peaks) != count:
        raise RuntimeError(f"{len(peaks)} of {count} processes said what memory they took")
    return figures([event for event in events if event["event"] == "step"], peaks, rows_of(setting))


def figures(told: list[dict[str, Any]], peaks: list[int], rows: int) -> dict[str, float]:
    """The values of the step; the first training step, in which everything is loaded, is not timed."""
    ends = [event["seconds"] * event["step"] for event in told]  # `seconds` is the mean up to there
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    values = {
        "rows/s": rows / each,
        "tokens/s": sum(event["tokens"] for event in told[1:]) / (ends[-1] - ends[0]),
    }
    values |= {f"process {number} GB": peak / 1e9 for number, peak in enumerate(peaks)}
    return values | {"loss": float(told[-1]["loss"])}


def recipe(setting: Setting, folder: Path) -> dict[str, Any]:
    """The world has no end: no row comes twice, so nothing of an earlier step is kept."""
    return {
        "out": str(folder / "out"),
        "model": {
            "base": str(folder / "model"),
            "dtype": "fp32" if setting.half == torch.float32 else "bf16",
            "device": "cpu" if setting.device.type == "cpu" else "auto",
            "shard": True,
        },
        "lora": {"rank": RANK, "alpha": 2.0 * RANK},
        "data": [{"world": True, "seed": 1}],
        "phases": [
            {
                "kind": "sft",
                "steps": 2 if setting.toy else 2 + setting.rounds,
                "batch": rows_of(setting),
                "lr": 1e-5,
            }
        ],
        "save_every": 10**6,
        "log_every": 1,
    }


def rows_of(setting: Setting) -> int:
    return 2 if setting.toy else ROWS


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
