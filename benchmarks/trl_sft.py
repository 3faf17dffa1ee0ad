"""SFT against TRL's SFTTrainer, in fresh processes, in turns: a tiny Qwen2-VL of random weights.

    python -m benchmarks.trl_sft [--python INTERPRETER_WITH_TRL] [--rounds 3] [--steps 6] [--shape real]

Batches of 8, LoRA of rank 16 in the language model, one thread of a CPU, one epoch of the world's rows (our
cache of picture features is filled and never used). The losses of all steps must be equal. TRL packs no rows
with pictures; without gradient checkpointing it is faster, and it runs with all rows of a step at once
("theirs") and one by one, without padding ("theirs-by-one"): the faster of the two is the peer of the bars.
Its own default, with checkpointing, stands beside. What the trainings share is in `trl_world`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .trl_world import (
    BATCH,
    command,
    find_trl,
    interleaved,
    missing,
    our_recipe,
    prepare,
    table,
    train_ours,
    train_theirs,
)

SPEED, BEYOND = 2.0, 0.4
PEERS, DEFAULT = ("theirs", "theirs-by-one"), "theirs*checkpointing"


def main(python: str, rounds: int, steps: int, shape: str) -> int:
    version = find_trl(python)
    if version is None:
        return missing(python)
    sides = {"ours": sys.executable, **dict.fromkeys((*PEERS, DEFAULT), python)}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), "sft", steps, shape)
        print(f"SFT, ours against TRL {version}: {steps} steps of 8 rows, shape {shape!r}", flush=True)
        runs = interleaved(sides, "benchmarks.trl_sft", Path(place), steps, rounds, list(sides))
    ratios = table(runs, [*PEERS, DEFAULT])["ours"]
    peer = min(PEERS, key=lambda name: ratios[name]["speed"])
    for name, ratio in ratios.items():
        bars = (f" (bar {SPEED}x)", f" (bar {BEYOND}x)") if name == peer else ("", "")
        print(
            f"ours against {name}: {ratio['speed']:.2f}x tokens per CPU-second{bars[0]}, "
            f"{ratio['beyond']:.3f}x peak RSS beyond imports{bars[1]}, {ratio['memory']:.3f}x in all"
        )
    return int(ratios[peer]["speed"] < SPEED or ratios[peer]["beyond"] > BEYOND)


def train(side: str, folder: Path, steps: int) -> None:
    """One side, in its own process."""
    if side == "ours":
        train_ours(folder, our_recipe(folder, "sft", steps))
        return
    from trl import SFTConfig, SFTTrainer

    together = 1 if side == "theirs-by-one" else BATCH
    train_theirs(folder, steps, SFTTrainer, SFTConfig, together, gradient_checkpointing=side == DEFAULT)


if __name__ == "__main__":
    raise SystemExit(command("SFT against TRL's SFTTrainer", main, train))
