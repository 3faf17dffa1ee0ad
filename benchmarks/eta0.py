"""Exact eta0 over shared prompts against naive pairs, in one run, interleaved.

    python -m benchmarks.eta0 [--shape real] [--rows 8 16] [--words 0 450] [--processes 3] [--rounds 3]

A tiny Qwen2-VL (`trl_world.SHAPES`) with a policy and a reference adapter, and questions of the world.
Everyone scores the whole table of log rho(y_j | x_i), whose diagonal a step needs as well, under both
adapters. Ours is what a step of the trainer does: "shared" begins with nothing and computes each picture
once; "cached" finds the reference's log-probabilities on disk and the pictures' features in memory, as from
the second epoch on. The peers compute each cell as a full row of prompt and response by the model's own
layers under PEFT's modules: "batched", the peer of the bars, 16 rows of about one length at a time without
their padding, each picture once; "naive" (with --naive) one row with its pictures at a time. They too give
only the response to the head. CPU time of this process, so that a busy machine does not count; what each way
finds is compared before anything is timed. One process may be slower than the next by a fifth (where its
memory happens to lie), so there are several fresh ones, and the median of their ratios counts. What can be
saved depends on the rows: without the prompts there remain all B^2 responses. --words lengthens the prompts
(450: five times a response, as 1,500 to 300).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.plan.trace import render
from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.tiny_qwen import make_processor, make_tokenizer
from trainer.estimators.eta0 import Eta0Config, score_pairs
from trainer.model import lean
from trainer.model.batch import Batch, Collator
from trainer.model.forward import Features
from trainer.model.logprobs import base_of, sequence_logps
from trainer.model.prompts import Prompts, split
from trainer.model.reference import LogProbCache, ReferencePolicy, using
from trainer.run.allocator import keep_memory
from trainer.world.questions import ask
from trainer.world.rows import to_request
from trainer.world.traces import write_trace

from .trl_world import MODULES, SHAPES

BARS = {"cached": 3.0, "shared": 2.0}
EQUAL = 1e-5
WAYS = ("cached", "shared", "batched")
ROOT = Path(__file__).resolve().parents[1]


def main(given: argparse.Namespace) -> int:
    print(
        f"shape {given.shape!r}, CPU seconds of one thread, medians of {given.processes} processes of "
        f"{given.rounds} rounds"
    )
    kept = [rows(given, count, extra) for extra in given.words for count in given.rows]
    return int(not all(kept))


def rows(given: argparse.Namespace, count: int, words: int) -> bool:
    """So many rows, in several processes; whether it is equal and within its bars."""
    flags = ["--rounds", str(given.rounds), "--shape", given.shape, *(["--naive"] if given.naive else [])]
    asked = [sys.executable, "-m", "benchmarks.eta0", "--child", str(count), str(words), *flags]
    found = []
    for _ in range(given.processes):
        done = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {
        name: statistics.median(each["seconds"][name] for each in found) for name in found[0]["seconds"]
    }
    print(f"B {count}: {found[0]['shape']};  " + "  ".join(f"{n} {s:.2f} s" for n, s in seconds.items()))
    kept = True
    for name, bar in BARS.items():
        said = []
        for peer in (each for each in seconds if each not in BARS):
            ratios = sorted(each["seconds"][peer] / each["seconds"][name] for each in found)
            ratio = statistics.median(ratios)
            said.append(f"{ratio:.2f}x less than {peer} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
            kept = kept and (peer != "batched" or ratio >= bar)
        print(f"  {name}: {', '.join(said)}; bar {bar}x less than batched")
    apart, steeper = (max(each[name] for each in found) for name in ("apart", "steeper"))
    print(
        f"  greatest difference of a pair's log-ratio, of its log-probability: {apart:.1e}; of gradients "
        f"{steeper:.1e} (bar {EQUAL})",
        flush=True,
    )
    return kept and max(apart, steeper) <= EQUAL


def child(count: int, words: int, rounds: int, shape: str, naive: bool) -> int:
    """So many rows in this process, as a line of JSON."""
    torch.set_num_threads(1)
    keep_memory()
    tokenizer = make_tokenizer()
    collate, model = Collator(make_processor(tokenizer)), with_adapters(SHAPES[shape].model(tokenizer))
    print(json.dumps(measure(model, collate, count, words, rounds, naive)))
    return 0


def measure(
    model: Any, collate: Collator, count: int, words: int, rounds: int, naive: bool
) -> dict[str, Any]:
    """The shape in words; median seconds of each way; how far they are apart."""
    batch = world_batch(collate, count, words)
    prompts, responses = split(batch)
    texts, owner = [r for _ in range(count) for r in responses], [i for i in range(count) for _ in responses]
    off = ~torch.eye(count, dtype=torch.bool).flatten()
    with tempfile.TemporaryDirectory() as folder:
        cached = ReferencePolicy(model, cache=LogProbCache(Path(folder) / "reference.sqlite"))
        plain, features = ReferencePolicy(model), Features(base_of(model))

        def shared(reference: ReferencePolicy, features: Features) -> Tensor:
            seen, _ = split(features(batch))
            return score_pairs(model, reference, seen, responses, Eta0Config()).mismatched

        def batched() -> Tensor:
            seen, _ = split(Features(base_of(model))(batch))
            with models_own_layers():
                return in_batches(model, seen, texts, owner)[off]

        ways: dict[str, Callable[[], Tensor]] = {
            "cached": lambda: shared(cached, features),
            "shared": lambda: shared(plain, Features(base_of(model))),
            "batched": batched,
        }
        if naive:
            ways["naive"] = lambda: one_at_a_time(model, prompts, texts, owner)[off]
        found = {name: work() for name, work in ways.items()}  # warms up as well
        with torch.no_grad():
            size = sequence_logps(model, prompts, texts, owner).abs()[off]
        oracle = found["naive" if naive else "batched"]
        unlike = {name: float(((each - oracle) / size).abs().max()) for name, each in found.items()}
        steeper = gradients(model, prompts, responses)
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, work in ways.items():
                began = time.process_time()
                work()
                spent[name].append(time.process_time() - began)
    asked, answered = prompts.lengths.float().mean(), sum(map(len, responses)) / count
    return {
        "shape": f"prompts of {float(asked):.0f} tokens, responses of {answered:.0f}",
        "seconds": {name: statistics.median(each) for name, each in spent.items()},
        "apart": max(unlike.values()),
        "steeper": steeper,
    }


def one_at_a_time(model: Any, prompts: Prompts, texts: list[Tensor], owner: list[int]) -> Tensor:
    with torch.no_grad():
        ours = sequence_logps(model, prompts, texts, owner, "naive")
        with using(model, "reference"):
            return ours - sequence_logps(model, prompts, texts, owner, "naive")


def in_batches(model: Any, prompts: Prompts, texts: list[Tensor], owner: list[int], rows: int = 16) -> Tensor:
    """Rows of one prompt and one response each, sorted by length, padded."""

    def score() -> Tensor:
        order = sorted(range(len(texts)), key=lambda n: int(prompts.lengths[owner[n]]) + len(texts[n]))
        found = torch.zeros(len(texts), dtype=torch.float64)
        for at in range(0, len(order), rows):
            some = order[at : at + rows]
            alone = prompts.take([owner[n] for n in some])
            found[some] = sequence_logps(model, alone, [texts[n] for n in some], range(len(some)), "packed")
        return found

    with torch.no_grad():
        ours = score()
        with using(model, "reference"):
            return ours - score()


@contextmanager
def models_own_layers() -> Iterator[None]:
    """Everything by the model's own layers, under PEFT's modules."""
    before, lean.usable = lean.usable, lambda core: False
    try:
        yield
    finally:
        lean.usable = before


def gradients(model: Any, prompts: Prompts, responses: list[Tensor], samples: int = 3) -> float:
    """Relative difference of the policy's gradient, packed rows of a response and `samples` others behind it
    against one row at a time."""
    rows = range(len(responses))
    texts = [responses[(i + n) % len(rows)] for i in rows for n in range(samples + 1)]
    owner = [i for i in rows for _ in range(samples + 1)]
    found = []
    for how in ("naive", "packed"):
        model.zero_grad()
        scores = sequence_logps(model, prompts, texts, owner, how)
        (scores * torch.linspace(-1, 2, len(texts))).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return float((found[1] - found[0]).norm() / found[0].norm())


def world_batch(collate: Collator, rows: int, extra: int) -> Batch:
    """Questions and answers of the world. extra: words that are added to each question."""
    rng = random.Random(f"eta0 {rows}")
    questions = [ask(rng, "train") for _ in range(rows)]
    chats = [build_messages(to_request(q), style=SHORT) for q in questions]
    for chat in chats:
        if extra:
            words = " ".join(rng.choice(("large", "red", "circle", "left")) for _ in range(extra))
            chat.messages[-1]["content"].append({"type": "text", "text": " " + words})
    return collate(chats, [render(write_trace(rng, q)) for q in questions])


def with_adapters(base: Any, rank: int = 16) -> Any:
    """A policy and a reference, both away from the base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        base.eval(), lora := LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES)
    )
    model.add_adapter("reference", lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="exact eta0 against naive pairs")
    parser.add_argument("--shape", choices=SHAPES, default="real")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--words", type=int, nargs="+", default=[0, 450], help="added to each prompt")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--naive", action="store_true", help="one row at a time as well")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        raise SystemExit(child(given.child[0], given.child[1], given.rounds, given.shape, given.naive))
    raise SystemExit(main(given))
