"""Clicks of the page as text: web/points.js, run by node; the node's own reader takes what it writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from standin import part

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not there")
def test_clicks_are_read_and_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / "web" / "points.js", tmp_path / "points.mjs")
    shutil.copy(ROOT / "tests" / "web" / "points_checks.mjs", tmp_path)
    done = subprocess.run([str(NODE), str(tmp_path / "points_checks.mjs")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_page_writes_the_node_reads() -> None:
    text = '[{"x":10,"y":20,"label":"cup"}, {"x":4.5,"y":5,"frame":7,"on":false}]'
    rows = part("nodes.segment").rows_of(text, 3)
    assert rows[3][0].tolist() == [[10, 20]] and rows[7][1].tolist() == [0]
