"""KTO on the demo's rated rows, by what three raters said and by the world's own labels of the same rows.

    python -m trainer data demo out/dataset-demo --rows 300      # or another number
    python -m benchmarks.rated_kto out/dataset-demo [--steps 100] [--questions 2000]

Both trainings have the same rows, pictures, recipe and seed; only the labels differ, where the majority was
wrong. Then each answers the same questions of the world's test split. Bar: the 90 % interval of the paired
difference of exact plans lies within 3 points. Each step is a command of the trainer, done once: called
again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evlm.files.pictures import load_picture
from evlm.records import ROWS_FILE
from trainer.demo.maker import TRUTH, picture_key
from trainer.demo.scripted import plain

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.03
LEVEL = 0.9
ARMS = ("rated", "own")


def main(demo: Path, steps: int, questions: int, seed: int) -> int:
    changed, total = own_labels(demo)
    print(f"{total:,} rated rows; the world's label is another for {changed:,}")
    exact = {arm: answered(demo, arm, steps, questions, seed) for arm in ARMS}
    mean, low, high = difference(exact["rated"], exact["own"], seed)
    for arm, values in exact.items():
        print(f"{arm}: {np.mean(list(values.values())):.4f} of {len(values):,} plans exact")
    print(f"rated - own: {100 * mean:+.2f} points, {LEVEL:.0%} [{100 * low:+.2f}, {100 * high:+.2f}]")
    return int(not -BAR <= low <= high <= BAR)


def own_labels(demo: Path) -> tuple[int, int]:
    """Writes demo/own: the rated rows with the labels that the world gives. (how many are others, rows)."""
    truth = json.loads((demo / "photos" / TRUTH).read_text(encoding="utf-8"))
    lines, changed = [], 0
    for line in (demo / "rated" / ROWS_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        label = labelled(row, truth, demo / "rated")
        changed += label != row["label"]
        lines.append(json.dumps({**row, "label": label}) + "\n")
    out = demo / "own"
    for file in (demo / "rated").rglob("*"):
        target = out / file.relative_to(demo / "rated")
        if file.is_file() and file.name != ROWS_FILE and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)
    out.mkdir(exist_ok=True)
    (out / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
    return changed, len(lines)


def labelled(row: dict[str, Any], truth: dict[str, str], folder: Path) -> bool:
    """Whether a row's instruction is what its original was drawn for."""
    frame = (load_picture(folder / row["original"][0])[0] * 255).round().byte().numpy()
    right = truth.get(picture_key(frame))
    return right is not None and plain(row["instruction"]) == plain(right)


def answered(demo: Path, arm: str, steps: int, questions: int, seed: int) -> dict[str, bool]:
    """{question: whether its plan was exact} after the arm's training."""
    run, judged = demo / f"kto-{arm}-{steps}-{seed}", demo / f"eval-{arm}-{steps}-{seed}-{questions}"
    if not (run / "adapter.safetensors").is_file():
        settings = {
            "out": str(run), "seed": seed, "model": {"base": "bundled", "attention": "eager"},
            "lora": {"rank": 8, "alpha": 16}, "data": [{"path": str(demo / arm)}],
            "phases": [{"kind": "kto", "steps": steps, "batch": 8, "lr": 1.0e-4, "warmup": 1}],
        }  # fmt: skip
        run.with_suffix(".yaml").write_text(json.dumps(settings))
        do("run", str(run.with_suffix(".yaml")))
    if not (judged / "answers.jsonl").is_file():
        do("eval", "bundled", "--adapter", str(run / "adapter.safetensors"), "--rows", str(questions),
           "--seed", str(seed + 1), "--out", str(judged))  # fmt: skip
    lines = (json.loads(line) for line in (judged / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    return {each["id"]: bool(each["exact"]) for each in lines}


def difference(one: dict[str, bool], other: dict[str, bool], seed: int) -> tuple[float, float, float]:
    """Mean of one - other over the questions, and its percentile interval over 10,000 resamples of them."""
    assert one.keys() == other.keys()
    apart = np.array([float(one[key]) - float(other[key]) for key in one])
    dice = np.random.default_rng(seed)
    means = [apart[dice.integers(0, len(apart), len(apart))].mean() for _ in range(10_000)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(apart.mean()), float(low), float(high)


def do(*words: str) -> None:
    print("  python -m trainer " + " ".join(words), flush=True)
    subprocess.run([sys.executable, "-m", "trainer", *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path, help="what `data demo` made")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.demo.resolve(), args.steps, args.questions, args.seed))
