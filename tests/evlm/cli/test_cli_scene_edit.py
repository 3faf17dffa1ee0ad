"""`python -m evlm scene edit`: a request and a scene to files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_edit_in_time import rising
from test_scene_job import BLUE, MAKE, RED, Cuts, Greens, Looks, colour_mask, scene

from evlm.cli.main import main
from evlm.files.clips import read_clip
from evlm.files.lock import holding
from evlm.files.pictures import load_picture
from evlm.pipeline import Pipeline
from evlm.plan.trace import Plan, plan_to_json
from evlm.scene.files import load_gaussians, save_gaussians
from evlm.scene.moving import save_folder


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two balls in room.ply, a plan in plan.json; small steps in place of the models."""
    given: dict[str, Any] = {"editor": Greens()}
    monkeypatch.chdir(tmp_path)
    save_gaussians("room.ply", scene().gaussians)
    Path("plan.json").write_text(plan_to_json(MAKE))

    def load(models: Any, reasoner: Any, *_: Any, **__: Any) -> Pipeline:
        return Pipeline(reasoner, Looks(), Cuts(), given["editor"])

    monkeypatch.setattr("evlm.models.zoo.choose", lambda *_: {})
    monkeypatch.setattr(Pipeline, "load", load)
    return given


WORDS = [
    "scene",
    "edit",
    "--scene",
    "room.ply",
    "--cameras",
    "orbit:4",
    "--longest",
    "48",
    "--plan",
    "plan.json",
]
WORDS += ["--background", "0.5,0.5,0.5", "--out", "out"]


def test_it_writes_the_scene_and_what_to_look_at(
    room: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    said = capsys.readouterr().err
    assert "wrote     out/edited.ply, out/selection.npz, out/before_after.mp4" in said
    notes = [line for line in said.splitlines() if "note: " in line]
    assert notes and len(set(notes)) == len(notes)
    rows = torch.from_numpy(np.load("out/selection.npz", allow_pickle=False)["rows"])
    before, after = load_gaussians("room.ply").gaussians, load_gaussians("out/edited.ply").gaussians
    assert bool(rows[:40].any()) and not bool(rows[40:].any())
    for name, tensor in after.tensors().items():
        assert torch.equal(tensor[~rows], before.tensors()[name][~rows])
    clip = read_clip("out/before_after.mp4").frames
    left, right = clip[..., :256, :], clip[..., 256:, :]
    assert clip.shape == (36, 256, 512, 3)
    red = torch.stack([colour_mask(frame, RED) for frame in left])
    assert red.sum() > 3 * torch.stack([colour_mask(frame, RED) for frame in right]).sum()
    assert load_picture("out/sheet.png").shape[1] > 448
    record = json.loads(Path("out/trace.json").read_text())
    assert record["scene"]["gaussians"] == 80 and record["scene"]["steps"][0]["selected"] == int(rows.sum())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "before_after.mp4", "edited.ply", "selection.npz", "sheet.png", "trace.json",
    ]  # fmt: skip


def test_check_reads_from_the_files_that_the_rest_is_as_it_was(
    room: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    words = ["scene", "check", "room.ply", "out/edited.ply", "--selection", "out/selection.npz"]
    rows = torch.from_numpy(np.load("out/selection.npz", allow_pickle=False)["rows"])
    rest = len(rows) - int(rows.sum())
    capsys.readouterr()
    assert main(words) == 0
    assert f"{rest}: {rest} are there, in their order, bit for bit" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] and found["selected"] == int(rows.sum()) and found["lost"] == []
    assert main(words[:-2]) == 1 and "were not selected are not as they were: row " in capsys.readouterr().out
    after = load_gaussians("out/edited.ply").gaussians
    after.sh.view(torch.int32)[79, 0, 1] ^= 1
    save_gaussians("out/edited.ply", after)
    assert main(words) == 1
    assert "1 that were not selected are not as they were: row 79\n" in capsys.readouterr().out


def test_check_refuses_what_is_no_selection(room: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scene", "check", "room.ply", "room.ply", "--selection"]
    Path("text.npz").write_text("rows")
    np.savez("other.npz", rows=np.zeros(80))
    np.savez("named.npz", mine=np.zeros(80, bool))
    np.savez("pickled.npz", rows=np.array([{}], object))
    np.savez("short.npz", rows=np.zeros(8, bool))
    for name in ("text", "other", "named", "pickled"):
        assert main([*words, f"{name}.npz"]) == 2
        assert f"{name}.npz: is no selection; give the selection.npz" in capsys.readouterr().err
    assert main([*words, "none.npz"]) == 2 and "No such file" in capsys.readouterr().err
    assert (
        main([*words, "short.npz"]) == 2
        and "has 80 Gaussians, the selection is [8]" in capsys.readouterr().err
    )


def test_until_stops_and_the_same_command_goes_on(room: dict[str, Any]) -> None:
    assert main([*WORDS, "--until", "plan"]) == 0 and [p.name for p in Path("out").iterdir()] == [
        "trace.json"
    ]
    assert main([*WORDS, "--until", "mask"]) == 0 and Path("out/selection-2.npz").exists()
    assert main(["scene", "select", *WORDS[2:], "--out", "chosen"]) == 0
    assert sorted(path.name for path in Path("chosen").iterdir()) == [
        "selection.npz", "selection.png", "trace.json",
    ]  # fmt: skip
    rows = np.load("chosen/selection.npz", allow_pickle=False)["rows"]
    assert rows[:40].mean() > 0.9 and not rows[40:].any()
    strip = load_picture("chosen/selection.png")[0]
    red, blue = (int(colour_mask(strip[strip.shape[0] // 2 :], colour).sum()) for colour in (RED, BLUE))
    assert red > 200 and blue == 0  # the lower row shows what is selected alone
    assert room["editor"].orders == []


@pytest.mark.slow  # test_scene_job_stopped and test_edit_in_time stop one
def test_a_stopped_edit_goes_on(room: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--out", "whole"]) == 0
    room["editor"] = Greens(1, KeyboardInterrupt)
    assert main(WORDS) == 130
    assert "what is done is kept: the same command goes on from there" in capsys.readouterr().err
    room["editor"] = Greens()
    (work,) = Path("out").glob(".scene-*")
    with holding(work):  # the same command, begun twice
        assert main(WORDS) == 2 and not room["editor"].orders
    assert "at work already" in capsys.readouterr().err
    assert main(WORDS) == 0 and room["editor"].orders
    assert Path("out/edited.ply").read_bytes() == Path("whole/edited.ply").read_bytes()


def test_of_a_scene_that_moves_overwriting_replaces_an_earlier_result_and_nothing_else(
    room: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    save_folder(Path("walk"), rising())
    words = "--longest 24 --views 2 --at-times 2 --schedule canonical --plan plan.json --out out --overwrite"
    asked = ["scene", "edit", *words.split(), "--scene"]
    assert main([*asked, "walk"]) == 0
    edited = Path("out/edited")
    names, made = sorted(Path("out").iterdir()), (edited / "canonical.ply").read_bytes()
    (edited / "canonical.ply").write_bytes(b"old")
    assert main([*asked, "walk"]) == 0
    assert sorted(Path("out").iterdir()) == names and (edited / "canonical.ply").read_bytes() == made
    for scene_, more, said in (
        ("out/edited", "", "out/edited is read by this command"),
        ("out/edited/canonical.ply", "", "out/edited is read by this command"),
        ("walk", "mine.txt", "out/edited is a folder: name another --out"),
    ):
        if more:
            (edited / more).write_text("mine")
        assert main([*asked, scene_]) == 2
        assert said in capsys.readouterr().err and (edited / "canonical.ply").read_bytes() == made
    assert (edited / "mine.txt").read_text() == "mine"


def test_what_others_left_unfinished_is_named_and_goes_when_it_is_old(
    room: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    new, old, other = (Path(f"out/.scene-{name}") for name in ("0123456789ab", "ba9876543210", "backup"))
    for folder in (new, old, other):  # the last one's name is no name of ours
        folder.mkdir(parents=True)
        (folder / "fitted.safetensors").write_bytes(b"x" * 2_000_000)
    for folder in (old, other):
        os.utime(folder / "fitted.safetensors", (0, 0))
        os.utime(folder, (0, 0))
    assert main([*WORDS, "--until", "plan"]) == 0
    said = capsys.readouterr().err
    assert not old.exists() and "untouched for two weeks, was removed" in said and other.exists()
    assert new.exists() and f"{new} (2 MB): delete what is not wanted" in said


def test_a_doubted_plan_is_held_back_and_wrong_words_are_said(
    room: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("plan.json").write_text(plan_to_json(Plan("make the pink ball green", ("pink ball",))))
    room["editor"] = Greens()
    Looks.ground, kept = (lambda *_, **__: []), Looks.ground  # type: ignore[method-assign]
    try:
        assert main(WORDS) == 3
    finally:
        Looks.ground = kept  # type: ignore[method-assign]
    assert "nothing was painted" in capsys.readouterr().err and not Path("out/edited.ply").exists()
    for words, said in (
        (["--background", "0.5,2,0"], "three numbers from 0 to 1"),
        (["--cameras", "nowhere"], "nowhere: no such file or folder"),
        (["--scene", "plan.json"], "plan.json"),
        (["--views", "0"], "--views"),
    ):
        assert main([*WORDS, *words]) == 2
        assert said in capsys.readouterr().err


def test_more_gaussians_than_a_cpu_draws_are_refused_before_anything_is_drawn(
    room: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evlm.scene.raster.bearable.MOST_ON_CPU", 79)
    assert main([*WORDS, "--device", "cpu"]) == 2
    assert "80 Gaussians on a CPU, where at most 79" in capsys.readouterr().err
