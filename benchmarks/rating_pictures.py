"""The rating page as people see it, wide and on a phone, light and dark.

    python -m benchmarks.rating_pictures docs        # rating-{1280,390}-{light,dark}.webp

Six questions of the drawn world at 256 pixels are its items, the mask shown. Needs playwright and Chromium
(EVLM_CHROMIUM names another than /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.raters_load import Page
from evlm.records import RowWriter
from trainer.raters.store import FILE, Store, add_rater
from trainer.world.rows import Recipe, rows

CHROMIUM = os.environ.get("EVLM_CHROMIUM", "/usr/bin/chromium")
SIZES = {1280: 860, 390: 844}
LONG = 120_000  # milliseconds, on a busy machine


def main(out: Path, seed: int) -> int:
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe = Recipe(seed=seed, size=256, undesired=0, category="image+text")
        RowWriter(folder).append_all(rows(recipe, 0, 6))
        page = Page(folder)
        try:
            store = Store(folder / FILE)
            token = add_rater(store, "somebody")
            store.close()
            with sync_playwright() as started:
                browser = started.chromium.launch(
                    executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=LONG
                )
                for width, height in SIZES.items():
                    for scheme in ("light", "dark"):
                        size = {"width": width, "height": height}
                        context = browser.new_context(viewport=size, color_scheme=scheme)
                        shown = context.new_page()
                        shown.goto(f"http://127.0.0.1:{page.port}/#token={token}", timeout=LONG)
                        shown.wait_for_selector("dialog[open]", timeout=LONG)
                        shown.keyboard.press("Escape")
                        shown.wait_for_selector("#pictures img", timeout=LONG)
                        shown.keyboard.press("m")
                        shown.wait_for_timeout(1500)
                        with Image.open(io.BytesIO(shown.screenshot())) as picture:
                            picture.save(out / f"rating-{width}-{scheme}.webp", quality=80, method=6)
                        context.close()
                browser.close()
        finally:
            page.kill()
    for file in sorted(out.glob("rating-*.webp")):
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    sys.exit(main(options.out, options.seed))
