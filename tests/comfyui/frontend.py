"""ComfyUI's page in a headless Chromium, and what the tests ask it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from live import LINK, Comfy

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
READY = 120_000  # milliseconds
APP_MODE = (1, 49)  # 1.37 has the beginnings of it, without the inputs that a workflow names
NODES_2 = (1, 36)  # 1.27 draws them already, but without the widgets that an extension adds
# Keeps tours, news and warnings about files that this machine lacks out of the way.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Canvas.LeftMouseClickBehavior": "panning",
    "Comfy.Canvas.MouseWheelScroll": "zoom",
}
# The fork's own script waits for an editor from a CDN as it loads; unanswered, the page hangs for ever.
ANYTHING = """(() => { const any = new Proxy(function () {}, {
  get: (_, key) => key === Symbol.toPrimitive ? () => "" : key === "then" ? undefined : any,
  apply: () => any, construct: () => any, set: () => true }); window.ace = any })()"""
IS_READY = """() => { const app = window.app ?? window.comfyAPI?.app?.app
  return !!(app?.graph && app.canvas && app.extensionManager && (app.vueAppReady ?? true)
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 50) }"""
PICTURES_ARE_THERE = """() => { const app = window.app ?? window.comfyAPI.app.app
  const shown = node => [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)]
  return app.graph.nodes.filter(node => app.nodeOutputs?.[String(node.id)]?.images?.length)
    .every(node => node.imgs?.length || shown(node).some(img => img.naturalWidth > 1)) }"""
APP = "(window.app ?? window.comfyAPI.app.app)"


class Page:
    """The page of one server. errors: (text, where) of everything that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[tuple[str, str]] = []
        page.on("console", self._console)
        page.on(
            "pageerror", lambda error: self.errors.append((str(error), getattr(error, "stack", "") or ""))
        )

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append((message.text, (message.location or {}).get("url", "")))

    def ours(self) -> list[tuple[str, str]]:
        """The errors that speak of this pack."""
        words = (LINK, "evlm")
        return [each for each in self.errors if any(word in part.lower() for part in each for word in words)]

    @property
    def version(self) -> str:
        return str(self.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__"))

    def load(self, workflow: Path) -> None:
        """Open a workflow; again where, on a slow machine, the page's own first graph came after it."""
        from playwright.sync_api import TimeoutError

        graph = json.loads(workflow.read_text(encoding="utf-8"))
        loaded = f"count => {APP}.graph.nodes.length === count"
        for last in (False, False, True):
            self.page.evaluate(
                f"async ([graph, name]) => {{ await {APP}.loadGraphData(graph, true, true, name) }}",
                [graph, workflow.stem],
            )
            try:
                self.page.wait_for_function(loaded, arg=len(graph["nodes"]), timeout=READY / 3)
                break
            except TimeoutError:
                if last:
                    raise
        self.page.wait_for_timeout(700)

    def use_nodes_2(self) -> bool:
        """Draw nodes as the newer frontends can; whether this one did."""
        self.page.evaluate(
            f"async () => {{ await {APP}.extensionManager.setting.set('Comfy.VueNodes.Enabled', true) }}"
        )
        self.page.wait_for_timeout(1500)
        return bool(self.page.locator("[data-node-id]").count())

    def missing(self) -> list[str]:
        """Types of nodes in the graph that the page does not know."""
        found: list[str] = self.page.evaluate(
            f"""() => {APP}.graph.nodes.map(node => node.type)
                .filter(type => !(type in window.LiteGraph.registered_node_types))"""
        )
        return found

    def prompt(self) -> dict[str, Any]:
        """What a click on Run would queue."""
        made: dict[str, Any] = self.page.evaluate(f"async () => (await {APP}.graphToPrompt()).output")
        return made

    def click_run(self, seconds: float) -> str:
        """Press the button and wait for the end: "success", "error" or "interrupted"."""
        self.page.evaluate(
            """() => { const api = (window.app ?? window.comfyAPI.app.app).api ?? window.comfyAPI.api.api
              window.evlmEnd = null
              for (const kind of ["success", "error", "interrupted"])
                api.addEventListener(`execution_${kind}`, () => { window.evlmEnd ??= kind }) }"""
        )
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        self.page.wait_for_function("() => window.evlmEnd", timeout=seconds * 1000)
        self._wait_for_pictures()
        return str(self.page.evaluate("() => window.evlmEnd"))

    def _wait_for_pictures(self, seconds: float = 20) -> None:
        """Until every node on screen shows the pictures of its output; in app mode none does."""
        from playwright.sync_api import TimeoutError

        self.page.wait_for_timeout(1500)  # outputs of the last nodes
        with suppress(TimeoutError):
            self.page.wait_for_function(PICTURES_ARE_THERE, timeout=seconds * 1000)

    def pictures(self) -> dict[str, int]:
        """Node type -> how many pictures it shows."""
        found: dict[str, int] = self.page.evaluate(
            f"() => Object.fromEntries({APP}.graph.nodes.map(node => [node.type, (node.imgs ?? []).length]))"
        )
        return found

    def says(self, selector: str, seconds: float = 20) -> bool:
        """Whether one of these elements has a text, now or soon: a cached run's comes from the history."""
        for _ in range(int(seconds / 0.25)):
            if any(text.strip() for text in self.texts(selector)):
                return True
            self.page.wait_for_timeout(250)
        return False

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    def picture(self, path: Path) -> None:
        """A screenshot with the whole graph in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.keyboard.press("Escape")
        self.page.evaluate(f"() => {APP}.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(1200)
        self.page.screenshot(path=str(path))


def chromium() -> str | None:
    """Where a Chromium is: $CHROMIUM, or by one of its names."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def opened(comfy: Comfy, browser: str) -> Iterator[Page]:
    """The page, ready. Nothing but the server is reached from it."""
    from playwright.sync_api import sync_playwright

    comfy.post("/api/settings", SETTINGS)
    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=browser, args=FLAGS, chromium_sandbox=False)
        page = process.new_page(viewport={"width": 2400, "height": 1300})
        origin = urlsplit(comfy.url).netloc

        def route(request: Any) -> None:
            address = urlsplit(request.request.url)
            if address.scheme in ("data", "blob") or address.netloc == origin:
                request.continue_()
            elif "ace-builds" in address.path:
                request.fulfill(status=200, content_type="text/javascript", body=ANYTHING)
            else:
                request.abort()

        page.route("**/*", route)
        made = Page(page)
        page.goto(comfy.url, wait_until="domcontentloaded", timeout=READY)
        page.wait_for_function(IS_READY, timeout=READY)
        page.wait_for_timeout(1500)
        yield made
        process.close()
