"""A chat server on this machine, for the tests of remote reasoners."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from chat_server import TRACE, Server, stream

from evlm.plan.trace import render


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    running.seen.clear(), running.headers.clear(), running.paths.clear()
    running.reply = stream(render(TRACE))
    return running
