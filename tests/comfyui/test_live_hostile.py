"""300 hostile workflows against a real server that is watched: nothing escapes, every refusal says why."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hostile_server

COUNT = 300


@pytest.mark.timeout(1200)
def test_hostile_workflows_escape_nowhere(figures: Callable[[str, str], None]) -> None:
    python = Path(os.environ.get("COMFYUI_PYTHON") or sys.executable)
    report = hostile_server.attack(Path(os.environ["COMFYUI_PATH"]).resolve(), python, COUNT)
    figures("hostile", str(report))
    assert not report.holes, "\n".join(report.holes)
    assert report.validation + report.execution + report.harmless == COUNT
