"""The quickstart as it runs, as an animated picture: a real server and page, one screenshot after the other.

COMFYUI_PATH=/path/to/ComfyUI COMFYUI_PYTHON=ITS/PYTHON python tests/comfyui/clip.py [docs/quickstart.webp]
"""

from __future__ import annotations

import io
import itertools
import sys
import tempfile
import time
from pathlib import Path

import frontend
import live
import nodes2
from PIL import Image, ImageChops

WIDTH, QUALITY = 960, 60  # pixels; WebP's
FIRST, LAST, MOST = 1200, 4000, 700  # milliseconds: before the run, its result, any other picture
SEEN = """const shown = app.graph.nodes.filter(node => node.type !== "MarkdownNote").map(frame)
  .map(each => each.getBoundingClientRect())
const [left, top] = [Math.min(...shown.map(each => each.left)), Math.min(...shown.map(each => each.top))]
return { x: left - 8, y: top - 8, width: Math.max(...shown.map(each => each.right)) - left + 16,
  height: Math.max(...shown.map(each => each.bottom)) - top + 16 }"""


def record(page: frontend.Page, seconds: float = 240) -> list[tuple[float, Image.Image]]:
    """(seconds since the click, picture of all nodes), from before the run to its end."""
    area, before = nodes2.evaluate(page, SEEN), None
    while area != before:  # the view moves until all nodes fit into it
        page.page.wait_for_timeout(700)
        area, before = nodes2.evaluate(page, SEEN), area
    taken = []

    def take(at: float) -> None:
        shot = Image.open(io.BytesIO(page.page.screenshot(clip=area))).convert("RGB")
        taken.append((at, shot))

    take(0.0)
    page.page.evaluate(
        """() => { const api = (window.app ?? window.comfyAPI.app.app).api ?? window.comfyAPI.api.api
          window.evlmEnd = null
          for (const kind of ["success", "error", "interrupted"])
            api.addEventListener(`execution_${kind}`, () => { window.evlmEnd ??= kind }) }"""
    )
    begun = time.monotonic()
    page.page.get_by_role("button", name="Run", exact=True).first.click()
    while page.page.evaluate("() => window.evlmEnd") is None:
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{seconds} s and no end of the run")
        take(time.monotonic() - begun)
    if (end := page.page.evaluate("() => window.evlmEnd")) != "success":
        raise RuntimeError(f"the run ended with {end}")
    page.page.wait_for_timeout(2000)  # for the pictures
    take(time.monotonic() - begun)
    return taken


def write(taken: list[tuple[float, Image.Image]], path: Path) -> None:
    """The pictures at their times, without those that show nothing new, WIDTH pixels wide."""
    kept: list[tuple[float, Image.Image]] = []
    for at, shot in taken:
        if not kept or ImageChops.difference(kept[-1][1], shot).getbbox():
            kept.append((at, shot))
    times = [FIRST, *(min(MOST, int(1000 * (b[0] - a[0]))) for a, b in itertools.pairwise(kept[1:])), LAST]
    height = round(WIDTH * kept[0][1].height / kept[0][1].width)
    first, *rest = (shot.resize((WIDTH, height), Image.Resampling.LANCZOS) for _, shot in kept)
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=times,
        loop=0,
        quality=QUALITY,
        method=4,
    )
    print(f"{path}: {len(kept)} pictures, {sum(times) / 1000:.1f} s, {path.stat().st_size / 1000:.0f} kB")


def main(path: Path) -> None:
    browser = frontend.chromium()
    if browser is None:
        raise SystemExit("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with tempfile.TemporaryDirectory(prefix="evlm-clip-") as folder:
        server = live.from_environment(Path(folder))
        server.start()
        try:
            with frontend.opened(server, browser) as page:
                page.load(live.PACK / "workflows" / "quickstart.json")
                page.use_nodes_2()
                change = """app.graph.nodes.find(each => each.comfyClass === "EVLM_Example").widgets
                  .find(each => each.name === "which").value = argument"""
                nodes2.evaluate(page, change, "2-words")  # another request, so that the models are loaded
                page.click_run(240)
                nodes2.evaluate(page, "app.nodeOutputs = {}")
                page.load(live.PACK / "workflows" / "quickstart.json")
                page.page.evaluate(
                    f"() => {frontend.APP}.extensionManager.command.execute('Comfy.Canvas.FitView')"
                )
                page.page.wait_for_timeout(1500)
                write(record(page), path)
        finally:
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else live.PACK / "docs" / "quickstart.webp")
