"""Rate, train, load, reason: in a real ComfyUI, with the bundled model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import graphs
import live
import psutil
import pytest

from evlm.models.zoo import BUNDLED
from evlm.reason.reasoner import Reasoner
from evlm.request import EXAMPLES, load_example

TRAIN, NAME = "EVLM_Train", "train_from_ratings"
CANCELLED = 60  # seconds for the step in hand and for saving, then the child would be killed
PATIENCE = 1500  # seconds for a training on a busy machine; two free cores need about 90


def last(graph: live.Graph, kind: str) -> str:
    return [name for name, node in graph.items() if node["class_type"] == kind][-1]


def planned(adapter: Path | None) -> str:
    """What the engine says by itself to the question of the workflow."""
    reasoner = Reasoner.load(BUNDLED / "reasoner", adapter, "fp32", "cpu")
    return reasoner.reason(load_example(EXAMPLES / "3-removal.json")[1]).text


@pytest.mark.timeout(2 * PATIENCE)
def test_rate_train_load_and_reason_in_one_graph(
    comfy: live.Comfy, figures: Callable[[str, str], None]
) -> None:
    graph = graphs.changed(graphs.load(NAME), TRAIN, name="in_one_graph")  # nothing is there of it yet
    train, shown = last(graph, TRAIN), last(graph, "EVLM_ShowTrace")
    first = comfy.run(graph, PATIENCE)
    assert first.status == "success" and not first.error, first.error
    values = [value for _, value in first.progress(train)]
    assert values == sorted(values) and values[-1] == graph[train]["inputs"]["steps"]
    assert first.previews > 2 and first.outputs[train]["images"]
    adapter = first.outputs[train]["text"][0].splitlines()[-1]
    text = first.outputs[shown]["text"][0]
    assert text == planned(comfy.base / "models" / adapter)
    assert text != planned(None)
    figures("rate, train, load, reason", f"{first.events[-1][0]:.0f} s; {adapter}")

    later = graphs.load(NAME)  # another day, another workflow: the adapter is chosen from the list
    loader = last(later, "EVLM_LoadModel")
    later[loader]["inputs"]["adapter"] = adapter
    kept = {loader, shown, last(later, "EVLM_Reason"), graphs.node_of(later, "EVLM_Example")}
    again = comfy.run({name: node for name, node in later.items() if name in kept})
    assert again.status == "success", again.error
    assert again.outputs[shown]["text"][0] == text
    options = comfy.get("/object_info/EVLM_LoadModel")["EVLM_LoadModel"]["input"]["required"]["adapter"]
    assert adapter in str(options)


@pytest.mark.timeout(2 * PATIENCE)
def test_a_cancel_ends_the_child_and_the_same_queue_goes_on(
    comfy: live.Comfy, figures: Callable[[str, str], None]
) -> None:
    graph = graphs.changed(graphs.load(NAME), TRAIN, name="cancelled", seed=7, steps=16)
    train, asked = last(graph, TRAIN), []

    def cancel(run: live.Run, kind: str, data: object) -> None:
        if not asked and any(value >= 3 for _, value in run.progress(train)):
            assert len(children(comfy)) == 1
            asked.append(time.monotonic())
            comfy.get("/system_stats")  # it answers while a training runs
            figures("an answer during a training", f"{(time.monotonic() - asked[0]) * 1e3:.0f} ms")
            comfy.post("/interrupt", {})

    run = comfy.run(graph, PATIENCE, cancel)
    assert run.status == "interrupted", (run.status, run.error)
    waited = run.begun + run.events[-1][0] - asked[0]
    figures("cancel in EVLM_Train", f"{waited:.1f} s until the state is saved and the child gone")
    assert waited < CANCELLED and not children(comfy)
    assert not list((comfy.base / "models").rglob("cancelled*"))
    again = comfy.run(graph, PATIENCE)
    assert again.status == "success", again.error
    reached = [value for _, value in again.progress(train) if value]
    assert reached[0] >= 3 and reached[-1] == 16


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"recipe": "/tmp/evil.yaml"}, "recipe"),
        ({"dataset": "nobody_rated"}, "no rows yet"),
        ({"dataset": "../input"}, "dataset"),
        ({"name": "../../x"}, "name"),
    ],
)
def test_what_does_not_fit_is_said_and_starts_nothing(
    comfy: live.Comfy, inputs: dict[str, str], words: str
) -> None:
    graph = {"1": {**graphs.load(NAME)[last(graphs.load(NAME), TRAIN)]}}
    graph["1"]["inputs"] = {**graph["1"]["inputs"], "dataset": "evlm_first_ratings", **inputs}
    run = comfy.run(graph)
    assert run.status in ("rejected", "error") and words in str(run.error)
    assert not children(comfy)


def children(comfy: live.Comfy) -> list[psutil.Process]:
    assert comfy.process is not None
    every = psutil.Process(comfy.process.pid).children(recursive=True)
    return [each for each in every if "trainer" in each.cmdline()]
