"""Nodes 2.0: what is seen is what is queued, whatever was undone, copied or loaded anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import frontend
import live
import nodes2
import pytest

RATE = "EVLM_RateEdit"


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        if tuple(map(int, opened.version.split(".")[:2])) < frontend.NODES_2:
            pytest.skip(f"frontend {opened.version} has Nodes 2.0 in its beginnings only")
        yield opened


def opened(page: frontend.Page, name: str) -> None:
    page.load(live.PACK / "workflows" / f"{name}.json")
    assert page.use_nodes_2()


@pytest.mark.timeout(1800)
def test_the_rating_that_is_seen_is_the_rating_that_is_queued(
    page: frontend.Page, figures: Callable[[str, str], None]
) -> None:
    """Twenty things that people do, one after the other; after each, thumbs and prompt agree (N2, N9)."""
    opened(page, "rate_and_collect")
    rated = next(iter(nodes2.seen(page)))

    def by_code(value: str) -> None:
        nodes2.evaluate(
            page,
            """const node = app.canvas.graph.nodes.find(each => each.comfyClass === "EVLM_RateEdit")
            node.widgets.find(each => each.name === "verdict").value = argument""",
            value,
        )

    def copy_and_paste() -> None:
        nodes2.evaluate(
            page,
            """const node = app.canvas.graph.getNodeById(argument); app.canvas.deselectAll?.()
            app.canvas.selectNode(node); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard()
            app.extensionManager.workflow.activeWorkflow.changeTracker.checkState?.()
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()""",
            rated,
        )

    def copied() -> str:
        return max(nodes2.seen(page), key=int)

    def delete_copy() -> None:
        nodes2.evaluate(
            page,
            """app.canvas.deselectAll?.(); app.canvas.selectNode(app.canvas.graph.getNodeById(argument))
            await app.extensionManager.command.execute("Comfy.Canvas.DeleteSelectedItems")""",
            copied(),
        )

    def into_subgraph() -> None:
        nodes2.evaluate(
            page,
            """app.canvas.deselectAll?.(); app.canvas.selectNode(app.canvas.graph.getNodeById(argument))
            await app.extensionManager.command.execute("Comfy.Graph.ConvertToSubgraph")
            const made = app.graph.nodes.find(node => node.subgraph)
            app.canvas.openSubgraph(made.subgraph, made)""",
            rated,
        )
        page.page.wait_for_timeout(800)

    def out_and_in_again() -> None:
        nodes2.evaluate(page, "app.canvas.setGraph(app.rootGraph ?? app.graph)")
        page.page.wait_for_timeout(500)
        nodes2.evaluate(
            page,
            """const made = app.graph.nodes.find(node => node.subgraph)
            app.canvas.openSubgraph(made.subgraph, made)""",
        )
        page.page.wait_for_timeout(800)

    def undone_to_the_whole_graph() -> None:
        nodes2.evaluate(page, "app.canvas.setGraph(app.rootGraph ?? app.graph)")
        for _ in range(8):
            if nodes2.seen(page):
                break
            undo()

    def inside() -> str:
        return next(iter(nodes2.seen(page)))

    undo, redo = (lambda: nodes2.command(page, "Comfy.Undo")), (lambda: nodes2.command(page, "Comfy.Redo"))
    steps: list[tuple[str, Callable[[], object]]] = [
        ("good", lambda: nodes2.press(page, rated, "good")),
        ("undo", undo),
        ("redo", redo),
        ("bad", lambda: nodes2.press(page, rated, "bad")),
        ("undo", undo),
        ("good after an undo", lambda: nodes2.press(page, rated, "good")),
        ("undo", undo),
        ("redo", redo),
        ("set by code", lambda: by_code("bad")),
        ("pressed again: not rated", lambda: nodes2.press(page, rated, "bad")),
        ("copy and paste", copy_and_paste),
        ("good on the copy", lambda: nodes2.press(page, copied(), "good")),
        ("undo", undo),
        ("redo", redo),
        ("the copy is deleted", delete_copy),
        ("undo", undo),
        ("into a subgraph", into_subgraph),
        ("good inside", lambda: nodes2.press(page, inside(), "good")),
        ("out of it and in again", out_and_in_again),
        ("undone until it is in no subgraph", undone_to_the_whole_graph),
    ]
    agreed, wrong = 0, []
    for number, (what, do) in enumerate(steps, 1):
        do()
        nodes2.wait_for_change(page)
        seen, queued = nodes2.seen(page), nodes2.queued(page)
        if seen and seen == queued:
            agreed += 1
        else:
            wrong.append(f"{number} {what}: seen {seen}, queued {queued}")
    figures(f"nodes 2.0, frontend {page.version}", f"seen is queued {agreed} of {len(steps)}")
    assert not wrong, "\n".join(wrong)
    assert not page.ours()


@pytest.mark.timeout(600)
def test_traces_belong_to_living_nodes(page: frontend.Page) -> None:
    """After an undo the trace stays on screen, and the next run's is drawn in what is on screen (N2)."""
    opened(page, "step_by_step")
    assert page.click_run(240) == "success"
    before = nodes2.texts(page, "EVLM_Reason", ".evlm-instruction")
    assert before
    nodes2.evaluate(
        page,
        """const node = app.graph.nodes.find(each => each.comfyClass === "EVLM_Example")
        const at = node.widgets.find(each => each.name === "which")
        at.value = at.options.values.find(each => each !== at.value)
        app.extensionManager.workflow.activeWorkflow.changeTracker.checkState?.()
        app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()""",
    )
    nodes2.command(page, "Comfy.Undo")
    page.page.wait_for_timeout(500)
    assert nodes2.texts(page, "EVLM_Reason", ".evlm-instruction") == before
    nodes2.command(page, "Comfy.Redo")
    assert page.click_run(240) == "success"
    after = nodes2.texts(page, "EVLM_Reason", ".evlm-instruction")
    assert after and after != before


@pytest.mark.timeout(600)
def test_a_result_stands_once(page: frontend.Page) -> None:
    """The last live picture gives way to the output (N7)."""
    opened(page, "step_by_step")
    seed(page, 5)
    assert page.click_run(240) == "success"
    page.page.wait_for_timeout(1500)
    assert nodes2.pictures(page, "EVLM_Edit") == 1
    page.picture(live.PACK / "out" / f"result-frontend-{page.version}-nodes2.png")


@pytest.mark.timeout(1800)
def test_what_a_training_came_to_is_seen_once(page: frontend.Page) -> None:
    """Its curve once and its last text, after the frontend has taken the run's texts away (N7)."""
    opened(page, "train_from_ratings")
    assert page.click_run(1500) == "success"
    page.page.wait_for_timeout(2000)
    said = nodes2.evaluate(
        page,
        """return all(frame(nodes("EVLM_Train")[0]), "*")
          .filter(each => !each.children.length && /^loss .* after/.test(each.textContent)).length""",
    )
    assert said == 1
    assert nodes2.pictures(page, "EVLM_Train") == 1
    page.picture(live.PACK / "out" / f"train-frontend-{page.version}-nodes2.png")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("nodes_2", [True, False], ids=["nodes2", "classic"])
def test_a_page_loaded_anew_shows_the_trace_so_far_and_the_end(
    page: frontend.Page, comfy: live.Comfy, nodes_2: bool
) -> None:
    """The page is loaded anew while Edit runs: what Reason, Ground and Segment said is there again,
    and at the end the result (N6)."""
    for steps in (300, 1000):
        load_anew_while_it_paints(page, steps, nodes_2)
        page.says(".evlm-instruction")
        shown = page.page.locator(".evlm-instruction").all_inner_texts()
        outputs = sorted(kinds_with_pictures(page))
        if comfy.get("/queue")["queue_running"]:
            break
    else:
        raise AssertionError("each run was over before the page was there")
    assert len([text for text in shown if text.strip()]) == 1, shown
    assert {"EVLM_Ground", "EVLM_Segment"} <= set(outputs), outputs
    page.page.wait_for_function("() => window.evlmEnd", timeout=900_000)
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate("() => window.evlmEnd") == "success"
    assert page.page.locator(".evlm-instruction").all_inner_texts() == shown
    assert "EVLM_Edit" in kinds_with_pictures(page)
    assert not page.ours()


def load_anew_while_it_paints(page: frontend.Page, steps: int, nodes_2: bool) -> None:
    """Run step_by_step, and load the page anew as soon as Edit paints; a slow page takes more steps."""
    opened(page, "step_by_step")
    if not nodes_2:
        nodes2.evaluate(page, "await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    seed(page, steps + nodes_2)
    nodes2.evaluate(
        page,
        """app.graph.nodes.find(each => each.comfyClass === "EVLM_Edit").widgets
          .find(each => each.name === "steps").value = argument
        app.extensionManager.workflow.activeWorkflow.changeTracker.checkState?.()
        app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()""",
        steps,
    )
    count = nodes2.evaluate(page, "return app.graph.nodes.length")
    nodes2.evaluate(
        page,
        """window.evlmBar = 0
        const api = app.api ?? window.comfyAPI.api.api
        api.addEventListener("progress", ({ detail }) => {
          if (detail.max === argument) window.evlmBar = detail.value
        })""",
        steps,
    )
    page.page.get_by_role("button", name="Run", exact=True).first.click()
    page.page.wait_for_function("() => window.evlmBar > 2", timeout=240_000)
    nodes2.reload(page, count)
    nodes2.evaluate(
        page,
        """window.evlmEnd = null
        const api = app.api ?? window.comfyAPI.api.api
        for (const kind of ["success", "error", "interrupted"])
          api.addEventListener(`execution_${kind}`, () => { window.evlmEnd ??= kind })""",
    )
    page.page.wait_for_timeout(1500)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("nodes_2", [True, False], ids=["nodes2", "classic"])
def test_a_remembered_plan_shows_its_trace_while_it_is_painted(page: frontend.Page, nodes_2: bool) -> None:
    """Quick Edit is not asked again for another seed; the trace stands there before the picture does."""
    opened(page, "quickstart")
    if not nodes_2:
        nodes2.evaluate(page, "await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    seed(page, 41 if nodes_2 else 42)
    assert page.click_run(240) == "success"
    shown = [text for text in page.texts(".evlm-instruction") if text.strip()]
    assert len(shown) == 1
    seed(page, 51 if nodes_2 else 52)
    nodes2.evaluate(
        page,
        """app.graph.nodes.find(each => each.comfyClass === "EVLM_QuickEdit").widgets
          .find(each => each.name === "steps").value = 200
        window.evlmSeen = []
        const api = app.api ?? window.comfyAPI.api.api
        api.addEventListener("progress", ({ detail }) => detail.value < detail.max && window.evlmSeen.push(
          all(document, ".evlm-instruction").map(each => each.innerText.trim()).filter(Boolean)))""",
    )
    assert page.click_run(400) == "success"
    seen = page.page.evaluate("() => window.evlmSeen")
    assert len(seen) > 3 and all(each == shown for each in seen[1:]), seen[:9]


@pytest.mark.timeout(600)
def test_a_cached_run_shows_its_traces_and_pictures_again(page: frontend.Page) -> None:
    """All of it is cached, and the page was loaded anew (N6)."""
    opened(page, "step_by_step")
    seed(page, 31)
    assert page.click_run(240) == "success"
    nodes2.evaluate(page, "app.nodeOutputs = {}")
    opened(page, "step_by_step")
    seed(page, 31)
    assert not [text for text in page.texts(".evlm-instruction") if text.strip()]
    assert page.click_run(240) == "success"
    assert page.says(".evlm-instruction")
    assert len([text for text in page.texts(".evlm-instruction") if text.strip()]) == 1
    assert {"EVLM_Ground", "EVLM_Segment", "EVLM_Edit"} <= set(kinds_with_pictures(page))


def kinds_with_pictures(page: frontend.Page) -> list[str]:
    """Types of nodes whose output of the last run the page holds."""
    found: list[str] = nodes2.evaluate(
        page,
        """return app.graph.nodes.filter(node => app.nodeOutputs?.[String(node.id)]?.images?.length)
          .map(node => node.comfyClass)""",
    )
    return found


def seed(page: frontend.Page, value: int) -> None:
    """Another seed everywhere, so that nothing is cached."""
    nodes2.evaluate(
        page,
        """for (const node of app.graph.nodes) for (const widget of node.widgets ?? [])
          if (widget.name === "seed") widget.value = argument""",
        value,
    )
