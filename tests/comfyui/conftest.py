"""One ComfyUI for all tests of this folder; those that need a server of their own start it from `live`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if not os.environ.get("COMFYUI_PATH"):
    collect_ignore_glob = ["test_*.py"]  # `make test-comfyui` says so in its one line


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    import live

    server = live.from_environment(tmp_path_factory.mktemp("comfyui"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def figures() -> Iterator[Callable[[str, str], None]]:
    """figures(what, value): measured numbers, kept in out/ and shown at the end."""
    import live

    rows: list[str] = []
    yield lambda what, value: rows.append(f"{what}: {value}")
    if rows:
        out = live.PACK / "out"
        out.mkdir(exist_ok=True)
        name = f"comfyui-{Path(os.environ['COMFYUI_PATH']).name}.txt"
        (out / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
        print("\n" + "\n".join(rows))
