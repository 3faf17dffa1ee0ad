"""`python -m evlm`: what it writes, what it says, and how it ends when something does not fit."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import BOX, SIZE, Paints, circle, pipeline, trace

from evlm.cli import demo, edit
from evlm.cli.main import main
from evlm.cli.terminal import Terminal, fail
from evlm.errors import Cancelled, RequestError
from evlm.files.pictures import load_mask, load_picture, save_picture
from evlm.pipeline import Event, Pipeline
from evlm.plan.trace import render
from evlm.request import load_example

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    save_picture(path, torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1)))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Small steps in place of the models; what `load` was given is kept."""
    given: dict[str, Any] = {}

    def load(models: Any, *rest: Any, **more: Any) -> Pipeline:
        given.update(models=models, rest=rest, more=more)
        return pipeline(given.get("trace", trace(circle())), BOX)

    monkeypatch.setattr(Pipeline, "load", load)
    monkeypatch.setattr(
        "evlm.models.zoo.choose", lambda names, folders=(): given.setdefault("names", names) and {}
    )
    return given


def test_edit_writes_picture_mask_trace_and_sheet(
    small: dict[str, Any], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(
        [
            "edit",
            "--image",
            str(picture),
            "--reference",
            str(picture),
            "--prompt",
            "like this",
            "--reference-text",
            "blue",
            "--out",
            str(out),
        ]
    )
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == ["edited.png", "mask.png", "sheet.png", "trace.json"]
    mask = load_mask(out / "mask.png")
    assert torch.equal(mask[0], circle())
    edited, original = load_picture(out / "edited.png"), load_picture(picture)
    assert torch.equal(edited[mask == 0], original[mask == 0])
    record = json.loads((out / "trace.json").read_text())
    assert record["trace"]["plan"]["instruction"] == "make the red circle blue"
    assert record["references"] == [str(picture), "blue"] and record["boxes"][0]["label"] == "red circle"
    shown = capsys.readouterr().err
    for word in ("thinking", "a circle", "no: blue", "make the red circle blue", "sheet.png", "together"):
        assert word in shown
    assert small["names"] == ["bundled"]


def test_a_global_edit_of_a_video_writes_animations(small: dict[str, Any], tmp_path: Path) -> None:
    small["trace"] = trace(scope="global")
    video = tmp_path / "v.webp"
    save_picture(video, torch.rand(3, SIZE, SIZE, 3), 10.0)
    assert main(["edit", "--image", str(video), "--prompt", "night", "--out", str(tmp_path / "o")]) == 0
    assert load_mask(tmp_path / "o" / "mask.webp").min() == 1
    assert (tmp_path / "o" / "edited.webp").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "nowhere.png", "--prompt", "x"], "nowhere.png"),
        (["--image", "PICTURE"], "nothing is asked"),
        (["--image", "PICTURE", "--prompt", "x", "--models", "no-such-model"], "no-such-model"),
        (["--image", "PICTURE", "--prompt", "x", "--models", "reasoner=sam2.1-tiny"], "not on this machine"),
        (["--image", "PICTURE", "--prompt", "x", "--reference", "nowhere.png"], "nowhere.png"),
        (["--image", "PICTURE", "--prompt", "x", "--models", "detector=none"], "no reasoner and no editor"),
        (["--image", "PICTURE", "--prompt", "x", "--models", "detector=none", "--endpoint", "http://x"],
         "--endpoint-model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_paragraph_and_exit_code_2(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    words = [str(picture) if word == "PICTURE" else word for word in arguments]
    assert main(["edit", *words, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and said in shown and "Traceback" not in shown
    assert not (tmp_path / "out").exists(), "nothing is written before everything fits"


def test_settings_of_the_command_line_stand_on_the_models_own(
    small: dict[str, Any], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    paint = Paints.edit

    def watched(self: Paints, *rest: Any, settings: Any = None, **more: Any) -> Any:
        seen.append(settings)
        return paint(self, *rest, settings=settings, **more)

    monkeypatch.setattr(Paints, "edit", watched)
    main(
        [
            "edit",
            "--image",
            str(picture),
            "--prompt",
            "x",
            "--guidance",
            "4",
            "--seed",
            "7",
            "--out",
            str(tmp_path),
        ]
    )
    assert (seen[0].steps, seen[0].guidance, seen[0].seed) == (3, 4, 7)


def test_models_and_doctor_work_with_nothing_installed_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "qwen2-vl-7b" in listed and "Apache-2.0" in listed and "instruct-pix2pix" in listed
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for word in ("torch", "sam2", "bitsandbytes", "cores", "reasoner"):
        assert word in report


def test_an_unpinned_download_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--download", "someone/model", "--folder", str(tmp_path)]) == 2
    assert "no pinned revision" in capsys.readouterr().err


def test_an_address_is_not_taken_for_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was said as "https:/example.org/a.png: no such file"."""
    assert main(["edit", "--image", "https://example.org/a.png", "--out", str(tmp_path / "out")]) == 2
    assert "'https://example.org/a.png'" in (said := capsys.readouterr().err) and "download it first" in said


@pytest.mark.slow
def test_a_run_says_no_warning_of_a_library_and_no_dict(picture: Path, tmp_path: Path) -> None:
    """(C19) By the real models, in a process of its own: FutureWarnings and "Loading weights" came first."""
    words = [
        "--image",
        str(picture),
        "--prompt",
        "make it rain",
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "1",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "evlm", "edit", *words], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert run.returncode in (0, 3), run.stderr
    for noise in ("Warning", "warnings.warn", "Loading weights", "Token indices", "deprecated", "{'", '{"'):
        assert noise not in run.stderr + run.stdout
    assert "the bundled models know a small drawn world" in run.stderr, "a photograph needs others"


def test_writing_a_large_picture_is_said_before_it_is_done(
    small: dict[str, Any],
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """(C19) 24 million pixels: many seconds in which nothing was said."""
    shown: list[str] = []
    write = edit.write_edited

    def slow(*rest: Any) -> Any:
        shown.append(capsys.readouterr().err)
        return write(*rest)

    monkeypatch.setattr(edit, "write_edited", slow)
    for name, least in (("small", SIZE * SIZE + 1), ("large", SIZE * SIZE)):
        monkeypatch.setattr("evlm.cli.edit.LARGE", least)
        assert main(["edit", "--image", str(picture), "--prompt", "x", "--out", str(tmp_path / name)]) == 0
    assert ["writing " in each for each in shown] == [False, True]
    assert f"edited.png: {SIZE} x {SIZE} pixels" in shown[1]


def test_the_module_runs_as_a_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "evlm", "edit", "--image", "x.png", "--out", "o"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 2 and run.stderr.startswith("error: x.png") and "Traceback" not in run.stderr
    helped = subprocess.run(
        [sys.executable, "-m", "evlm", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert helped.returncode == 0 and "doctor" in helped.stdout


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_terminal_streams_words_whole_however_they_arrive() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.event(Event("reason", "start"))
    for letter in render(trace(circle())):
        terminal.event(Event("reason", "text", letter))
    terminal.event(Event("reason", "end", "done"))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["thinking", "a", "circle"],
        ["intermediate", "make", "it", "green"],
        ["reflection", "no:", "blue"],
        ["reason", "done"],
    ]


def test_a_bar_moves_only_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    watched, piped = Screen(), io.StringIO()
    for out in (watched, piped):
        terminal = Terminal(out)
        terminal.event(Event("edit", "progress", done=1, total=2))
        terminal.event(Event("edit", "end", "done"))
    assert "1/2" in watched.getvalue() and "\033[1m" in watched.getvalue()
    assert piped.getvalue() == "edit      done\n"


def test_a_shorter_bar_leaves_nothing_of_a_longer_one() -> None:
    screen = Screen()
    terminal = Terminal(screen)
    terminal.bar("edit", 8, 9, " frames, 1 min 20 s left")
    terminal.bar("edit", 9, 9, " frames")
    line = ""
    for text in screen.getvalue().split("\r")[1:]:  # as a terminal does it
        shown, _, cleared = text.partition("\033[K")
        line = shown if "\033[K" in text else shown + line[len(shown) :]
        assert cleared == ""
    assert line.endswith("9/9 frames")


def test_errors_are_wrapped_where_a_person_watches_and_one_line_elsewhere() -> None:
    """A path is never broken: neither in a log, nor at its hyphens on a screen. (C19)"""
    path = "/a/" + "-".join(["long-name"] * 30) + "/x y.png"
    watched, piped = Screen(), io.StringIO()
    assert fail("word " * 60 + path, watched) == fail("word " * 60 + path, piped) == 2
    assert sorted(map(len, watched.getvalue().splitlines()))[-2] <= 100
    assert path.split()[0] in watched.getvalue().split()
    assert path in piped.getvalue() and piped.getvalue().count("\n") == 1


# The demo, with the same small steps


def write_example(folder: Path, picture: Path, name: str, **fields: Any) -> None:
    row = {"title": name, "image": str(picture.name), "prompt": "like this", "references": [], **fields}
    (folder / f"{name}.json").write_text(json.dumps(row))


def test_the_demo_draws_every_example(
    small: dict[str, Any],
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_example(
        picture.parent, picture, "one", references=[{"kind": "image", "path": "a.png", "note": "colour"}]
    )
    write_example(picture.parent, picture, "two", references=[{"kind": "text", "text": "blue"}])
    monkeypatch.setattr(demo, "EXAMPLES", picture.parent)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path / "in")
    assert demo.main("~/deep/demo.png") == 0  # as of --out=~/deep/demo.png, which no shell expands
    assert load_picture(tmp_path / "deep" / "demo.png").shape[1] > 2 * 256
    shown = capsys.readouterr().out
    assert shown.count("make the red circle blue") == 2 and "Everything together took" in shown


def test_the_demo_without_models_or_examples_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EXAMPLES", tmp_path)
    assert demo.main(tmp_path / "demo.png") == 2
    assert not (tmp_path / "demo.png").exists()


BROKEN = [
    "[]",
    "{",
    '{"title": "x"}',
    '{"title":"x","image":"a.png","prompt":3}',
    '{"title":"x","image":"a.png","prompt":"","references":[{"kind":"smell"}]}',
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_example_is_a_request_error(picture: Path, broken: str) -> None:
    path = picture.parent / "x.json"
    path.write_text(broken)
    with pytest.raises(RequestError):
        load_example(path)


def test_interrupting_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("evlm.cli.doctor.run", stop)
    assert main(["doctor"]) == 130
    assert not issubclass(Cancelled, ValueError)
