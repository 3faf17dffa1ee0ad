"""The tests behind the `cuda` marker, as a step: every fast path on the card against the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from .steps import Bar, Setting, Step

ROOT = Path(__file__).parents[2]


def steps(setting: Setting) -> list[Step]:
    bars = (Bar("failed", 0, True), Bar("passed", 16))
    needs = ("pytest", "pytest_timeout", "diffusers", "peft")
    name = "correct: tests behind the cuda marker"
    return [Step(name, 4.0, lambda: run(setting), bars, needs, apart=True)]


def run(setting: Setting) -> dict[str, float]:
    """Raises RuntimeError with the last lines where a test fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "EVLM_TEST_DEVICE": setting.device.type}
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", "tests", "-q"]
        command += ["-m", "cuda", f"--junitxml={report}", "tests/cuda"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.is_file() or done.returncode:
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        suite = ElementTree.parse(report).getroot()[0].attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    skipped = int(suite["skipped"])
    return {
        "passed": float(int(suite["tests"]) - failed - skipped),
        "skipped": float(skipped),
        "failed": float(failed),
    }
