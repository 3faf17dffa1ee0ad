"""`python -m evlm scene info | convert | render` of scenes that move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_moving_folders import walking

from evlm.cli.main import main
from evlm.files.clips import read_clip
from evlm.scene.files import load_gaussians
from evlm.scene.moving import load_scene, save_folder


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_folder(Path("walk"), walking())
    return tmp_path / "walk"


def test_info_says_what_moves(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "info", "walk"]) == 0
    shown = capsys.readouterr().out
    assert "25 of them, bases of 3 keys in time" in shown and "6, at 2 times" in shown
    assert main(["scene", "info", "walk", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["motion"]["moving"] == 25
    Path("walk/model.pth").write_bytes(b"\x80\x04")
    assert main(["scene", "info", "walk/model.pth"]) == 2
    assert "scene fit PICTURES OUT" in capsys.readouterr().err


def test_to_one_ply_a_time_and_back(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "convert", "walk", "plys", "--times", "all"]) == 0
    assert main(["scene", "convert", "plys", "back"]) == 0
    one, other = load_scene("walk").scene(), load_scene("back").scene()
    assert torch.equal(one.at(0.5).means, other.at(0.5).means)
    assert main(["scene", "convert", "walk", "half.spz", "--times", "0.5"]) == 0
    assert (load_gaussians("half.spz").gaussians.means - one.at(0.5).means).abs().max() < 1e-3
    capsys.readouterr()
    for words, said in (
        (["walk", "one.ply"], "one file is of one time: add --times 0.5"),
        (["half.spz", "folder"], "the scene stands still: name a file"),
        (["walk", "plys"], "plys exists"),
        (["walk", "half.spz", "--times", "0.1"], "half.spz exists"),
    ):
        assert main(["scene", "convert", *words]) == 2
        assert said in capsys.readouterr().err


def test_cameras_whose_times_count_pictures_see_what_was_fitted_to_them(
    walk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`scene fit` takes times 10 to 30 of such a file as 0 to 1."""
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]).double())  # OpenGL's axes
    pose = (torch.linalg.inv(walking().cameras[0].view) @ turn).tolist()
    for name, times in (("counted", (30, 10, 20)), ("shares", (1.0, 0.0, 0.5))):
        frames = [{"file_path": f"{t}.png", "transform_matrix": pose, "time": t} for t in times]
        Path(f"{name}.json").write_text(json.dumps({"w": 24, "h": 20, "fl_x": 31.7, "frames": frames}))
        words = ["scene", "render", "walk", name, "--cameras", f"{name}.json", "--size", "24"]
        assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.count("times 10 to 30 are taken as 0 to 1") == 1
    pairs = list(zip(sorted(Path("counted").iterdir()), sorted(Path("shares").iterdir()), strict=True))
    assert len(pairs) == 3 and all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    assert pairs[0][0].read_bytes() != pairs[1][0].read_bytes()


def test_a_clip_through_time(walk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "render", "walk", "a.gif", "--size", "16"]) == 0
    frames = read_clip("a.gif").frames
    assert len(frames) == 3 and (frames[0] - frames[2]).abs().mean() > 0.01
    assert torch.allclose(frames[0, 0, 0], torch.tensor([0.1, 0.2, 1 / 3]), atol=0.1)
    words = ["scene", "render", "walk", "--size", "16"]
    for more, count in (
        (["b.gif", "--times", "5"], 5),
        (["c.gif", "--cameras", "orbit:6:10:z"], 6),
        (["d.gif", "--cameras", "own"], 6),
    ):
        assert main([*words, *more]) == 0
        assert f"{count} views of 50 Gaussians" in capsys.readouterr().out
    assert main([*words[:-1], "48", "f.gif", "--times", "2"]) == 0
    assert max(read_clip("f.gif").frames.shape[1:3]) == 48
    for more, said in (
        (["e.gif", "--cameras", "own:9"], "the scene has 6 cameras of its own"),
        (["e.gif", "--times", "1.5"], "expected numbers from 0 to 1"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err


def test_a_folder_that_is_here_has_no_name_to_be_written_under(
    walk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (walk.parent / "empty").mkdir()
    monkeypatch.chdir(walk.parent / "empty")
    for more in ([], ["--times", "all"]):
        assert main(["scene", "convert", str(walk), ".", *more]) == 2
        assert ".: name a folder to write" in capsys.readouterr().err


def test_nothing_is_written_into_the_folder_that_is_read(
    walk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in walk.iterdir()}
    one = ["--times", "0.5", "--overwrite"]
    for words in (
        ["walk", "walk/canonical.ply", *one],
        ["walk/canonical.ply", "walk/canonical.ply", *one],
        ["walk/canonical.ply", "walk/half.ply", *one],
        ["walk", "walk/plys", "--times", "all"],
        ["walk", "plys/../walk/half.spz", *one],
    ):
        assert main(["scene", "convert", *words]) == 2
        assert "read by this command" in capsys.readouterr().err
    monkeypatch.chdir(walk)
    assert main(["scene", "convert", ".", "canonical.ply", *one]) == 2
    assert {path.name: path.read_bytes() for path in walk.iterdir()} == before
    assert main(["scene", "convert", ".", "../half.spz", *one]) == 0
