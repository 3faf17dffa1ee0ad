"""SFT against TRL's SFTTrainer, in fresh processes, in turns: a tiny Qwen2-VL of random weights.

    python -m benchmarks.trl_sft [--python INTERPRETER_WITH_TRL] [--rounds 5] [--steps 6]

Vocabulary 32,000, batch 8, LoRA of rank 16 in the language model, one thread of a CPU, one epoch of the
world's rows (our cache of picture features is filled and never used). The losses of all steps must be equal.
TRL without gradient checkpointing, which is faster for it, is the peer of the bars; its own default, with it,
stands beside. What the trainings share is in `trl_world`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .trl_world import (
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

SPEED, MEMORY = 1.8, 0.4
DEFAULT = "theirs*checkpointing"


def main(python: str, rounds: int, steps: int) -> int:
    version = find_trl(python)
    if version is None:
        return missing(python)
    sides = {"ours": sys.executable, "theirs": python, DEFAULT: python}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), "sft", steps)
        print(f"SFT, ours against TRL {version}: {steps} steps of 8 rows", flush=True)
        runs = interleaved(sides, "benchmarks.trl_sft", Path(place), steps, rounds, list(sides))
    ratios = table(runs, ["theirs", DEFAULT])["ours"]
    for peer, ratio in ratios.items():
        bars = (f" (bar {SPEED}x)", f" (bar {MEMORY}x)") if peer == "theirs" else ("", "")
        print(
            f"ours against {peer}: {ratio['speed']:.2f}x tokens per CPU-second{bars[0]}, "
            f"{ratio['memory']:.3f}x peak RSS{bars[1]}, "
            f"{ratio['beyond']:.2f}x beyond imports"
        )
    return int(ratios["theirs"]["speed"] < SPEED or ratios["theirs"]["memory"] > MEMORY)


def train(side: str, folder: Path, steps: int) -> None:
    """One side, in its own process."""
    if side == "ours":
        train_ours(folder, our_recipe(folder, "sft", steps))
        return
    from trl import SFTConfig, SFTTrainer

    train_theirs(folder, steps, SFTTrainer, SFTConfig, gradient_checkpointing=side == DEFAULT)


if __name__ == "__main__":
    raise SystemExit(command("SFT against TRL's SFTTrainer", main, train))
