"""Clicks on a frame of the clip, for EVLM Track: what is clicked is what is queued, in both kinds of node."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import frontend
import live
import pytest

BUTTON = '[data-evlm="evlm_clicks"] .evlm-button'
POINTS = f"""() => {{
    const node = {frontend.APP}.graph.nodes.find((each) => each.comfyClass === "EVLM_Track");
    {frontend.APP}.canvas.ds.scale = 1;
    {frontend.APP}.canvas.centerOnNode(node);
    return node.widgets.find((each) => each.name === "points").value;
}}"""


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        yield opened


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2.0"])
def test_clicks_on_frames_are_what_is_queued(page: frontend.Page, nodes_2: bool) -> None:
    page.load(live.PACK / "workflows" / "edit_video.json")
    if nodes_2:
        if tuple(map(int, page.version.split(".")[:2])) < frontend.NODES_2:
            pytest.skip(f"frontend {page.version} has Nodes 2.0 in its beginnings only")
        assert page.use_nodes_2()
    assert page.page.evaluate(POINTS) == ""
    page.page.wait_for_timeout(1000)
    page.page.locator(BUTTON).first.click()
    image = page.page.locator(".evlm-stage img")
    image.wait_for(state="visible", timeout=60_000)
    page.page.wait_for_timeout(500)

    def click(left: float, top: float, **how: Any) -> None:
        box = image.bounding_box()
        assert box is not None
        page.page.mouse.click(box["x"] + left * box["width"], box["y"] + top * box["height"], **how)

    def shows(frame: int) -> None:
        page.page.locator(".evlm-clicks-bar input").fill(str(frame))
        page.page.locator(".evlm-clicks-bar span", has_text=re.compile(rf"\b{frame}\b")).wait_for(
            timeout=30_000
        )

    click(0.5, 0.25)
    click(0.75, 0.5, button="right")
    shows(5)
    assert page.page.locator(".evlm-mark").count() == 0
    click(0.25, 0.75)
    points = json.loads(page.page.evaluate(POINTS))
    assert [(each["frame"], each["on"]) for each in points] == [(0, True), (0, False), (5, True)]
    assert points[0]["x"] == pytest.approx(2 * points[2]["x"], abs=2)
    assert points[2]["y"] == pytest.approx(3 * points[0]["y"], abs=3)
    shows(0)
    page.page.locator(".evlm-mark.evlm-off").click()
    page.page.locator(".evlm-clicks-bar .evlm-button").last.click()
    assert page.page.locator(".evlm-clicks").count() == 0
    queued = [
        each["inputs"]["points"] for each in page.prompt().values() if each["class_type"] == "EVLM_Track"
    ]
    assert [json.loads(each) for each in queued] == [[points[0], points[2]]]
