"""A real `scene edit` of a scene that moves, killed at any moment, goes on to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_edit_in_time import MAKE, SIZE, colour_mask, rising
from test_scene_job import RED

from evlm.files.pictures import save_mask
from evlm.plan.trace import plan_to_json
from evlm.scene.moving import save_folder
from evlm.scene.raster import rasterize

ROOT = Path(__file__).resolve().parents[3]
KILLS = 3


def command(out: str, schedule: str) -> list[str]:
    words = (
        f"scene edit --scene walk --longest {SIZE} --views 4 --at-times 2 --plan plan.json --mask mask.png"
    )
    more = ["--steps", "3", "--anyway", "--schedule", schedule, "--out", out]
    return [sys.executable, "-m", "evlm", *words.split(), *more]


@pytest.mark.slow  # a process for each kill, that loads torch and the bundled editor
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("schedule", ["canonical", "iterative", "pseudo3d"])
def test_killed_at_some_moments_it_ends_in_the_same_bytes(schedule: str, tmp_path: Path) -> None:
    moving = rising()
    save_folder(tmp_path / "walk", moving)
    (tmp_path / "plan.json").write_text(plan_to_json(MAKE))
    shown = rasterize(moving.gaussians, moving.cameras[0]).image
    save_mask(tmp_path / "mask.png", colour_mask(shown, RED)[None])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = time.monotonic()
    subprocess.run(command("whole", schedule), cwd=tmp_path, env=environment, check=True, capture_output=True)
    whole, rng, kills = time.monotonic() - began, random.Random(4), 0
    while kills < KILLS:
        child = subprocess.Popen(command("killed", schedule), cwd=tmp_path, env=environment, **quiet)  # type: ignore[call-overload]
        try:
            assert child.wait(timeout=rng.uniform(0.3, 0.95) * whole) == 0
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
    else:
        subprocess.run(
            command("killed", schedule), cwd=tmp_path, env=environment, check=True, capture_output=True
        )
    edited = max((tmp_path / "killed").glob("edited*/canonical.ply"), key=lambda path: path.stat().st_mtime)
    for name in ("canonical.ply", "motion.safetensors", "cameras.json"):
        assert (edited.parent / name).read_bytes() == (tmp_path / "whole/edited" / name).read_bytes()
