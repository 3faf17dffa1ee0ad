"""`python -m evlm scene fit` of a scene that moves: from D-NeRF's and nerfstudio's layout and from a clip
with cameras; stopped it goes on to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from moving_layouts import clip_with_cameras, dnerf, nerfstudio, point_cloud
from moving_pictures import ROLLING, pictures, points

from evlm.cli import scene_fit_moving
from evlm.cli.main import main
from evlm.scene.fit import FittingInTime
from evlm.scene.fit.fitting import FitStep
from evlm.scene.moving import load_scene

VIEWS, TIMES, SIZE = 4, 4, 24
SKY = ["--background", "158,189,224", "--bases", "2"]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list, list]:  # type: ignore[type-arg]
    monkeypatch.chdir(tmp_path)
    cameras, read, _ = pictures(ROLLING, VIEWS, TIMES, SIZE)
    found = points(ROLLING, 200, SIZE)
    Path("points.ply").write_bytes(point_cloud(found))
    return cameras, read


def test_pictures_that_know_their_time_become_a_folder(
    shown: tuple[list, list],  # type: ignore[type-arg]
    capsys: pytest.CaptureFixture[str],
) -> None:
    nerfstudio(Path("walk"), *shown)
    asked = ["scene", "fit", "walk", "out", "--points", "points.ply", "--iterations", "60", *SKY]
    assert main([*asked, "--preview", "now.png"]) == 0
    said = capsys.readouterr().out
    assert "16 pictures at 4 times, 200 Gaussians (" in said and "60 iterations: about " in said
    assert "dB to its pictures" in said and Path("now.png").exists()
    made = load_scene("out").scene()
    assert made.motion is not None and 0 < int(made.motion.moving.sum()) < 200 and len(made.cameras) == 16
    assert made.background == pytest.approx((158 / 255, 189 / 255, 224 / 255))
    assert float(said.split("Gaussians, ")[-1].split(" dB")[0]) > 14
    assert main(["scene", "render", "out", "a.gif", "--size", "16"]) == 0
    assert main(asked) == 2
    assert "out exists: name another folder" in capsys.readouterr().err
    still = ["scene", "fit", "walk", "still.ply", "--points", "points.ply", "--iterations", "10"]
    for more in (["--frames", "::2"], ["--motion", "hexplane"], ["--bases", "2"]):
        assert main([*still, *more]) == 2
        assert f"{more[0]} is of a scene that moves, which is a folder" in capsys.readouterr().err
    assert main(still) == 0
    assert "photographs are of 4 times, and still.ply stands still" in capsys.readouterr().out


def test_a_stopped_fit_goes_on_to_the_same_bytes(
    shown: tuple[list, list],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dnerf(Path("walk"), *shown)
    run = FittingInTime.run
    monkeypatch.setattr(FittingInTime, "run", lambda self, *given: run(self, *given, every=20))
    asked = ["scene", "fit", "walk", "--iterations", "30", "--frames", "::3", "--max-gaussians", "60", *SKY]
    assert main([*asked, "whole"]) == 0
    step, done = FittingInTime.step, []

    def stopped(self: FittingInTime) -> FitStep:
        done.append(self.done)
        if len(done) == 25:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(FittingInTime, "step", stopped)
    monkeypatch.setattr(scene_fit_moving, "_estimate", lambda *_: 1.0)
    assert main([*asked, "twice"]) == 130
    assert "kept in twice.fit.safetensors; the same command" in capsys.readouterr().out
    assert Path("twice.fit.safetensors").exists() and not Path("twice").exists()
    assert main([*asked, "twice"]) == 0 and done[25] == 20
    for name in ("canonical.ply", "motion.safetensors", "cameras.json"):
        assert (Path("twice") / name).read_bytes() == (Path("whole") / name).read_bytes()
    assert not Path("twice.fit.safetensors").exists()


def test_a_clip_with_cameras_and_what_takes_too_long(
    shown: tuple[list, list],  # type: ignore[type-arg]
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cameras, clip = clip_with_cameras(Path("walk"), *shown)
    asked = ["scene", "fit", str(cameras), "out", "--images", str(clip), "--points", "points.ply", *SKY]
    assert main([*asked, "--iterations", "8"]) == 0
    assert "16 pictures at 16 times" in capsys.readouterr().out
    assert [each.time for each in load_scene("out").cameras][:2] == [0, 1 / 15]
    monkeypatch.setattr(scene_fit_moving, "_estimate", lambda *_: 7200.0)
    assert main([*[each if each != "out" else "more" for each in asked]]) == 2
    said = capsys.readouterr()
    assert "about 2.0 h" in said.out and "take fewer times (--frames ::4)" in said.err
    still = [replace(camera, time=None) for camera in shown[0]]
    nerfstudio(Path("still"), still, shown[1])
    assert main(["scene", "fit", "still", "more"]) == 2
    assert "has no time, nor have 15 others" in capsys.readouterr().err
    assert not Path("more").exists()
