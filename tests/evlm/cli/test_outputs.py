"""What a run may write, and what it never replaces: C9 and C10, by `python -m evlm edit` on small models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ends import ends
from test_pipeline import BOX, SIZE, circle, pipeline, trace

from evlm.cli.outputs import CLAIMED, Outputs
from evlm.files.pictures import save_picture
from evlm.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["edited.png", "mask.png", "sheet.png", "trace.json"]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Small steps in place of the models; a list of the times that they were loaded."""
    times: list[Any] = []

    def load(models: Any, *rest: Any, **more: Any) -> Pipeline:
        times.append(models)
        return pipeline(trace(circle()), BOX)

    monkeypatch.setattr(Pipeline, "load", load)
    return times


def draw(path: Path, seed: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed)))
    return path


def edit(image: str | Path, out: str | Path, *more: str) -> int | str:
    return ends(["edit", "--image", str(image), "--prompt", "blue", "--out", str(out), *more])


def test_a_second_round_in_the_same_folder_leaves_its_input(loads: list[Any], tmp_path: Path) -> None:
    """`--image out/edited.png --out out` (C9)"""
    image = draw(tmp_path / "edited.png")
    before = image.read_bytes()
    assert edit(image, tmp_path) == 0
    assert image.read_bytes() == before
    assert edit(image, tmp_path) == 0
    assert image.read_bytes() == before
    assert {"edited-2.png", "mask-2.png", "trace-3.json", "sheet-3.png"} <= {
        p.name for p in tmp_path.iterdir()
    }


@pytest.mark.parametrize("name", NAMES)
def test_other_peoples_files_stay(
    loads: list[Any], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All results of one run bear one number. (C9)"""
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    assert edit(image, out) == 0
    assert (out / name).read_bytes() == b"mine"
    written = sorted(p.name for p in out.iterdir() if p.name != name)
    assert written == ["edited-2.png", "mask-2.png", "sheet-2.png", "trace-2.json"]
    assert all((out / each).stat().st_size for each in written)
    assert "edited-2.png" in capsys.readouterr().err


def test_overwrite_replaces_results_but_no_input(
    loads: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is loaded, also through another name of the same file. (C9)"""
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    assert edit(image, out) == 0
    assert edit(image, out, "--overwrite") == 0 and len(list(out.iterdir())) == 4
    del loads[:]
    os.link(out / "edited.png", tmp_path / "linked.png")
    before = (out / "edited.png").read_bytes()
    for given in (out / "edited.png", tmp_path / "linked.png"):
        assert edit(given, out, "--overwrite") == 2
        assert edit(image, out, "--overwrite", "--reference", str(given)) == 2
    assert (out / "edited.png").read_bytes() == before and not loads
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["a file", "under a file", "/proc/evlm", "x" * 300, "", " ", "nul\0nul"])
def test_where_nothing_can_be_written_is_said_before_anything_is_loaded(
    loads: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """(C10)"""
    image = draw(tmp_path / "a.png")
    out = {"a file": str(image), "under a file": str(image / "deep" / "er")}.get(way, way)
    out = str(tmp_path / out) if way.startswith("x") else out
    before = sorted(tmp_path.rglob("*"))
    assert edit(image, out) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--out" in said and not loads
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_not_utf8(
    loads: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace is UTF-8 all the same, and names the file by an escape. (C10)"""
    image = tmp_path / os.fsdecode(b"caf\xe9.png")
    draw(tmp_path / "a.png").rename(image)
    out = tmp_path / os.fsdecode(b"out\xff")
    assert edit(image, out) == 0
    record = json.loads((out / "trace.json").read_bytes().decode("utf-8"))
    assert record["image"].endswith("caf\\udce9.png")
    assert edit(os.fsdecode(b"/nowhere/\xff.png"), out) == 2
    assert "error: " in capsys.readouterr().err


def test_a_run_that_fails_leaves_no_empty_files(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while the results are written. (C10)"""
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("evlm.files.pictures.os.fsync", full)
    assert edit(image, out) == 2
    assert not list(out.iterdir())


def run(words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    line = words.replace("EVLM", f"{sys.executable} -m evlm")
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, **more)


def test_a_reader_that_goes_away_and_a_full_disk_are_no_tracebacks() -> None:
    """`models | head -1` (C10)"""
    gone = run("EVLM models | true; echo ${PIPESTATUS[0]}")
    assert "Traceback" not in gone.stderr and "BrokenPipe" not in gone.stderr
    assert gone.stdout.split()[-1] in ("0", "141")
    full = run("EVLM models > /dev/full")
    assert full.returncode == 2 and "Traceback" not in full.stderr and full.stderr.startswith("error: ")
    closed = run("EVLM models --folder /nope 2>&-")
    assert closed.returncode == 2
    plain = run("EVLM models", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert plain.returncode == 0 and "qwen2-vl-7b" in plain.stdout


def test_a_run_that_was_killed_while_it_wrote_gets_its_names_again(tmp_path: Path) -> None:
    names, work = ["a.ply", "b.json"], tmp_path / "work"
    first = Outputs(str(tmp_path / "out")).claim_again(names, work)
    first[0].write_bytes(b"whole")  # and b.json is the empty file of a run that is no more
    again = Outputs(str(tmp_path / "out"))
    assert again.claim_again(names, work) == first
    assert [p.name for p in again.claim_again(names, tmp_path / "other")] == [
        "a-2.ply",
        "b-2.json",
    ]
    (work / CLAIMED).write_text('{"names": ["../../etc/a.ply", "b.json"], "replaced": false}')
    assert [p.name for p in again.claim_again(names, work)] == ["a-3.ply", "b-3.json"]


def test_a_folder_is_claimed_again_only_where_it_is_a_result(tmp_path: Path) -> None:
    names, work, outputs = ["edited", "b.json"], tmp_path / "work", Outputs(str(tmp_path / "out"))
    outputs.claim(names)
    second = outputs.claim_again(names, work)
    assert [path.name for path in second] == ["edited-2", "b-2.json"]
    second[0].unlink()
    second[0].mkdir()
    assert outputs.claim_again(names, work, lambda folder: folder == second[0]) == second
    third = outputs.claim_again(names, work, lambda folder: False)
    assert [path.name for path in third] == ["edited-3", "b-3.json"]
