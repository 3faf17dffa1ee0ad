"""A real `scene edit`, killed at any moment, goes on to the same bytes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_scene_job import MAKE, RED, SIZE, colour_mask, job
from torch import Tensor

from evlm.files.pictures import save_mask
from evlm.plan.trace import Plan, plan_to_json
from evlm.scene.files import save_gaussians

ROOT = Path(__file__).resolve().parents[3]
KILLS = 10


def command(out: Path) -> list[str]:
    words = f"scene edit --scene room.ply --cameras orbit:6 --longest {SIZE} --plan plan.json --mask mask.png"
    more = ["--steps", "4", "--anyway", "--out", str(out)]
    return [sys.executable, "-m", "evlm", *words.split(), *more]


@pytest.mark.slow  # a process for each kill, that loads torch and the bundled editor
@pytest.mark.timeout(3600)
def test_killed_at_ten_moments_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    shown = _room(tmp_path, MAKE)
    save_mask(tmp_path / "mask.png", (colour_mask(shown, (0.5, 0.5, 0.5)) < 1).float()[None])
    _killed(tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "plan, kills",
    [
        (Plan("remove the red ball", ("red ball",)), 4),
        (Plan("replace the red ball with a green box", ("red ball",)), 3),
        (Plan("add a green ball", ("green ball",)), 3),
    ],
    ids=["remove", "replace", "add"],
)
def test_a_shape_killed_at_ten_moments_ends_in_the_same_bytes(plan: Plan, kills: int, tmp_path: Path) -> None:
    """What goes, what comes in its place or anew, and the hole that is closed; the mask is the red ball, or
    beside it."""
    shown = _room(tmp_path, plan)
    mask = colour_mask(shown, RED)
    if plan.instruction.startswith("add"):
        mask = mask.roll(6, 0)
    save_mask(tmp_path / "mask.png", mask[None])
    _killed(tmp_path, kills)


def _room(folder: Path, plan: Plan) -> Tensor:
    """Writes a scene and a plan; what the first view shows."""
    work = job(plan)
    save_gaussians(folder / "room.ply", work.scene.gaussians)
    (folder / "plan.json").write_text(plan_to_json(plan))
    return work.looks().pictures[0]


def _killed(tmp_path: Path, most: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = time.monotonic()
    subprocess.run(
        command(tmp_path / "whole"), cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    whole = time.monotonic() - began
    rng, kills = random.Random(4), 0
    out = tmp_path / "killed"
    while kills < most:
        child = subprocess.Popen(command(out), cwd=tmp_path, env=environment, **quiet)  # type: ignore[call-overload]
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
    # Nothing half written, no name without a file; further names are of a run killed when it was done
    left = {path.name: path.stat().st_size for path in out.iterdir()}
    assert not [name for name, size in left.items() if name.startswith(".") or not size]
    assert {re.sub(r"-\d+\.", ".", name) for name in left} == {p.name for p in (tmp_path / "whole").iterdir()}


def _results(folder: Path) -> dict[str, bytes]:
    """The scene and its selection, whatever number their names have."""
    return {
        kind: max(folder.glob(f"{kind}*"), key=lambda path: path.stat().st_size).read_bytes()
        for kind in ("edited", "selection")
    }
