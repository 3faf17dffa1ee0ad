"""What a page shows of the pack's nodes in Nodes 2.0, and what it would queue."""

from __future__ import annotations

from typing import Any

from frontend import APP, IS_READY, READY, Page

# Elements of ours lie in shadows; frames of nodes do not.
FIND = """const app = APP
const all = (root, selector) => [...root.querySelectorAll("*")].flatMap(each => [
  ...(each.matches(selector) ? [each] : []), ...(each.shadowRoot ? all(each.shadowRoot, selector) : [])])
const nodes = kind => app.canvas.graph.nodes.filter(node => node.comfyClass === kind)
const frame = node => document.querySelector(`[data-node-id="${node.id}"]`)
""".replace("APP", APP)
THUMBS = {"not rated": ["false", "false"], "good": ["true", "false"], "bad": ["false", "true"]}


def evaluate(page: Page, code: str, argument: Any = None) -> Any:
    """Run JavaScript that knows app, all(root, selector), nodes(kind), frame(node) and argument."""
    return page.page.evaluate(f"async argument => {{ {FIND} {code} }}", argument)


def wait_for_change(page: Page) -> None:
    """Until Vue and the browser have drawn."""
    page.page.wait_for_timeout(150)
    page.page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
    )


def seen(page: Page) -> dict[str, str]:
    """Rate Edit nodes on screen: number -> the verdict that the thumbs show."""
    pressed: list[tuple[str, list[str]]] = evaluate(
        page,
        """return nodes("EVLM_RateEdit").map(node => [String(node.id),
          all(frame(node) ?? document.createElement("i"), ".evlm-thumbs button")
            .map(each => each.getAttribute("aria-pressed"))])""",
    )
    names = {tuple(sign): name for name, sign in THUMBS.items()}
    return {node: names.get(tuple(sign), f"thumbs {sign}") for node, sign in pressed}


def queued(page: Page) -> dict[str, str]:
    """The same nodes -> the verdict that a click on Run would queue."""
    prompt = page.prompt()
    found = {}
    for node in evaluate(page, 'return nodes("EVLM_RateEdit").map(node => String(node.id))'):
        names = [name for name in prompt if name.split(":")[-1] == node]
        assert len(names) == 1, (node, list(prompt))
        found[node] = str(prompt[names[0]]["inputs"]["verdict"])
    return found


def press(page: Page, node: str, thumb: str) -> None:
    """A real click on a thumb of the node with this number."""
    evaluate(
        page,
        """app.canvas.deselectAll?.()
        app.canvas.selectNode(app.canvas.graph.getNodeById(argument))
        await app.extensionManager.command.execute("Comfy.Canvas.FitView")
        app.canvas.deselectAll?.()""",
        node,
    )
    page.page.wait_for_timeout(500)
    at = ["good", "bad"].index(thumb)
    page.page.locator(f'[data-node-id="{node}"] .evlm-thumbs button').nth(at).click(timeout=60_000)
    wait_for_change(page)


def command(page: Page, name: str) -> None:
    page.page.evaluate(f"async name => {{ await {APP}.extensionManager.command.execute(name) }}", name)
    page.page.wait_for_timeout(400)
    wait_for_change(page)


def texts(page: Page, kind: str, selector: str) -> list[str]:
    """What the frames of this kind of node show in elements of ours."""
    found: list[str] = evaluate(
        page,
        """return nodes(argument[0]).map(frame).filter(Boolean).flatMap(each => all(each, argument[1]))
          .map(each => each.innerText.trim()).filter(Boolean)""",
        [kind, selector],
    )
    return found


def pictures(page: Page, kind: str) -> int:
    """How many pictures that have loaded the first node of a kind shows."""
    count: int = evaluate(
        page,
        """return [...frame(nodes(argument)[0]).querySelectorAll("img")]
          .filter(img => img.naturalWidth > 1).length""",
        kind,
    )
    return count


def reload(page: Page, nodes: int) -> None:
    """Load the page anew; its workflow comes back by itself."""
    page.page.reload(wait_until="domcontentloaded", timeout=READY)
    page.page.wait_for_function(IS_READY, timeout=READY)
    page.page.wait_for_function(f"count => {APP}.graph.nodes.length === count", arg=nodes, timeout=READY)
    wait_for_change(page)
