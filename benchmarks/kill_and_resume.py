"""A training that is killed again and again, against the same one left alone.

    python -m benchmarks.kill_and_resume [--kills 20] [--steps 10] [--seed 0]

SFT, KTO, RKTO, DPO and credit for samples on the bundled model, a state after every step. One run goes
through; another is sent SIGKILL, which no process can catch, while it loads, computes or writes a state (a
third of the times while the unfinished folder is seen), and is started again by the same command each time.
After every kill the newest whole state must hold the bits of the uninterrupted run's state of that step, and
the adapters at the end must be equal.

The processes are forks of this one, which has torch imported, so that a start takes half a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not live through a fork

import peft  # noqa: F401
import torch
import transformers.models.qwen2_vl.modeling_qwen2_vl
import transformers.models.qwen2_vl.processing_qwen2_vl  # noqa: F401
from safetensors.torch import load_file

from trainer.__main__ import main as train
from trainer.learner.state import OPTIMIZER, STATE, WEIGHTS, States

RECIPE = """
lora: {{rank: 4, dropout: 0.1}}
data: [{{world: true, seed: 100, rows: 60}}]
save_every: 1
log_every: 1
phases:
  - {{kind: sft, steps: {0}, batch: 4, micro_batch: 2, lr: 1.0e-3}}
  - {{kind: kto, steps: {0}, batch: 3, micro_batch: 2, lr: 1.0e-3}}
  - {{kind: rkto, steps: {0}, batch: 2, lr: 1.0e-3, rewards: {{samples: 2, max_new_tokens: 40}},
     rkto: {{lambda_sft: 0.1}}}}
  - {{kind: dpo, steps: {0}, batch: 2, micro_batch: 1, lr: 1.0e-3, dpo: {{lambda_sft: 0.1}}}}
  - {{kind: group, steps: {0}, batch: 2, lr: 1.0e-3,
     rewards: {{samples: 3, max_new_tokens: 40, similarity: slots}},
     group: {{reuse: 2, lambda_sft: 0.5, lambda_kl: 0.1, lambda_accepted: 0.1, accept: 0, skip: 0.1}}}}
"""
PHASES = 5


@dataclass
class Tally:
    """kills: all of them; inside: those that left a half-written state; equal: those after which the newest
    whole state had the right bits; steps: at which a state was found."""

    kills: int = 0
    inside: int = 0
    equal: int = 0
    finished: int = 0
    right: int = 0
    steps: list[int] = field(default_factory=list)


def main(kills: int, steps: int, seed: int) -> int:
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = measure(Path(folder), kills, steps, seed)
    steps_seen = ", ".join(map(str, tally.steps))
    print(f"{tally.kills} kills, at steps {steps_seen} of {PHASES * steps}; {tally.inside} inside a save")
    print(f"newest whole state bitwise equal after {tally.equal} of {tally.kills}")
    print(f"final adapter bitwise equal in {tally.right} of {tally.finished} runs")
    print(f"{time.monotonic() - began:.0f} s")
    return int(tally.equal < tally.kills or tally.right < tally.finished or not tally.inside)


def measure(folder: Path, kills: int, steps: int, seed: int) -> Tally:
    """Counts over `kills` kills, of as many runs as they take. folder: an empty one."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(steps))
    whole, tally, rng = folder / "whole", Tally(), random.Random(seed)
    started = time.monotonic()
    with running(recipe, whole, "keep_last=100000") as child:
        assert os.waitpid(child, 0)[1] == 0, (folder / "whole.txt").read_text()
    a_step = (time.monotonic() - started) / (PHASES * steps)
    adapter = load_file(whole / "adapter.safetensors")
    while tally.kills < kills:
        cut = folder / f"cut{tally.finished}"
        while tally.kills < kills and killed(recipe, cut, rng, a_step, tally):
            tally.equal += same_state(whole, cut, tally)
        with running(recipe, cut) as child:
            assert os.waitpid(child, 0)[1] == 0, cut.with_suffix(".txt").read_text()
        tally.finished += 1
        tally.right += same(adapter, load_file(cut / "adapter.safetensors"))
    return tally


def killed(recipe: Path, out: Path, rng: random.Random, a_step: float, tally: Tally) -> bool:
    """Starts the run and kills it; False where it ended before that."""
    state, inside = out / "state", tally.kills % 3 == 0
    before, further = newest(state), rng.choice((0, 0, 1, 2))
    with running(recipe, out) as child:
        if inside or further:
            while newest(state) < before + further or (inside and not unfinished(state)):
                if os.waitpid(child, os.WNOHANG)[0]:
                    return False
                time.sleep(0.0002)
        if not inside:
            time.sleep(rng.uniform(0, 2) * a_step)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        return False
    tally.kills += 1
    tally.inside += unfinished(state)
    return True


@contextmanager
def running(recipe: Path, out: Path, *settings: str) -> Iterator[int]:
    """The trainer's command in a process of its own: its number."""
    gc.collect()
    sys.stdout.flush()
    child = os.fork()
    if child:
        yield child
        return
    code = 1
    try:
        with open(out.with_suffix(".txt"), "a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        code = train(["run", str(recipe), f"out={out}", *settings, "--progress", "jsonl"])
        sys.stdout.flush()
    finally:
        os._exit(code)


def newest(state: Path) -> int:
    return max(States(state, {}).steps(), default=0)


def unfinished(state: Path) -> bool:
    return state.is_dir() and any(name.endswith(".tmp") for name in os.listdir(state))


def same_state(whole: Path, cut: Path, tally: Tally) -> bool:
    """Whether the state that the killed run would go on from is the uninterrupted run's of that step."""
    any_state = States(whole / "state", {}).of(newest(whole / "state"))
    recipe = json.loads((any_state / STATE).read_text())["recipe"]
    saved = States(cut / "state", recipe).newest()
    tally.steps.append(0 if saved is None else saved.progress.step)
    if saved is None:
        return True
    other = States(whole / "state", recipe).of(saved.progress.step)
    return all(same(load_file(saved.folder / name), load_file(other / name)) for name in (WEIGHTS, OPTIMIZER))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Names, shapes, dtypes and bits."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and torch.equal(a[n].reshape(-1).view(torch.uint8), b[n].reshape(-1).view(torch.uint8))
        for n in a
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of each of the five phases")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.kills, args.steps, args.seed))
