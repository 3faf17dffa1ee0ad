"""Boxes between core's nodes and ours, where core has a type for them (N5)."""

from __future__ import annotations

import graphs
import live
import pytest

CROPPED = {"output_width": 64, "output_height": 64, "padding": 0, "keep_aspect": "stretch"}


@pytest.fixture()
def newer(comfy: live.Comfy) -> live.Comfy:
    if "CropByBBoxes" not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI has no CropByBBoxes")
    return comfy


def planned(*more: str) -> live.Graph:
    graph = graphs.load("step_by_step")
    kinds = {"EVLM_Example", "EVLM_LoadModel", "EVLM_Reason", "EVLM_LoadDetector", "EVLM_Ground", *more}
    return {name: node for name, node in graph.items() if node["class_type"] in kinds}


def test_our_boxes_feed_cores_nodes(newer: live.Comfy) -> None:
    """CropByBBoxes and DrawBBoxes take them as they are, and the crop is the box's."""
    graph = planned()
    ground, reason = (graphs.node_of(graph, kind) for kind in ("EVLM_Ground", "EVLM_Reason"))
    image, boxes = [reason, 5], [ground, 0]
    graph["crop"] = {"class_type": "CropByBBoxes", "inputs": {"image": image, "bboxes": boxes, **CROPPED}}
    graph["draw"] = {"class_type": "DrawBBoxes", "inputs": {"image": image, "bboxes": boxes}}
    for name in ("crop", "draw"):
        graph[f"see {name}"] = {"class_type": "PreviewImage", "inputs": {"images": [name, 0]}}
    run = newer.run(graph)
    assert run.status == "success" and not run.error, run.error
    assert len(run.outputs["see crop"]["images"]) == len(run.outputs["see draw"]["images"]) == 1


def test_cores_drawn_boxes_feed_ours(newer: live.Comfy) -> None:
    """Boxes of core's Create Bounding Boxes lead Segment and Edit."""
    graph = graphs.load("step_by_step")
    segment = graphs.node_of(graph, "EVLM_Segment")
    drawn = {"x": 12, "y": 12, "width": 26, "height": 26, "metadata": {"type": "obj", "desc": "it"}}
    # As the page sends a list that is no link.
    state = {"width": 64, "height": 64, "editor_state": {"__value__": [drawn]}}
    graph["boxes"] = {"class_type": "CreateBoundingBoxes", "inputs": state}
    graph[segment]["inputs"]["boxes"] = ["boxes", 1]
    run = newer.run(graph)
    assert run.status == "success" and not run.error, run.error
    assert run.outputs[segment]["images"]


def test_an_old_wire_of_the_type_bbox_still_holds(comfy: live.Comfy) -> None:
    """Ground -> Segment of a workflow that was saved with BBOX wires is queued as before."""
    run = comfy.run(graphs.seeded(planned("EVLM_LoadSegmenter", "EVLM_Segment") | shown(), 3))
    assert run.status == "success" and not run.error, run.error


def shown() -> live.Graph:
    graph = graphs.load("step_by_step")
    segment = graphs.node_of(graph, "EVLM_Segment")
    return {"see": {"class_type": "PreviewImage", "inputs": {"images": [segment, 2]}}}
