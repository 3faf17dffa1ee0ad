"""The subgraph blueprint "Edit by a vague request": offered by the server, and it edits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import frontend
import live
import nodes2
import pytest

BLUEPRINT = live.PACK / "subgraphs" / "edit_by_a_vague_request.json"


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        yield opened


def test_it_is_offered_and_edits(comfy: live.Comfy, page: frontend.Page) -> None:
    """Picture, words and reference go in, the edited picture comes out."""
    import urllib.error

    try:
        offered = comfy.get("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this ComfyUI has no subgraphs of packs")
    assert any(each["name"] == BLUEPRINT.stem for each in offered.values()), offered
    page.load(BLUEPRINT)
    made = json.loads(BLUEPRINT.read_text(encoding="utf-8"))["nodes"][0]
    assert [each["name"] for each in made["inputs"]] == ["reference", "image", "prompt", "seed"]
    assert [each["name"] for each in made["outputs"]] == ["image"]
    nodes2.evaluate(
        page,
        """const edit = app.graph.nodes[0]
        const [example, shown] = ["EVLM_Example", "PreviewImage"].map(kind => LiteGraph.createNode(kind))
        app.graph.add(example)
        app.graph.add(shown)
        const slot = name => edit.inputs.findIndex(each => each.name === name)
        example.connect(0, edit, slot("image"))
        example.connect(3, edit, slot("reference"))
        edit.widgets.find(each => each.name === "prompt").value = "like this"
        edit.connect(0, shown, 0)""",
    )
    kinds = {node["class_type"] for node in page.prompt().values()}
    assert {"EVLM_LoadAll", "EVLM_Reference", "EVLM_QuickEdit"} <= kinds
    quick = next(node for node in page.prompt().values() if node["class_type"] == "EVLM_QuickEdit")
    assert quick["inputs"]["prompt"] == "like this"
    assert page.click_run(240) == "success"
    assert page.pictures()["PreviewImage"] == 1
    assert not page.ours()
