"""The benchmark of `data make` under load, in small: faults, kills, the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_a_run_that_is_killed_under_load_makes_the_same_rows(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.data_load", "--rows", "90", "--kills", "3", "--side", "64"]
    done = subprocess.run([*words, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 3 times" in done.stdout and "the same bytes" in done.stdout
