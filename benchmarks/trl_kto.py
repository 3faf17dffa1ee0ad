"""KTO against TRL's KTOTrainer, in fresh processes, in turns: a tiny Qwen2-VL of random weights.

    python -m benchmarks.trl_kto [--python INTERPRETER_WITH_TRL] [--rounds 3] [--steps 8] [--shape real]

Batches of 8, LoRA of rank 16 in the language model, one thread of a CPU, two epochs of the world's rows of
both labels, of which the second is timed. The reference is the base under the adapter on both sides. TRL's
eta0 comes from one mismatched pair a row, the completion before; "ours" and "ours-cached" take the same
pairs, so that all losses can be compared; "ours*exact" takes the mean over all pairs. "ours" computes
everything as in a first epoch: the reference's log-probabilities, and what the vision tower makes of
pictures. "ours-cached" has kept both of the rows (the mismatched pairs, which never come back, it computes).
TRL refuses to keep them (precompute_ref_log_probs) for rows with pictures, so that both are compared with
what it can do, without gradient checkpointing, which is faster for it; its pairs are those of one forward, so
its rows cannot come one by one. What the trainings share is in `trl_world`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

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

SPEED = {"ours": 2.5, "ours-cached": 3.0}
BEYOND = 0.4
EXACT = "ours*exact"
EPOCHS, GAMMA = 2, 0.2


def main(python: str, rounds: int, steps: int, shape: str) -> int:
    version = find_trl(python)
    if version is None:
        return missing(python)
    sides = {**dict.fromkeys((*SPEED, EXACT), sys.executable), "theirs": python}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), "kto", steps, shape, EPOCHS)
        print(f"KTO, ours against TRL {version}: {steps} steps of 8 rows, shape {shape!r}", flush=True)
        runs = interleaved(sides, "benchmarks.trl_kto", Path(place), steps, rounds, ["theirs", *SPEED])
    ratios, kept = table(runs, ["theirs"]), True
    for side, peers in ratios.items():
        ratio, bar = peers["theirs"], SPEED.get(side)
        bars = (f" (bar {bar}x)", f" (bar {BEYOND}x)") if bar else ("", "")
        print(
            f"{side} against TRL: {ratio['speed']:.2f}x tokens per CPU-second{bars[0]}, "
            f"{ratio['beyond']:.3f}x peak RSS beyond imports{bars[1]}, {ratio['memory']:.3f}x in all"
        )
        kept = kept and (bar is None or (ratio["speed"] >= bar and ratio["beyond"] <= BEYOND))
    return int(not kept)


def train(side: str, folder: Path, steps: int) -> None:
    """One side, in its own process."""
    if side != "theirs":
        import trainer.estimators.eta0
        import trainer.learner.learner
        import trainer.run.loop
        from trainer.model.forward import Features

        def neighbours(rows: int, *_: Any) -> list[tuple[int, int]]:
            """TRL's pairs: prompt i with the completion before."""
            return [(i, (i - 1) % rows) for i in range(rows)]

        eta0: dict[str, Any] = {"over": "pairs"}
        if side != EXACT:
            eta0 = {"over": "shifts", "shifts": 1}
            trainer.estimators.eta0.pair_indices = neighbours  # type: ignore[assignment]
        if side != "ours-cached":
            trainer.run.loop.LogProbCache = lambda path: None  # type: ignore[assignment, misc, return-value]
            trainer.learner.learner.Features = lambda model: Features(model, limit=0)  # type: ignore[assignment, misc]
        train_ours(folder, our_recipe(folder, "kto", steps, eta0=eta0, kto={"gamma": GAMMA}))
        return
    from trl import KTOConfig, KTOTrainer

    train_theirs(
        folder, steps, KTOTrainer, KTOConfig, columns=("label",), beta=GAMMA, gradient_checkpointing=False
    )


if __name__ == "__main__":
    raise SystemExit(command("KTO against TRL's KTOTrainer", main, train))
