"""A training that is killed again and again ends in the bits of one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark forks")
def test_seven_kills_leave_no_trace() -> None:
    words = [sys.executable, "-m", "benchmarks.kill_and_resume", "--kills", "7", "--steps", "3"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bitwise equal after 7 of 7" in done.stdout
