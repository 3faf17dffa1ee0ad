"""The study's page in a real browser: consent, eight screens by keys with a reload, back, nothing from
elsewhere. Needs playwright and Chromium (EVLM_CHROMIUM names another than /usr/bin/chromium)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_study_page import folder

from trainer.raters.study_plan import assign, load_study
from trainer.raters.study_store import StudyStore

pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("EVLM_CHROMIUM", "/usr/bin/chromium")
ROOT = Path(__file__).resolve().parents[3]
LONG = 60_000


def test_a_participant_goes_through_by_keys(tmp_path: Path) -> None:
    path = folder(tmp_path, participants=1, each=4)
    for file in tmp_path.glob("*.png"):
        Image.new("RGB", (32, 32), "red").save(file)
    study, items, _ = load_study(path)
    store = StudyStore(tmp_path / "study.sqlite", assign(study, items))
    (token,) = store.invite(1)
    command = [sys.executable, "-m", "trainer", "data", "study", "serve", str(path), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        lines = iter(server.stdout)
        url = next(found[1] for line in lines if (found := re.search(r"listening at (http://[^;]+)", line)))
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LONG)
            _go_through(browser.new_page(), url, token)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    values = [rating.value for rating in store.ratings({item.id: item.task for item in items})]
    assert values == [1, 2, 3, 4, 5, 1, 2]
    store.close()


def _go_through(page: Any, url: str, token: str) -> None:
    elsewhere: list[str] = []
    errors: list[str] = []
    page.on(
        "request", lambda each: None if each.url.startswith((url, "blob:")) else elsewhere.append(each.url)
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{url}/#token={token}", timeout=LONG)
    page.click("text=I agree", timeout=LONG)
    for at in range(8):
        _shows(page, at)
        if at == 3:
            page.reload()
            _shows(page, at)
        page.keyboard.press(str(1 + at % 5))
    page.wait_for_selector("text=That was all", timeout=LONG)
    page.keyboard.press("u")
    _shows(page, 7)
    assert not elsewhere and not errors and token not in page.url


def _shows(page: Any, number: int) -> None:
    page.wait_for_selector(f"#item[data-screen='{number}']:not([hidden])", timeout=LONG)
