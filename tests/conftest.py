"""For all tests: property tests draw the same examples on every run and machine, and the garbage collector
leaves alone what stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("same")


def pytest_report_header(config: pytest.Config) -> str | None:
    if any("comfyui" in each for each in config.args):
        return None
    return "tests/comfyui skipped: it starts a real ComfyUI, by `make test-comfyui COMFYUI_PATH=...`"


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected is there until the end: a second's work for each gc.collect() of a test,
    and now and then between them."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    gc.freeze()
