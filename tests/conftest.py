"""For all tests: property tests draw the same examples on every run and machine."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_report_header(config: pytest.Config) -> str | None:
    if any("comfyui" in each for each in config.args):
        return None
    return "tests/comfyui skipped: it starts a real ComfyUI, by `make test-comfyui COMFYUI_PATH=...`"
