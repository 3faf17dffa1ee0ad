"""Every workflow that needs only bundled models, run on a real server; the second time nothing runs."""

from __future__ import annotations

from collections.abc import Callable

import graphs
import live
import pytest

PATIENCE = 1500  # seconds: one of them trains


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("name", graphs.bundled())
def test_a_workflow_succeeds_and_its_second_run_is_all_cached(
    comfy: live.Comfy, figures: Callable[[str, str], None], name: str
) -> None:
    graph = graphs.load(name)
    first = comfy.run(graph, PATIENCE)
    assert first.status == "success" and not first.error, first.error
    assert first.outputs
    second = comfy.run(graph)
    assert second.status == "success", second.error
    again = [each for each in second.ran if each not in second.cached]
    assert not again, f"these ran again: {[graph[each]['class_type'] for each in again]}"
    assert second.cached == set(graph)
    figures(f"{name}", f"{first.events[-1][0]:.2f} s, again {second.events[-1][0]:.2f} s, nodes re-run 0")


def test_the_preview_and_the_progress_of_an_edit_arrive(comfy: live.Comfy) -> None:
    graph = graphs.seeded(graphs.load("step_by_step"), 11)
    run = comfy.run(graph)
    assert run.status == "success", run.error
    assert len(run.progress(graphs.node_of(graph, "EVLM_Edit"))) > 1
    assert run.progress(graphs.node_of(graph, "EVLM_Reason"))
    assert run.previews > 1
    assert any(kind == "evlm.trace" and data["text"] for _, kind, data in run.events)


def test_a_batch_of_pictures_gives_a_list_of_plans(comfy: live.Comfy) -> None:
    graph = _repeated(graphs.load("step_by_step"), 3)
    run = comfy.run(graph)
    assert run.status == "success", run.error
    assert len(run.outputs["shown"]["text"]) == 3


def test_a_model_that_is_not_there_is_a_clear_message(comfy: live.Comfy) -> None:
    run = comfy.run(graphs.changed(graphs.load("step_by_step"), "EVLM_LoadModel", model="../../etc/passwd"))
    assert run.status == "rejected" or run.error
    assert "passwd" in str(run.error)


def _repeated(graph: live.Graph, times: int) -> live.Graph:
    """The graph up to its plans, with the example's picture repeated."""
    kept = {"EVLM_Example", "EVLM_LoadModel", "EVLM_Reason"}
    made = {name: node for name, node in graph.items() if node["class_type"] in kept}
    example, reason = (graphs.node_of(made, kind) for kind in ("EVLM_Example", "EVLM_Reason"))
    made = graphs.changed(made, "EVLM_Reason", image=["repeat", 0])
    made["repeat"] = {"class_type": "RepeatImageBatch", "inputs": {"image": [example, 0], "amount": times}}
    made["shown"] = {"class_type": "EVLM_ShowTrace", "inputs": {"plan": [reason, 0]}}
    assert made[reason]["inputs"]["batch"] == "pictures"
    return made
