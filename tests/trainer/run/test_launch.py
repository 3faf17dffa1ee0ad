"""Several processes that train together: what one process would have learned."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.adapter.checkpoint import load_adapter
from trainer.config.recipe import load_config
from trainer.run.loop import run

ROOT = Path(__file__).resolve().parents[3]
PARTS = (
    "loss",
    "norm",
    "tokens",
    "eta0",
    "reward",
    "similarity",
    "iou",
    "malformed",
    "s_desired",
    "margin",
    "silent",
    "skipped",
    "kl_drawn",
)
# Relative, in float32 (1e-4 was seen): Adam makes whole steps of gradients that are mere rounding.
EQUAL = 1e-3
RECIPE = """
lora: {rank: 4}
data: [{world: true, seed: 100, rows: 60}]
log_every: 1
phases:
  - {kind: sft, steps: 3, batch: 5, lr: 1.0e-4}
  - {kind: kto, steps: 2, batch: 4, micro_batch: 2, lr: 1.0e-4, eta0: {over: pairs}}
  - {kind: rkto, steps: 2, batch: 3, lr: 1.0e-4, eta0: {over: pairs},
     rewards: {samples: 2, max_new_tokens: 120}, rkto: {lambda_sft: 0.1, lambda_u: 0.1, centred: true}}
  - {kind: dpo, steps: 2, batch: 3, micro_batch: 1, lr: 1.0e-4, dpo: {lambda_sft: 0.1}}
  - {kind: group, steps: 2, batch: 3, lr: 1.0e-4,
     rewards: {samples: 3, max_new_tokens: 120, similarity: slots},
     group: {reuse: 2, lambda_sft: 0.5, lambda_kl: 0.1, skip: 0.1}}
"""
STEPS = 11


def launched(words: list[str], rank: int, port: int) -> subprocess.Popen[bytes]:
    """One of two processes, as a launcher would start it."""
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    env = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *words],
        cwd=ROOT,
        env={**env, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
    )


def steps_of(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {event["step"]: event for event in events if event["event"] == "step"}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_processes_learn_what_one_does_and_stop_together(tmp_path: Path, shard: str) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "two"
    recipe.write_text(RECIPE)
    events: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    config = load_config(recipe, [f"out={tmp_path / 'one'}", "model.device=cpu"])
    alone, _ = load_adapter(run(config, events.append))

    words = ["run", str(recipe), f"out={out}", "model.device=cpu", f"model.shard={shard}"]
    words += ["--progress", "jsonl"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = [launched(words, rank, port) for rank in range(2)]
    log = out / "log.jsonl"
    while not (log.is_file() and '"step"' in log.read_text()):
        assert all(each.poll() is None for each in two)
        time.sleep(0.01)
    two[1].send_signal(signal.SIGTERM)  # the one that neither reports nor writes
    assert [each.wait() for each in two] == [130, 130]
    stopped = max(steps_of([json.loads(line) for line in log.read_text().splitlines()]))
    assert stopped < STEPS and [path.name for path in (out / "state").iterdir()] == [f"step-{stopped:08d}"]

    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    more = ["--main_process_port", str(port), "-m", "trainer", *words]
    subprocess.run([*launcher, *more], cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    heard = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["step"] for event in heard if event["event"] == "resume"] == [stopped]
    ours, theirs = steps_of(events), steps_of(heard)
    assert sorted(ours) == sorted(theirs) == list(range(1, STEPS + 1))
    for step, mine in ours.items():
        for (
            name
        ) in PARTS:  # eta0 and s are differences of sums of log-probabilities: small ones of large ones
            if name in mine:
                assert theirs[step][name] == pytest.approx(mine[name], rel=1e-4, abs=1e-4), (step, name)
    together, _ = load_adapter(out / "adapter.safetensors")
    learned = [name for name in alone if "lora_B" in name]  # which begins at 0; lora_A is mostly chance
    whole = torch.cat([alone[name].flatten() for name in learned])
    apart = torch.cat([(together[name] - alone[name]).flatten() for name in learned])
    print("relative difference of the adapters:", float(apart.norm() / whole.norm()))
    assert float(apart.norm() / whole.norm()) < EQUAL
