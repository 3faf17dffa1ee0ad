"""The workflows in the real frontend: loaded without a missing node, queued by a click, and looked at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import frontend
import graphs
import live
import pytest

WORKFLOWS = sorted((live.PACK / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        yield opened


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_loads_whole(page: frontend.Page, workflow: Path) -> None:
    """No missing node, no error of ours, and what would be queued is its API twin."""
    page.load(workflow)
    assert not page.missing()
    assert _same(page.prompt(), graphs.load(workflow.stem))
    assert not page.ours()


def test_the_quickstart_runs_from_a_click(page: frontend.Page, figures: Callable[[str, str], None]) -> None:
    page.load(live.PACK / "workflows" / "quickstart.json")
    assert page.click_run(120) == "success"
    shown = page.pictures()
    assert shown["EVLM_QuickEdit"] and shown["EVLM_Example"] and shown["PreviewImage"]
    assert page.says(".evlm-instruction"), "no trace is drawn"
    picture = live.PACK / "out" / f"quickstart-frontend-{page.version}.png"
    page.picture(picture)
    assert not page.ours()
    others = len(page.errors)
    figures(
        f"frontend {page.version}", f"{picture.relative_to(live.PACK)}; errors of ours 0, of others {others}"
    )


def test_the_trace_is_drawn_in_nodes_2_as_well(page: frontend.Page) -> None:
    page.load(live.PACK / "workflows" / "quickstart.json")
    if tuple(map(int, page.version.split(".")[:2])) < frontend.NODES_2:
        pytest.skip(f"frontend {page.version} has Nodes 2.0 in its beginnings only")
    assert page.use_nodes_2()
    page.page.evaluate(
        f"""() => {frontend.APP}.graph.nodes.find(node => node.comfyClass === "EVLM_QuickEdit").widgets
          .find(widget => widget.name === "seed").value = 7"""
    )  # not cached: what a cached run shows is test_live_nodes2's
    assert page.click_run(120) == "success"
    assert page.says("[data-node-id] .evlm-instruction"), "no trace is drawn"
    page.picture(live.PACK / "out" / f"quickstart-frontend-{page.version}-nodes2.png")
    assert not page.ours()


def test_a_verdict_that_was_written_is_taken_back_and_a_restored_output_takes_none(
    page: frontend.Page,
) -> None:
    """(A1) The next run, of another seed, would have written an edit that nobody had seen."""
    page.load(live.PACK / "workflows" / "rate_and_collect.json")
    find = f"""{frontend.APP}.graph.nodes.find(node => node.comfyClass === "EVLM_RateEdit").widgets
      .find(widget => widget.name === name)"""

    def widget(name: str) -> str:
        return str(page.page.evaluate(f"name => {find}.value", name))

    def put(name: str, value: str) -> None:
        page.page.evaluate(f"([name, value]) => {{ {find}.value = value }}", [name, value])

    put("note", f"live {time.time()}")
    put("verdict", "good")
    assert page.click_run(240) == "success"
    page.page.wait_for_timeout(500)
    assert widget("verdict") == "not rated"
    put("verdict", "bad")
    page.page.evaluate(
        f"() => {{ const app = {frontend.APP}; app.graph.nodes.forEach(node => node.onExecuted?.("
        "app.nodeOutputs[String(node.id)] ?? {})) }"
    )
    page.page.wait_for_timeout(500)
    assert widget("verdict") == "bad", "an output that is shown again takes nothing back"
    assert not page.ours()


def test_the_quickstart_is_an_app_as_well(page: frontend.Page) -> None:
    """App mode: a request and words in, the picture and the reasons out (N16)."""
    if tuple(map(int, page.version.split(".")[:2])) < frontend.APP_MODE:
        pytest.skip(f"frontend {page.version} has no app mode, or its beginnings only")
    page.load(live.PACK / "workflows" / "quickstart.json")
    page.page.evaluate(
        f"""async () => {{ const commands = {frontend.APP}.extensionManager.command
          await commands.execute("Comfy.ToggleLinear") }}"""
    )
    page.page.wait_for_timeout(2000)
    skip = page.page.get_by_role("button", name="Skip", exact=True)
    if skip.count():
        skip.first.click()
    page.page.wait_for_timeout(500)
    shown = page.page.locator("body").inner_text()
    assert all(name in shown for name in ("which", "prompt", "seed", "Reasons")), shown
    assert page.click_run(240) == "success"
    page.page.wait_for_timeout(1500)
    assert page.says(".evlm-instruction"), "no reasons are shown"
    views = (
        "() => [...document.images].filter(img => /api.view/.test(img.src) && img.naturalWidth > 1).length"
    )
    page.page.wait_for_function(f"() => ({views})() >= 1", timeout=20_000)  # the picture
    page.page.screenshot(path=str(live.PACK / "out" / f"app-frontend-{page.version}.png"))
    page.page.evaluate(f"() => {frontend.APP}.extensionManager.command.execute('Comfy.ToggleLinear')")
    assert not page.ours()


def _same(queued: live.Graph, twin: live.Graph) -> bool:
    """Whether the page would queue what the twin says. Some of core's nodes add inputs of the page's own."""
    queued, twin = (json.loads(json.dumps(each)) for each in (queued, twin))
    return {name: node["class_type"] for name, node in queued.items()} == {
        name: node["class_type"] for name, node in twin.items()
    } and all(
        queued[name]["inputs"] == node["inputs"]
        if node["class_type"].startswith("EVLM_")
        else node["inputs"].items() <= queued[name]["inputs"].items()
        for name, node in twin.items()
    )
