"""The rating page in a real browser: fifty answers by keys, a reload, a server that is killed, two tabs.

Needs playwright and Chromium (EVLM_CHROMIUM names another than /usr/bin/chromium).
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raters_folder import rated_folder

from trainer.raters.store import FILE, Store, add_rater

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = os.environ.get("EVLM_CHROMIUM", "/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no {CHROMIUM}"),
]
LONG = 60_000  # milliseconds, on a busy machine


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = ["data", "rate", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("listening"):
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = Server(rated_folder(tmp_path, 60))
    yield served
    served.kill()


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=LONG
        )
        yield found
        found.close()


def link(server: Server, name: str) -> str:
    store = Store(server.folder / FILE)
    token = add_rater(store, name)
    store.close()
    return f"{server.url}/#token={token}"


def votes(server: Server) -> list[tuple[int, int]]:
    with sqlite3.connect(server.folder / FILE) as sql:
        return sql.execute("SELECT item, value FROM vote WHERE undone = 0").fetchall()


def answer(page: Any, key: str) -> None:
    """A press, and the page that goes on to another item: then the answer is kept."""
    page.wait_for_selector("#item:not([hidden])", timeout=LONG)
    shown = page.get_attribute("#item", "data-id")
    page.keyboard.press(key)
    page.wait_for_selector(f"#item[hidden], #item:not([data-id='{shown}'])", state="attached", timeout=LONG)


def saved(page: Any) -> None:
    page.wait_for_selector("#saved:text-is('all saved')", timeout=LONG)


def test_fifty_answers_by_keys_with_a_reload_and_a_killed_server(server: Server, browser: Any) -> None:
    context = browser.new_context()
    page, elsewhere, errors = context.new_page(), [], []
    page.on(
        "request",
        lambda each: None if each.url.startswith((server.url, "blob:")) else elsewhere.append(each.url),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(link(server, "anna"), timeout=LONG)
    page.wait_for_selector("dialog[open]", timeout=LONG)  # the guidelines, once
    page.keyboard.press("Escape")
    for at in range(50):
        if at == 15:
            page.reload()
        if at == 30:
            saved(page)
            before = votes(server)
            page.wait_for_selector("#item:not([hidden])", timeout=LONG)  # faster than any fetching ahead
            server.kill()
            answer(page, "y")  # what is shown and what was fetched ahead goes on without the server
            page.wait_for_selector("#saved.bad", timeout=LONG)
            server.start()
            assert votes(server)[: len(before)] == before
            continue
        if at == 40:
            page.keyboard.press("Enter")
            page.keyboard.type("because yes")
            page.keyboard.press("Enter")
        answer(page, "n" if at % 3 == 0 else "y")
    saved(page)
    assert len(votes(server)) == 50 == len({item for item, _ in votes(server)})
    page.keyboard.press("u")
    page.keyboard.press("u")
    page.wait_for_selector("#progress:has-text('48 rated')", timeout=LONG)
    saved(page)
    assert len(votes(server)) == 48
    with sqlite3.connect(server.folder / FILE) as sql:
        assert sql.execute("SELECT count(*) FROM vote WHERE note = 'because yes'").fetchone() == (1,)
    assert not elsewhere and not errors


def test_two_tabs_of_one_rater_count_no_item_twice(server: Server, browser: Any) -> None:
    context = browser.new_context()
    address = link(server, "bert")
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(address, timeout=LONG)
        tab.wait_for_selector("dialog[open]", timeout=LONG)
        tab.keyboard.press("Escape")
    for at in range(12):
        tab = tabs[at % 2]
        tab.bring_to_front()
        answer(tab, "y" if at % 2 else "n")
    for tab in tabs:
        tab.bring_to_front()
        saved(tab)
    given = votes(server)
    assert len(given) == len({item for item, _ in given}) and len(given) >= 6
