"""`python -m evlm scene info | convert` on small files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from splat_examples import columns_of, ply_bytes, same_bits, some_gaussians

from evlm.cli import arguments as kinds
from evlm.cli.main import main
from evlm.files import save_picture
from evlm.files.clips import read_clip
from evlm.scene.files import load_gaussians, save_gaussians


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .ply with a property and a comment of its own, and a row that is not finite."""
    monkeypatch.chdir(tmp_path)
    columns = columns_of(some_gaussians(9, degree=2))
    columns["y"][1][4] = torch.nan
    columns["label"] = ("uchar", columns["x"][1] * 0 + 7)
    Path("room.ply").write_bytes(ply_bytes(columns))
    return tmp_path / "room.ply"


def test_info_says_what_there_is(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "info", "room.ply"]) == 0
    shown = capsys.readouterr().out
    for words in ("ply, binary_little_endian", "Gaussians       8,", "degree 2", "also properties label",
                  "comment         by hand", "note            1 of 9 Gaussians"):  # fmt: skip
        assert words in shown
    assert main(["scene", "info", "room.ply", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    means = load_gaussians(room).gaussians.means
    assert facts["gaussians"] == 8 and facts["properties"] == ["label"]
    assert facts["least"] == means.amin(0).tolist() and facts["most"] == means.amax(0).tolist()


def test_convert_goes_to_each_kind_and_says_what_is_lost(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lost in (("a.spz", "rounds"), ("a.splat", "no harmonics"), ("a.compressed.ply", "rounds")):
        assert main(["scene", "convert", "room.ply", name]) == 0
        shown = capsys.readouterr().out
        assert f"{name}: 8 Gaussians" in shown and lost in shown and "left out" in shown
        assert len(load_gaussians(name).gaussians) == 8
    assert main(["scene", "convert", "room.ply", "b.ply", "--degree", "1"]) == 0
    back = load_gaussians("b.ply")
    assert same_bits(back.gaussians, load_gaussians(room).gaussians.with_degree(1))
    assert back.source is not None and back.source.rows["label"].tolist() == [7] * 8


def test_a_turn_is_written_as_an_animation_and_other_clips_are_refused(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "scene",
        "render",
        "room.ply",
        "--cameras",
        "orbit:3",
        "--size",
        "16",
        "--background",
        "255,0,51",
    ]
    assert main([*words, "a.gif"]) == 0
    frames = read_clip("a.gif").frames
    assert frames.shape == (3, 16, 16, 3)
    assert torch.allclose(frames[0, 0, 0], torch.tensor([1.0, 0.0, 0.2]), atol=0.05)
    assert main([*words, "a.mov"]) == 2 and not Path("a.mov").exists()
    assert "no clip is written as .mov; name a folder, or a clip: .mp4" in capsys.readouterr().err


def test_views_are_drawn_without_the_photographs_of_their_cameras(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pose = torch.eye(4)
    pose[2, 3] = 6.0
    frames = [{"file_path": f"{name}.png", "transform_matrix": pose.tolist()} for name in "ab"]
    lens = {"fl_x": 16, "fl_y": 16, "cx": 8, "cy": 8, "w": 16, "h": 16}
    Path("transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    words = ["scene", "render", "room.ply", "--cameras", "transforms.json"]
    save_picture("a.png", torch.zeros(16, 16, 3))  # and b.png is missing
    assert main([*words, "some.gif"]) == 0
    Path("a.png").unlink()
    assert main([*words, "none.gif"]) == 0
    assert "photographs" not in "".join(capsys.readouterr())
    assert Path("some.gif").read_bytes() == Path("none.gif").read_bytes()


@pytest.mark.parametrize(
    "text, colour",
    [("0.5,0,1", (0.5, 0.0, 1.0)), ("1,1,0", (1.0, 1.0, 0.0)), ("255,102,1", (1.0, 0.4, 1 / 255))],
)
def test_a_colour_is_read_in_either_range(text: str, colour: tuple[float, ...]) -> None:
    assert kinds.colour(text) == pytest.approx(colour)
    for wrong in ("0.5,2,0", "256,0,0", "1,2", "-1,0,0"):
        with pytest.raises(argparse.ArgumentTypeError, match="three numbers from 0 to 1"):
            kinds.colour(wrong)


def test_nothing_is_replaced_unasked_and_what_is_read_never(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_gaussians("b.ply", some_gaussians())
    before = room.read_bytes(), Path("b.ply").read_bytes()
    for words, said in (
        (["room.ply", "b.ply"], "b.ply exists: name another file, or add --overwrite"),
        (["room.ply", "room.ply", "--overwrite"], "room.ply is read by this command"),
    ):
        assert main(["scene", "convert", *words]) == 2
        assert said in capsys.readouterr().err
    assert (room.read_bytes(), Path("b.ply").read_bytes()) == before
    assert main(["scene", "convert", "room.ply", "b.ply", "--overwrite"]) == 0
    assert len(load_gaussians("b.ply").gaussians) == 8
