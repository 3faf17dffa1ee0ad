"""Cancel and memory, measured on a real server."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import live
import pytest

SLACK = 0.05  # seconds
PART = 0.05  # of the models' bytes
JUMP = 300  # tokens


@pytest.mark.parametrize("node", ["EVLM_Reason", "EVLM_Edit"])
def test_a_cancel_takes_at_most_one_token_or_step(
    comfy: live.Comfy, figures: Callable[[str, str], None], node: str
) -> None:
    graph = _long(node)
    running = graphs.node_of(graph, node)
    assert comfy.run(graphs.load("step_by_step")).status == "success"  # the models are in memory
    waits, units = [], []
    for seed in range(3):
        asked: list[float] = []

        def cancel(run: live.Run, kind: str, data: dict[str, Any], asked: list[float] = asked) -> None:
            seen = run.progress(running)
            if not asked and len(seen) >= 4 and seen[-1][0] - seen[0][0] > 0.5:
                asked.append(time.monotonic())
                comfy.post("/interrupt", {})

        run = comfy.run(graphs.seeded(graph, 100 + seed), watch=cancel)
        assert run.status == "interrupted", (run.status, run.error)
        waits.append(run.begun + run.events[-1][0] - asked[0])
        units.append(_unit(run.progress(running)))
        assert not comfy.get("/queue")["queue_running"]
    unit = sorted(units)[1]
    name = "token" if node == "EVLM_Reason" else "step"
    wait = sorted(waits)[1]  # what else the machine does can only make one of them longer
    figures(
        f"cancel in {node}",
        f"{wait * 1e3:.0f} ms, median of 3, worst {max(waits) * 1e3:.0f}; one {name} {unit * 1e3:.0f} ms",
    )
    assert wait <= unit + SLACK
    assert comfy.run(graphs.load("plan_by_hand")).status == "success"


@pytest.mark.timeout(1500)
def test_memory_is_given_back(bulky: live.Comfy, figures: Callable[[str, str], None]) -> None:
    """With an editor that is large enough to be seen in RSS. What the libraries keep for good (code, caches,
    first arenas) is there after the first run; so the cycles after it are measured."""
    graph = graphs.changed(graphs.load("step_by_step"), "EVLM_LoadEditor", model="evlm/bulky", dtype="fp32")
    graph = graphs.changed(graph, "EVLM_Edit", steps=2)
    size = sum(path.stat().st_size for path in (bulky.base / "models/evlm/bulky").rglob("*.safetensors"))
    before = []
    for seed in range(4):
        before.append(bulky.free())
        run = bulky.run(graphs.seeded(graph, seed), 900)
        assert run.status == "success", run.error
        full = bulky.resident()
    after = bulky.free()
    gained, kept = full - before[-1], after - before[1]
    figures(
        "memory",
        f"models {size / 2**20:.0f} MiB; loading adds {gained / 2**20:.0f} MiB, and after three cycles "
        f"/free leaves {kept / 2**20:+.1f} MiB ({kept / size:+.1%})",
    )
    assert gained > 0.8 * size
    assert kept <= PART * size


def _unit(seen: list[tuple[float, int]]) -> float:
    """Seconds of one token or step, without the bar's jumps where a plan ends before its last token."""
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(seen) if 0 < b[1] - a[1] < JUMP]
    assert pairs, seen
    return sum(seconds for seconds, _ in pairs) / sum(units for _, units in pairs)


@pytest.fixture
def bulky(tmp_path: Path) -> Iterator[live.Comfy]:
    """A server whose models/evlm holds a large editor: the bundled one with a wide U-Net of noise."""
    import torch
    from diffusers import UNet2DConditionModel

    from evlm.models.zoo import BUNDLED

    server = live.from_environment(tmp_path)
    place = tmp_path / "models" / "evlm" / "bulky"
    shutil.copytree(BUNDLED / "editor", place)
    about = json.loads((place / "unet" / "config.json").read_text(encoding="utf-8"))
    about["block_out_channels"] = [320, 640, 960]
    shutil.rmtree(place / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(about).save_pretrained(place / "unet")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(place)


def _long(node: str) -> live.Graph:
    """A graph that stays in one node for many seconds."""
    graph = graphs.load("step_by_step")
    if node == "EVLM_Edit":
        return graphs.changed(graph, node, steps=1000)
    # ComfyUI 0.33 tells of a bar only when half a hundredth of it is done: so the bar is short.
    graph = graphs.changed(graph, node, image=["many", 0], max_new_tokens=128)
    example = graphs.node_of(graph, "EVLM_Example")
    graph["many"] = {"class_type": "RepeatImageBatch", "inputs": {"image": [example, 0], "amount": 24}}
    graph["shown"] = {"class_type": "EVLM_ShowTrace", "inputs": {"plan": [graphs.node_of(graph, node), 0]}}
    kept = {"EVLM_Example", "EVLM_LoadModel", "EVLM_Reason", "EVLM_ShowTrace", "RepeatImageBatch"}
    return {name: each for name, each in graph.items() if each["class_type"] in kept}
