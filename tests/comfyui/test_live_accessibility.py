"""What the pack draws can be read and reached: contrast in light and dark, the thumbs by keyboard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import frontend
import live
import nodes2
import pytest

LEAST = 4.5  # WCAG 2.2, 1.4.3
SAMPLE = {
    "thinking": "A red car.",
    "intermediate": "Paint it.",
    "reflection": "Which one?",
    "instruction": "paint the car blue",
    "targets": ["car"],
    "scope": "local",
    "mask": "none",
    "repairs": ["a tag"],
}
# Every text, and every drawn icon, with its colour and what lies behind it, painted by the browser itself. A
# classic node is no element: it is painted on the canvas, in the colour that LiteGraph names.
COLOURS = """
const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
const mixed = layers => {
  pixel.globalCompositeOperation = "copy"; pixel.fillStyle = "#000"; pixel.fillRect(0, 0, 1, 1)
  pixel.globalCompositeOperation = "source-over"
  for (const layer of layers) { pixel.fillStyle = layer; pixel.fillRect(0, 0, 1, 1) }
  return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3)
}
const up = each => each.parentElement ?? each.getRootNode().host
const behind = each => {
  const layers = []
  for (let at = each; at; at = up(at)) {
    layers.unshift(getComputedStyle(at).backgroundColor)
    if (at.classList.contains("evlm-element") && !at.closest("[data-node-id]"))
      return [LiteGraph.NODE_DEFAULT_BGCOLOR, ...layers]
  }
  return layers
}
const hasText = each => [...each.childNodes].some(part => part.nodeType === 3 && part.textContent.trim())
return all(document, argument).flatMap(root => [root, ...all(root, "*")])
  .filter(each => (hasText(each) || each.tagName === "path") && each.tagName !== "STYLE"
    && each.getBoundingClientRect().width > 0)
  .map(each => { const style = getComputedStyle(each)
    const front = each.tagName === "path" ? style.fill : style.color
    const what = each.tagName === "path" ? "icon" : (each.className || each.tagName) + ": " + each.textContent
    return { what, front: mixed([...behind(each), front]), back: mixed(behind(each)) } })
"""


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        yield opened


def luminance(colour: list[int]) -> float:
    """Relative luminance of sRGB bytes (WCAG 2.2)."""
    parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: list[int], other: list[int]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_wcags() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([119, 119, 119], [255, 255, 255]) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize(
    ("nodes_2", "palette"), list(itertools.product([False, True], ["dark", "light"])), ids=str
)
def test_all_text_stands_out(
    page: frontend.Page, figures: Callable[[str, str], None], nodes_2: bool, palette: str
) -> None:
    """Contrast of at least 4.5 in light and dark, pressed and not."""
    if nodes_2 and tuple(map(int, page.version.split(".")[:2])) < frontend.NODES_2:
        pytest.skip(f"frontend {page.version} has Nodes 2.0 in its beginnings only")
    page.load(live.PACK / "workflows" / "rate_and_collect.json")
    nodes2.evaluate(page, "await app.extensionManager.setting.set('Comfy.ColorPalette', argument)", palette)
    nodes2.evaluate(
        page, "await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', argument)", nodes_2
    )
    page.page.wait_for_timeout(1500)
    nodes2.evaluate(
        page,
        """const api = app.api ?? window.comfyAPI.api.api
        for (const [kind, output] of Object.entries({ EVLM_QuickEdit: { evlm_trace: [argument, argument] },
          EVLM_RateEdit: { evlm_rating: [{ rows: 2, good: 1, bad: 1, folder: "f", written: true }] } }))
          for (const node of nodes(kind)) {
            api.dispatchEvent(new CustomEvent("executed", { detail: { node: String(node.id), output } }))
            if (kind === "EVLM_RateEdit") node.widgets.find(each => each.name === "verdict").value = "good"
          }
        await app.extensionManager.command.execute("Comfy.Canvas.FitView")""",
        SAMPLE,
    )
    page.page.wait_for_timeout(1000)
    found: list[dict[str, Any]] = nodes2.evaluate(page, COLOURS, ".evlm-trace, .evlm-rating, .evlm-says")
    if nodes_2:  # a note's ground is the workflow's; its letters are core's, and so are the chips of code
        notes = nodes2.evaluate(page, COLOURS, ".comfy-markdown-content")
        found += [each for each in notes if not each["what"].startswith("CODE")]
        assert any("Rate edits, collect data" in each["what"] for each in notes)
    said = " ".join(each["what"] for each in found)
    assert "paint the car blue" in said and "2 rows" in said and said.count("icon") == 2
    ratios = {each["what"]: contrast(each["front"], each["back"]) for each in found}
    figures(f"contrast, {palette}, nodes {2 if nodes_2 else 1}", f"at least {min(ratios.values()):.2f}")
    page.picture(live.PACK / "out" / f"contrast-{page.version}-{palette}-{2 if nodes_2 else 1}.png")
    assert not {what: round(ratio, 2) for what, ratio in ratios.items() if ratio < LEAST}


@pytest.mark.parametrize(
    ("nodes_2", "palette"), list(itertools.product([False, True], ["dark", "light"])), ids=str
)
def test_clicks_stand_out(
    page: frontend.Page, figures: Callable[[str, str], None], nodes_2: bool, palette: str
) -> None:
    """The line in the node and the dialog over the page, with a mark of each kind; what can be pressed, for
    a button that cannot be is dim on purpose (WCAG 2.2 asks nothing of it)."""
    if nodes_2 and tuple(map(int, page.version.split(".")[:2])) < frontend.NODES_2:
        pytest.skip(f"frontend {page.version} has Nodes 2.0 in its beginnings only")
    page.load(live.PACK / "workflows" / "edit_video.json")
    nodes2.evaluate(page, "await app.extensionManager.setting.set('Comfy.ColorPalette', argument)", palette)
    nodes2.evaluate(
        page, "await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', argument)", nodes_2
    )
    points = '[{"x": 1, "y": 1}, {"x": 9, "y": 9, "on": false}]'
    nodes2.evaluate(
        page,
        """const node = nodes("EVLM_Track")[0]
        node.widgets.find(each => each.name === "points").value = argument
        app.canvas.ds.scale = 1; app.canvas.centerOnNode(node)""",
        points,
    )
    page.page.wait_for_timeout(1500)
    page.page.locator('[data-evlm="evlm_clicks"] .evlm-button').first.click()
    page.page.locator(".evlm-stage img").wait_for(state="visible", timeout=60_000)
    page.page.wait_for_timeout(500)
    found: list[dict[str, Any]] = nodes2.evaluate(page, COLOURS, ".evlm-clicks-line, .evlm-clicks")
    said = " ".join(each["what"] for each in found)
    assert said.count("evlm-mark") == 2 and "evlm-rows: " in said and "evlm-hint: " in said, said
    ratios = {each["what"]: contrast(each["front"], each["back"]) for each in found}
    figures(
        f"contrast of clicks, {palette}, nodes {2 if nodes_2 else 1}", f"at least {min(ratios.values()):.2f}"
    )
    page.page.screenshot(
        path=str(live.PACK / "out" / f"clicks-{page.version}-{palette}-{2 if nodes_2 else 1}.png")
    )
    page.page.locator(".evlm-clicks-bar .evlm-button").last.click()
    assert not {what: round(ratio, 2) for what, ratio in ratios.items() if ratio < LEAST}


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes2"])
def test_the_keyboard_reaches_the_thumbs(page: frontend.Page, nodes_2: bool) -> None:
    """Tab goes from one thumb to the other, Space presses it, and the verdict is the pressed one."""
    if nodes_2 and tuple(map(int, page.version.split(".")[:2])) < frontend.NODES_2:
        pytest.skip(f"frontend {page.version} has Nodes 2.0 in its beginnings only")
    page.load(live.PACK / "workflows" / "rate_and_collect.json")
    nodes2.evaluate(
        page, "await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', argument)", nodes_2
    )
    page.page.wait_for_timeout(1500)
    nodes2.evaluate(
        page,
        """app.canvas.deselectAll?.()
        app.canvas.selectNode(nodes("EVLM_RateEdit")[0])
        await app.extensionManager.command.execute("Comfy.Canvas.FitView")
        app.canvas.deselectAll?.()
        document.activeElement?.blur?.()""",
    )
    page.page.wait_for_timeout(800)
    reached = []
    for _ in range(150):
        page.page.keyboard.press("Tab")
        label = page.page.evaluate(
            """() => { let at = document.activeElement
              while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
              return at?.closest(".evlm-thumbs") ? at.getAttribute("aria-label") : "" }"""
        )
        if label and label not in reached:
            reached.append(label)
            page.page.keyboard.press("Space")
            page.page.wait_for_timeout(250)
            verdict = nodes2.evaluate(
                page,
                """return nodes("EVLM_RateEdit")[0].widgets.find(each => each.name === "verdict").value""",
            )
            assert verdict == ["good", "bad"][len(reached) - 1], (label, verdict)
        if len(reached) == 2:
            return
    raise AssertionError(f"150 times Tab reached {reached}")
