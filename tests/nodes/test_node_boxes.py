"""Boxes between this pack, core's nodes and older packs: nodes/sockets.py (N5)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy_api.latest import io
from standin import NAME, call, object_info, part

BOX = {"x": 4.0, "y": 6.0, "width": 20.0, "height": 10.0}


@pytest.fixture()
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ComfyUI that has a type of its own for boxes, as 0.33.0; the nodes anew, as its start makes them."""
    nodes = part("nodes").__name__
    monkeypatch.setattr(io, "BoundingBox", io.Custom("BOUNDING_BOX"), raising=False)
    old = {each: sys.modules.pop(each) for each in _parts(nodes)}
    yield
    for each in _parts(nodes):
        del sys.modules[each]
    # The very modules that were there: other tests of this process hold their nodes.
    sys.modules.update(old)
    sys.modules[NAME].nodes = old[nodes]  # type: ignore[attr-defined]


def _parts(package: str) -> list[str]:
    return [each for each in sys.modules if each == package or each.startswith(f"{package}.")]


def test_sockets_fit_core_and_older_packs(newer: None) -> None:
    info = object_info()
    assert info["EVLM_Ground"]["output"][0] == "BOUNDING_BOX,BBOX"
    for node in ("EVLM_Segment", "EVLM_QuickEdit"):
        kind = info[node]["input"]["optional"]["boxes"][0]
        assert set(kind.split(",")) == {"BOUNDING_BOX", "BOUNDING_BOXES", "BBOX"}


def test_an_older_comfyui_keeps_the_old_type() -> None:
    info = object_info()
    assert info["EVLM_Ground"]["output"][0] == info["EVLM_Segment"]["input"]["optional"]["boxes"][0] == "BBOX"


def test_core_gets_a_list_for_each_frame(newer: None) -> None:
    """CropByBBoxes, DrawBBoxes and SAM3 take boxes[frame]; one flat list breaks the first of them."""
    made = part("evlm.boxes").Box
    given = part("nodes.sockets").from_boxes([made("car", 0.5, 4, 6, 24, 16, frame=1)], 3)
    assert [len(each) for each in given] == [0, 1, 0]
    assert given[1][0] == {**BOX, "label": "car", "score": 0.5, "frame": 1}
    back = part("nodes.sockets").to_boxes(given)
    assert [(b.label, b.score, b.x0, b.y0, b.x1, b.y1, b.frame) for b in back] == [
        ("car", 0.5, 4, 6, 24, 16, 1)
    ]


def test_the_plans_own_box_is_no_sure_detection() -> None:
    """It had the score 1.00, which no detector gave; behind Ground it is still known as the plan's."""
    plan = call(
        "EVLM_PlanFromText", text="instruction: paint it\ntargets: car\nmask: box 100 100 500 500 full"
    ).args[0]
    boxes, scores, _ = call("EVLM_Ground", image=torch.zeros(1, 64, 64, 3), plan=plan).args
    assert scores == [0.0] and [each["score"] for each in boxes] == [0.0]
    (back,) = part("nodes.sockets").to_boxes(boxes)
    assert back.by_plan and back.caption == "car (plan's own)"
    detected = part("nodes.sockets").from_boxes([part("evlm.boxes").Box("car", 0.5, 4, 6, 24, 16)], 1)
    assert not part("nodes.sockets").to_boxes(detected)[0].by_plan


def test_boxes_of_rt_detr_and_sam3_and_drawn_ones_are_read() -> None:
    to_boxes = part("nodes.sockets").to_boxes
    detected = [[{**BOX, "label": "dog", "score": 0.7}], [], [{**BOX, "score": 0.4}]]
    assert [(b.label, b.score, b.frame) for b in to_boxes(detected)] == [("dog", 0.7, 0), ("", 0.4, 2)]
    drawn = [{**BOX, "metadata": {"type": "text", "text": "EXIT", "desc": "a sign", "palette": []}}]
    assert [(b.label, b.x1, b.y1) for b in to_boxes(drawn)] == [("a sign", 24, 16)]
    assert to_boxes([[]]) == []


def test_boxes_of_core_lead_to_the_mask_that_older_ones_lead_to() -> None:
    segmenter = call("EVLM_LoadSegmenter").args[0]
    image = torch.zeros(1, 64, 64, 3)
    image[:, 16:40, 16:40, 0] = 1
    box = {"x": 14.0, "y": 14.0, "width": 28.0, "height": 28.0, "label": "dog", "score": 0.9}
    older = [14.0, 14.0, 42.0, 42.0]
    masks: list[Any] = [
        call("EVLM_Segment", image=image, segmenter=segmenter, boxes=boxes).args[0]
        for boxes in ([[box]], [box], [older])
    ]
    assert 0 < masks[0].mean() < 1
    assert all(torch.equal(mask, masks[0]) for mask in masks)
