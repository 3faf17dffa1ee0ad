"""`evlm edit --video`: a clip comes out as a clip, and a run that was stopped goes on with the same bytes."""

from __future__ import annotations

import io
import json
import random
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import draw, write_video
from scripted import PAINT, EditCommand, edit_command

from evlm.__main__ import main
from evlm.cli import clip_progress
from evlm.cli.terminal import Terminal
from evlm.clips import frames as clip_frames
from evlm.files import pictures
from evlm.files.clip_writer import write_clip
from evlm.files.clips import read_clip
from evlm.files.lock import holding
from evlm.files.pictures import save_picture

av = pytest.importorskip("av")
NTSC = Fraction(30000, 1001)
COUNT = 20


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    return edit_command(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "a.mp4"
    return write_video(path, "libx264", COUNT, rate=NTSC, sound=0.6, crf="4")


def run(edit: EditCommand, video: Path, *more: str, out: Path | None = None) -> int:
    return main(["edit", "--video", str(video), "--prompt", "x", *more, "--out", str(out or edit.out)])


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def files_of(folder: Path) -> dict[str, bytes]:
    found = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    found.pop("trace.json", None)  # it has seconds in it
    return found


def test_a_lossless_clip_is_the_file_outside_the_mask(edit: EditCommand, source: Path) -> None:
    assert run(edit, source, "--codec", "ffv1") == 0
    assert sorted(each.name for each in edit.out.iterdir()) == [
        "edited.mkv",
        "mask.mkv",
        "sheet.png",
        "trace.json",
    ]
    before, after = read_clip(source), read_clip(edit.out / "edited.mkv")
    mask = read_clip(edit.out / "mask.mkv").frames[..., 0] >= 0.5
    assert after.rate == NTSC and len(after.frames) == len(before.frames) == len(mask) == COUNT
    assert torch.equal(after.frames[~mask], before.frames[~mask])
    assert (after.frames[mask] - torch.tensor(PAINT)).abs().max() < 1 / 255 and bool(mask[:, 24, 32].all())
    assert sound_of(edit.out / "edited.mkv") == sound_of(source)
    trace = json.loads((edit.out / "trace.json").read_text())
    assert trace["clip"]["times"] == [str(time) for time in before.times or ()]
    assert trace["size"] == [COUNT, 48, 64] and trace["clip"]["sound_kept"]
    assert len(edit.requests[0].original) == 8


def test_by_default_it_is_an_mp4_with_the_same_times_and_sound(edit: EditCommand, source: Path) -> None:
    assert run(edit, source) == 0
    after = read_clip(edit.out / "edited.mp4")
    assert after.durations == read_clip(source).durations and after.rate == NTSC
    assert sound_of(edit.out / "edited.mp4") == sound_of(source)
    assert run(edit, source) == 0 and (edit.out / "edited-2.mp4").is_file()


def test_of_a_plan_that_is_not_sure_enough_only_the_trace_is_written(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from evlm.clips.job import ClipJob

    says = ClipJob.reason

    def unsure(job: ClipJob) -> Any:
        said = says(job)
        plan = replace(said.trace.plan, confidence=0.25)
        return replace(said, trace=replace(said.trace, plan=plan))

    monkeypatch.setattr(ClipJob, "reason", unsure)
    assert run(edit, source, "--ask-below", "0.6") == 3
    assert capsys.readouterr().err.rstrip().endswith("or lower --ask-below")
    assert [path.name for path in edit.out.iterdir()] == ["trace.json"]
    assert run(edit, source, "--ask-below", "0.2") == 0


def test_some_frames_without_sound_as_pictures(edit: EditCommand, source: Path) -> None:
    assert run(edit, source, "--frames", "3:18:2", "--max-frames", "5", "--no-audio", "--codec", "png") == 0
    after = read_clip(edit.out / "edited.frames").frames
    assert torch.equal(after[:, 0], read_clip(source).frames[3:12:2, 0]) and len(after) == 5
    assert len(read_clip(edit.out / "mask.frames").frames) == 5


def test_uneven_times_and_a_turned_picture(edit: EditCommand, tmp_path: Path) -> None:
    from clip_maker import corners, set_matrix

    path = write_video(
        tmp_path / "v.mp4", "libx264", 5, pts=[0, 1, 4, 5, 9], rate=10, base=Fraction(1, 100), crf="4"
    )
    set_matrix(path, (0, 1, -1, 0))
    assert run(edit, path, "--codec", "ffv1") == 0
    before, after = read_clip(path), read_clip(edit.out / "edited.mkv")
    assert after.frames.shape == before.frames.shape == (5, 64, 48, 3) and after.times == before.times
    assert corners(after.frames[0].numpy()) == corners(before.frames[0].numpy())


class _Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_with_the_same_bytes(
    edit: EditCommand, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    """A kill is before, in or behind the writing of a file: everything that a run leaves goes through it."""
    assert run(edit, source, out=tmp_path / "whole") == 0
    replace = pictures.os.replace
    moments: list[int] = []

    def counting(*paths: Any) -> None:
        moments.append(1)
        replace(*paths)

    monkeypatch.setattr(pictures.os, "replace", counting)
    assert run(edit, source, out=tmp_path / "counted") == 0
    wanted = files_of(tmp_path / "whole")
    assert files_of(tmp_path / "counted") == wanted and len(moments) > 20
    choice = random.Random(0)
    for number, moment in enumerate(choice.sample(range(len(moments)), kills)):
        left, behind = [moment], choice.random() < 0.5

        def killing(*paths: Any, left: list[int] = left, behind: bool = behind) -> None:
            left[0] -= 1
            if left[0] < 0 and not behind:
                raise _Killed
            replace(*paths)
            if left[0] < 0:
                raise _Killed

        out = tmp_path / f"killed-{number}"
        monkeypatch.setattr(pictures.os, "replace", killing)
        with pytest.raises(_Killed):
            run(edit, source, out=out)
        monkeypatch.setattr(pictures.os, "replace", replace)
        asked = len(edit.requests)
        assert run(edit, source, out=out) == 0
        assert moment < 1 or len(edit.requests) == asked  # the plan is not made again
        assert files_of(out) == wanted
        assert not list(out.glob(".evlm-*"))


def test_interrupted_it_says_that_it_goes_on(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = clip_frames.FileFrames.read

    def interrupted(self: Any, start: int, stop: int) -> Any:
        if start >= 10:
            raise KeyboardInterrupt
        return read(self, start, stop)

    monkeypatch.setattr(clip_frames.FileFrames, "read", interrupted)
    assert run(edit, source) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert [each.name[:6] for each in edit.out.iterdir()] == [".evlm-"]
    monkeypatch.setattr(clip_frames.FileFrames, "read", read)
    folder = next(edit.out.glob(".evlm-*"))
    assert next(folder.glob("state-*")).is_file()
    there = files_of(folder)
    with holding(folder):  # it seemed to hang, and was started again
        assert run(edit, source) == 2
    assert "the same command is at work already (process" in capsys.readouterr().err
    assert files_of(folder).keys() - {"lock"} == there.keys() - {"lock"}
    assert run(edit, source) == 0 and not folder.exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--image", "a.png", "--codec", "ffv1"], "--codec is for --video"),
        (["--image", "a.png", "--no-audio"], "is for --video"),
        (["--image", "a.png", "--video", "a.mp4"], "not allowed with argument"),
        (["--video", "gone.mp4"], "gone.mp4: no such file"),
        (["--video", "SOURCE", "--frames", "90:"], "nothing is left to take"),
        (["--video", "SOURCE", "--codec", "h266"], "invalid choice"),
        (["--video", "SOURCE", "--max-frames", "0"], "a whole number from 1"),
        (
            ["--video", "SOURCE", "--keyframes", "0,20"],
            "--keyframes 20: 20 frames are taken of the clip, 0 to 19",
        ),
        (["--video", "SOURCE", "--keyframes", "0"], "such as 0,40,80"),
        (["--video", "SOURCE", "--keyframes", "4", "--propagate", "none"], "leave one out"),
        (["--image", "a.png", "--propagate", "flow"], "--propagate is for --video"),
        (["--video", "SOURCE", "--mask-frame", "3"], "one picture of --mask is, and there is none"),
        (["--video", "SOURCE", "--mask", "SOURCE", "--mask-frame", "3"], "has one for each frame"),
        (
            ["--video", "SOURCE", "--mask", "MASK", "--mask-frame", "20"],
            "frames 0 to 19 are taken of the clip",
        ),
        (["--image", "a.png", "--mask", "MASK", "--mask-frame", "0"], "--mask-frame is for --video"),
        (["--video", "TEXT"], "text.mp4"),
        (["--video", "SOUND"], "sound.mp4: it has no video in it"),
    ],
)
def test_what_does_not_fit_is_one_line(
    edit: EditCommand,
    source: Path,
    tmp_path: Path,
    more: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.mp4").write_text("no clip " * 99)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        tone = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux([*tone.encode(frame), *tone.encode()])
    save_picture(tmp_path / "mask.png", torch.ones(1, 48, 64, 3))
    names = {
        "SOURCE": source,
        "MASK": tmp_path / "mask.png",
        "TEXT": tmp_path / "text.mp4",
        "SOUND": tmp_path / "sound.mp4",
    }
    words = [str(names.get(word, word)) for word in more]
    assert main(["edit", *words, "--prompt", "x", "--out", str(edit.out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert why in said[-1] and said[-1].startswith("error: ")
    assert not edit.out.exists() or not list(edit.out.iterdir())


@pytest.mark.parametrize("more", [["--mask-frame", "4"], ["--track", "flow"], []])
def test_a_mask_of_one_frame_goes_along(edit: EditCommand, tmp_path: Path, more: list[str]) -> None:
    """Without a word about its frame it is the same in all of them."""
    ground, thing = torch.rand(2, 6, 8, 3, generator=torch.Generator().manual_seed(1)).unbind()
    ground, thing = (each.repeat_interleave(8, 0).repeat_interleave(8, 1) for each in (ground * 0.5, thing))
    frames, on = ground.expand(9, -1, -1, -1).clone(), torch.zeros(9, 48, 64)
    for frame in range(9):
        x = 4 + 3 * frame
        frames[frame, 12:36, x : x + 24], on[frame, 12:36, x : x + 24] = thing[:24, :24], 1
    write_clip(tmp_path / "a.mkv", (frames * 255).round() / 255, "ffv1")
    given = 4 if "--mask-frame" in more else 0
    save_picture(tmp_path / "mask.png", on[given : given + 1, ..., None].expand(-1, -1, -1, 3))
    assert run(edit, tmp_path / "a.mkv", "--mask", str(tmp_path / "mask.png"), "--codec", "ffv1", *more) == 0
    found = read_clip(edit.out / "mask.mkv").frames[..., 0] >= 0.5
    if not more:
        assert torch.equal(found, (on[:1] > 0).expand(9, -1, -1))
        return
    assert torch.equal(found[given], on[given] > 0)
    both = [(a, b > 0) for a, b in zip(found, on, strict=True)]
    assert min(float((a & b).sum() / (a | b).sum()) for a, b in both) > 0.9
    notes = json.loads((edit.out / "trace.json").read_text())["notes"]
    assert any(f"is of frame {given} and is followed along the motion" in note for note in notes)


def test_one_frame_and_an_animation_are_clips_too(edit: EditCommand, tmp_path: Path) -> None:
    from evlm.files.clips import save_animation

    one = write_video(tmp_path / "one.mp4", "libx264", 1)
    assert run(edit, one) == 0 and len(read_clip(edit.out / "edited.mp4").frames) == 1
    frames = torch.from_numpy(np.stack([draw(each) for each in range(3)])).float() / 255
    save_animation(tmp_path / "a.gif", frames, durations=[Fraction(1, 10), Fraction(1, 5), Fraction(1, 10)])
    assert run(edit, tmp_path / "a.gif", "--codec", "ffv1", out=tmp_path / "gif") == 0
    durations = read_clip(tmp_path / "gif" / "edited.mkv").durations
    assert durations == (Fraction(1, 10), Fraction(1, 5), Fraction(1, 10))


def test_what_was_done_to_the_frames_is_said_also_where_a_run_goes_on(
    edit: EditCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How pixels are read is known with the first frame, that a file is cut off with its last."""
    from evlm.clips.job import ClipJob

    whole = write_video(tmp_path / "a.mkv", "libx264", 20, sar=Fraction(8, 9), g="1", bf="0")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 4 // 5])
    write = ClipJob.write

    def killed(*_: Any) -> Any:
        raise _Killed

    monkeypatch.setattr(ClipJob, "write", killed)
    with pytest.raises(_Killed):
        run(edit, cut)
    said = capsys.readouterr().err
    assert "not square" in said and "cut off" in said
    monkeypatch.setattr(ClipJob, "write", write)
    assert run(edit, cut) == 0
    notes = json.loads((edit.out / "trace.json").read_text())["notes"]
    assert sum("not square" in note for note in notes) == sum("cut off" in note for note in notes) == 1


def test_a_frame_written_anew_in_its_folder_begins_again(edit: EditCommand, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for at in range(3):
        pictures.save_picture(folder / f"{at}.png", torch.from_numpy(draw(at)).float() / 255)
    assert run(edit, folder, "--until", "plan") == 0
    (before,) = edit.out.glob(".evlm-*")
    assert run(edit, folder, "--until", "plan", "--overwrite") == 0
    assert list(edit.out.glob(".evlm-*")) == [before]
    held = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(held)  # the folder does not change by it
    assert run(edit, folder, "--until", "plan", "--overwrite") == 0
    assert len(list(edit.out.glob(".evlm-*"))) == 2


def test_what_a_killed_write_has_left_beside_the_results_goes(edit: EditCommand, source: Path) -> None:
    edit.out.mkdir()
    left = edit.out / ".edited.mp4.0123456789abcdef.tmp"
    other = edit.out / ".edited-2.mp4.0123456789abcdef.tmp"
    for each in (left, other):
        each.write_bytes(b"x")
    assert run(edit, source) == 0
    assert not left.exists() and other.exists()


def test_a_bar_moves_while_the_first_window_is_painted_and_lines_come_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(clip_progress, "EVERY", 0.0)
    watched, piped = Screen(), io.StringIO()
    for out in (watched, piped):
        progress = clip_progress.Progress(Terminal(out))
        progress("places", 12, 12)
        progress.step(3, 240, None)
        progress("edit", 8, 12)
        progress.step(161, 240, None)
    bars = [text.partition("] ")[2] for text in watched.getvalue().replace("\033[K", "").split("\r")[1:]]
    assert bars == ["12/12 frames", "3/240 steps", "8/12 frames", "8/12 frames (step 161 of 240)"]
    lines = piped.getvalue().splitlines()
    assert lines[1] == "paint     step 3 of 240" and lines[3] == "paint     step 161 of 240"


def test_a_clip_says_each_step_of_its_painting(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlm.clips.job import ClipJob

    heard: list[object] = []
    paint = ClipJob.paint

    def painted(job: ClipJob, *given: Any) -> None:
        heard.append(job.on_step)
        paint(job, *given)

    monkeypatch.setattr(ClipJob, "paint", painted)
    assert run(edit, source, "--max-frames", "2") == 0 and len(heard) == 1 and callable(heard[0])
