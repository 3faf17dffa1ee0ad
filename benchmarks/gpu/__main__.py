"""The command: python -m benchmarks.gpu, from the root.

Parts in the order of their cost: scenes, find (detector, segmenter), edit, correct (the tests behind the
`cuda` marker), reason, train, trl (TRL's trainers), shard (torchrun), comfy (a ComfyUI with this pack, where
--comfyui or COMFYUI names one; its Python is COMFYUI_PYTHON or this one). What has been measured in --out is
not measured again, so that several short calls make one check. Exit code 1: a bar is missed or a step failed;
2: nothing could be begun; 3: time was up, call again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import torch

from .journal import Journal
from .steps import Setting, Step
from .turns import empty

Done = tuple[dict[str, float], float]
PARTS = ("scenes", "find", "edit", "correct", "reason", "train", "trl", "shard", "comfy")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--toy", action="store_true", help="small shapes, one round: proves that it runs")
    parser.add_argument("--only", action="append", metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--step", action="append", metavar="NAME", help="these steps alone")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing that would end later")
    parser.add_argument("--rounds", type=int, help="turns of each way: 5, toy 1")
    parser.add_argument("--again", action="store_true", help="measure again what is in --out")
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI") or None, metavar="FOLDER")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    unknown = set(given.only or ()) - set(PARTS)
    if unknown:
        parser.error(f"--only {', '.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    device = torch.device(given.device)
    if device.type != "cuda" and not given.toy:
        print(f"full-size shapes need a CUDA card, this is {device}; --toy runs on a CPU", file=sys.stderr)
        return 2
    if given.toy and device.type == "cpu":  # tiny layers: threads of one step only wait for each other
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the steps that are processes of their own
    setting = Setting(device, given.toy, given.rounds or (1 if given.toy else 5), given.comfyui)
    steps = [
        step
        for part in PARTS
        if part in (given.only or PARTS)
        for step in import_module(f".{part}", __package__).steps(setting)
        if not given.step or step.name in given.step
    ]
    if not steps:
        parser.error(f"--step {', '.join(given.step)}: there is no such step in these parts")
    return run(steps, setting, Journal(given.out, setting), given.minutes, given.again)


def run(steps: list[Step], setting: Setting, journal: Journal, minutes: float, again: bool) -> int:
    """Measures what is not yet known, and says so; the exit code. Toys that are a process of their own run
    beside the others, whose times are nobody's then."""
    print(", ".join(journal.machine.values()), flush=True)
    steps = [step for step in steps if again or not journal.done(step)]
    with ThreadPoolExecutor(1) as beside:
        begun: dict[str, Future[Done]] = {}
        if setting.toy:
            steps.sort(key=lambda step: step.apart)
            apart = [step for step in steps if step.apart and not step.why_not(setting)]
            begun = {step.name: beside.submit(timed, step) for step in apart}
        return _run(steps, setting, journal, minutes, begun)


def timed(step: Step) -> Done:
    """(its values, seconds that it took)"""
    start = time.monotonic()
    values = step.run()
    return values, time.monotonic() - start


def _run(
    steps: list[Step],
    setting: Setting,
    journal: Journal,
    minutes: float,
    begun: Mapping[str, Future[Done]],
) -> int:
    began, failed = time.monotonic(), []
    for step in steps:
        why = step.why_not(setting)
        if why:
            journal.put(step, 0.0, None, why)
            failed += [] if setting.toy or step.lacks else [f"{step.name}: {why}"]
            print(f"{step.name}: not measured: {why}", flush=True)
            continue
        if not setting.toy and (time.monotonic() - began) / 60 + step.minutes > minutes:
            print(f"{step.name} and what follows would end after {minutes:g} minutes: call again", flush=True)
            return 3
        start = time.monotonic()
        try:
            values, seconds = begun[step.name].result() if step.name in begun else timed(step)
        except Exception as error:  # the next step may well run
            traceback.print_exc()
            journal.put(step, time.monotonic() - start, None, f"{type(error).__name__}: {error}"[:300])
            failed.append(f"{step.name}: {type(error).__name__}")
        else:
            journal.put(step, seconds, values)
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{step.name} ({seconds:.1f} s): {said}", flush=True)
        empty(setting.device)
    for line in [*failed, *(f"missed: {bar}" for bar in journal.missed())]:
        print(line, flush=True)
    print(f"written: {journal.path.with_suffix('.md')}")
    return int(bool(failed or journal.missed()))


if __name__ == "__main__":
    sys.exit(main())
