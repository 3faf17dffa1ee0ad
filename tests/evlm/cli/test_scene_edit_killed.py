"""A real `scene edit`, killed at any moment, goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_scene_job import MAKE, SIZE, colour_mask, job

from evlm.files.pictures import save_mask
from evlm.plan.trace import plan_to_json
from evlm.scene.files import save_gaussians

ROOT = Path(__file__).resolve().parents[3]
KILLS = 10


def command(out: Path) -> list[str]:
    words = f"scene edit --scene room.ply --cameras orbit:6 --longest {SIZE} --plan plan.json --mask mask.png"
    return [sys.executable, "-m", "evlm", *words.split(), "--steps", "4", "--anyway", "--out", str(out)]


@pytest.mark.slow  # a process for each kill, that loads torch and the bundled editor
def test_killed_at_ten_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    work = job(MAKE)
    save_gaussians(tmp_path / "room.ply", work.scene.gaussians)
    (tmp_path / "plan.json").write_text(plan_to_json(MAKE))
    shown = work.looks().pictures[0]
    save_mask(tmp_path / "mask.png", (colour_mask(shown, (0.5, 0.5, 0.5)) < 1).float()[None])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    subprocess.run(
        command(tmp_path / "whole"), cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    whole = time.monotonic() - began
    rng, kills = random.Random(4), 0
    out = tmp_path / "killed"
    while kills < KILLS:
        child = subprocess.Popen(
            command(out), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            code = child.wait(timeout=rng.uniform(0.3, 1.0) * whole)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
            continue
        assert code == 0
        assert _results(out) == _results(tmp_path / "whole")
        out = tmp_path / f"killed-{kills}"  # it got through: the next kills hit a new one
    subprocess.run(command(out), cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert _results(out) == _results(tmp_path / "whole")


def _results(folder: Path) -> dict[str, bytes]:
    """The scene and its selection, whatever number their names have."""
    return {
        kind: max(folder.glob(f"{kind}*"), key=lambda path: path.stat().st_size).read_bytes()
        for kind in ("edited", "selection")
    }
