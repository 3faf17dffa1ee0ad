"""The rating page's script keeps an answer before it goes on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[3] / "trainer/raters/page.js"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_an_answer_is_committed_before_the_next_item_is_shown(tmp_path: Path) -> None:
    for name in ("page.js", "outbox.js", "player.js"):
        shutil.copy(PAGE.with_name(name), tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    checks = Path(__file__).with_name("page_checks.mjs")
    done = subprocess.run(
        ["node", str(checks), str(tmp_path / "page.js")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
