"""Measures how well the bundled reasoner knows when it is right: on the world, and under a warm lamp that it
has never seen.

    python -m trainer.bundle.check_confidence [--rows 200] [--lamp 0.5] [--folder evlm/bundled/reasoner]

A temperature is fitted on as many questions of the validation split; figures are of the test split.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evlm.errors import TraceError

from ..world.light import lit
from ..world.questions import Question
from ..world.rows import to_request
from ..world.scene import Split
from .parallel_map import parallel_map
from .reasoner import questions

BARS = {"world ECE": 0.05, "lamp AUROC": 0.8, "lamp ECE": 0.1}
BINS = 10


class Judged(NamedTuple):
    """sure: the confidence at a temperature of 1, 0..1; 0 where there was no plan."""

    sure: float
    right: bool


def auroc(judged: Sequence[Judged]) -> float:
    """How often a right plan is surer than a wrong one, ties half; NaN where there are not both."""
    right = torch.tensor([each.sure for each in judged if each.right], dtype=torch.float64)
    wrong = torch.tensor([each.sure for each in judged if not each.right], dtype=torch.float64)
    if not len(right) or not len(wrong):
        return math.nan
    above = right[:, None] - wrong
    return float(((above > 0).double() + (above == 0).double() / 2).mean())


def calibration_error(judged: Sequence[Judged], temperature: float = 1.0) -> float:
    """Expected calibration error in 0..1: over ten bins of like width, how far the mean confidence is from
    the share that is right, weighed by how many are in it."""
    sums = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for each in judged:
        sure = each.sure ** (1 / temperature)
        held = sums[min(int(sure * BINS), BINS - 1)]
        held[0] += sure
        held[1] += each.right
        held[2] += 1
    return sum(abs(sure - right) for sure, right, _ in sums) / len(judged)


def fit_temperature(judged: Sequence[Judged]) -> float:
    """The likeliest, 1/50 to 5,000. With Platt's targets, which leave room for the errors that so few
    questions may not have shown."""
    logs = torch.tensor([math.log(max(each.sure, 1e-300)) for each in judged], dtype=torch.float64)
    right = torch.tensor([each.right for each in judged])
    count = int(right.sum())
    target = torch.where(right, (count + 1) / (count + 2), 1 / (len(judged) - count + 2)).double()
    choices = torch.logspace(math.log10(1 / 50), math.log10(5000), 400, dtype=torch.float64)
    powers = (logs / choices[:, None]).clamp(max=-1e-9)
    likelihood = (target * powers + (1 - target) * torch.log(-torch.expm1(powers))).mean(-1)
    return float(choices[likelihood.argmax()])


def judge(lamp: float, reasoner: Any, question: Question) -> Judged:
    try:
        plan = reasoner.reason(lit(to_request(question), lamp), repair=False).trace.plan
    except TraceError:
        return Judged(0.0, False)
    edit = question.edit
    right = (plan.instruction, plan.targets) == (edit.instruction, edit.targets)
    return Judged(plan.confidence or 0.0, right)


def measure(folder: Path, split: Split, rows: int, seed: int, lamp: float) -> list[Judged]:
    asked = questions(split, rows, seed)
    return parallel_map(partial(_load, folder), partial(judge, lamp), asked, print, jobs=1)


def _load(folder: Path) -> Any:
    from evlm.reason.reasoner import Reasoner

    reasoner = Reasoner.load(folder, device="cpu")
    reasoner.backbone.temperature = 1.0
    return reasoner


def main(folder: Path, rows: int, lamp: float, seed: int) -> int:
    print(f"{rows} questions of the test split, {rows} of validation for the temperature")
    measured: dict[str, float] = {}
    for name, light in (("world", 0.0), ("lamp", lamp)):
        judged = measure(folder, "test", rows, seed, light)
        temperature = fit_temperature(measure(folder, "validation", rows, seed, light))
        before, after = calibration_error(judged), calibration_error(judged, temperature)
        measured |= {f"{name} AUROC": auroc(judged), f"{name} ECE": after}
        print(
            f"{name}: right {sum(each.right for each in judged) / rows:.3f}, AUROC {auroc(judged):.3f}, "
            f"ECE {before:.3f}, at the temperature of {temperature:.2f} {after:.3f}"
        )
    missed = [
        f"{name} {measured[name]:.3f} (bar {bar})"
        for name, bar in BARS.items()
        if not (measured[name] >= bar if "AUROC" in name else measured[name] <= bar)
    ]
    print(f"missed: {', '.join(missed)}" if missed else "all bars are met")
    return len(missed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--lamp", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).resolve().parents[2] / "evlm" / "bundled" / "reasoner"
    )
    options = parser.parse_args()
    raise SystemExit(min(1, main(options.folder, options.rows, options.lamp, options.seed)))
