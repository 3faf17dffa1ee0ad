"""`evlm edit --video` where a disk or a codec refuses: each reason in one line with its own remedy; and what
`--until` leaves where it is stopped."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import write_video
from scripted import EditCommand, edit_command

from evlm.__main__ import main
from evlm.cli import outputs
from evlm.files import clip_codecs, clips, pictures

pytest.importorskip("av")
COUNT = 10


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    return edit_command(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", "libx264", COUNT, crf="4")


def run(source: Path, out: Path, *more: str) -> int:
    return main(["edit", "--video", str(source), "--prompt", "x", "--out", str(out), *more])


def the_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


REASONS = [
    (errno.ENOSPC, "make room"),
    (errno.EDQUOT, "quota"),
    (errno.EFBIG, "ulimit -f"),
    (errno.EACCES, "allow writing there"),
    (errno.EROFS, "mount it for writing"),
    (errno.ENOENT, "bring it back"),
    (errno.EIO, "whole and connected"),
    (errno.EMFILE, "ulimit -n"),
]


@pytest.mark.parametrize(("number", "remedy"), REASONS)
def test_each_refusal_of_a_disk_has_its_own_remedy(
    edit: EditCommand,
    source: Path,
    number: int,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fsync, left = os.fsync, [0]

    def refuses(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(pictures.os, "fsync", refuses)
    for writes in (1, 6, 16) if number == errno.EACCES else (3,):  # the plan, a window, the results
        left[0] = writes
        assert run(source, edit.out) == 2
        said = the_one_line(capsys)
        assert str(edit.out) in said and f"cannot be written ({os.strerror(number)})" in said
        assert remedy in said and said.endswith(("the same command goes on from there", "run it again"))
        assert ("make room" in said) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_a_file_that_is_read_is_not_called_unwritten(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/models/weights")

    monkeypatch.setattr("evlm.clips.job.ClipJob.places", gone)
    assert run(source, edit.out) == 2
    said = the_one_line(capsys)
    assert said.startswith(
        "error: /models/weights: cannot be read (No such file or directory); bring it back"
    )


def test_an_encoder_that_refuses_is_named_and_is_no_full_disk(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = clip_codecs.CODECS["h264"]
    monkeypatch.setitem(codec.options, "x264-params", "level=nonsense:ref=-3:keyint=x")
    monkeypatch.setitem(codec.options, "preset", "nonsense")
    assert run(source, edit.out) == 2
    said = the_one_line(capsys)
    assert (
        f"FFmpeg's {codec.encoder} failed" in said and "choose another codec" in said and "room" not in said
    )


def test_the_clip_s_pieces_taken_away_are_said(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evlm.clips.job.join_segments", stopped)
    assert run(source, edit.out) == 130
    monkeypatch.undo()
    (work,) = edit.out.glob(".evlm-*")
    for each in work.glob("*.mkv"):
        each.unlink()
    edit_command(edit.out.parent, monkeypatch)
    assert run(source, edit.out) == 2
    said = the_one_line(capsys)
    assert f"{work}: what was painted was taken out of it; remove that folder" in said


@pytest.mark.parametrize(("overwrite", "moments"), [(False, [1, 4]), (True, range(8))])
def test_stopped_by_until_and_interrupted_there_is_everything_or_nothing(
    edit: EditCommand,
    source: Path,
    tmp_path: Path,
    overwrite: bool,
    moments: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    more = ["--until", "mask", *(["--overwrite"] if overwrite else [])]

    def results() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in out.iterdir() if each.is_file()}

    assert run(source, out, *more, "--steps", "2") == 0
    earlier = results()
    assert set(earlier) == {"mask.mp4", "trace.json"}
    rename = os.rename
    for moment in moments:
        left, behind = [moment // 2], bool(moment % 2)

        def interrupted(*paths: Any, left: list[int] = left, behind: bool = behind) -> None:
            left[0] -= 1
            if left[0] == -1 and not behind:
                raise KeyboardInterrupt
            rename(*paths)
            if left[0] == -1 and behind:
                raise KeyboardInterrupt

        monkeypatch.setattr(outputs.os, "rename", interrupted)
        assert run(source, out, *more) == 130
        monkeypatch.setattr(outputs.os, "rename", rename)
        assert results() == earlier
    assert run(source, out, *more) == 0
    names = ["mask.mp4", "trace.json"] if overwrite else ["mask-2.mp4", "trace-2.json"]
    assert set(results()) == set(earlier) | set(names)
    assert results()[names[1]] != earlier["trace.json"]


def test_killed_while_until_gives_its_names_no_trace_is_there(
    edit: EditCommand, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody catches SIGKILL: what is there then is never a trace without its mask."""
    assert run(source, tmp_path / "out", "--until", "mask") == 0
    rename, seen = os.rename, []

    def watched(*paths: Any) -> None:
        rename(*paths)
        there = {each.name for each in (tmp_path / "out").iterdir() if each.is_file()}
        seen.append("trace.json" in there)
        assert "trace.json" not in there or "mask.mp4" in there

    monkeypatch.setattr(outputs.os, "rename", watched)
    assert run(source, tmp_path / "out", "--until", "mask", "--overwrite") == 0
    assert seen == [False, False, False, True]


def test_a_folder_of_frames_is_written_anew(
    edit: EditCommand, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--codec", "png", "--overwrite"]
    out = tmp_path / "out"
    for count in (4, 6):
        assert run(source, out, *more, "--max-frames", str(count)) == 0
        assert len(clips.read_clip(out / "edited.frames").frames) == count
    (out / "mask.frames" / "notes.txt").write_text("mine")
    assert run(source, out, *more) == 2
    assert "mask.frames is a folder" in the_one_line(capsys)
    assert not list(out.glob(".evlm-*"))


def _stopped_while_writing(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[Path, dict[str, Any]]:
    """(the note with the names that a killed run has taken, what it says)."""

    def killed(*_: Any, **__: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("evlm.clips.job.join_segments", killed)
        with pytest.raises(_Killed):
            run(source, edit.out, *more)
    (note,) = edit.out.glob(".evlm-*/names.json")
    return note, json.loads(note.read_text())


class _Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


NAMES = ["edited.mp4", "mask.mp4", "trace.json", "sheet.png"]
NOTED: dict[str, Any] = {
    "out of the folder": {"names": ["../precious.mp4", *NAMES[1:]], "replaced": False},
    "somewhere else": {"names": ["/tmp/evlm-precious.mp4", *NAMES[1:]], "replaced": False},
    "another file": {"names": ["precious.mp4", *NAMES[1:]], "replaced": False},
    "another number each": {"names": ["edited-7.mp4", *NAMES[1:]], "replaced": False},
    "a number nobody gives": {"names": [f"{n[:-4]}-0{n[-4:]}" for n in NAMES], "replaced": False},
    "too few": {"names": NAMES[:3], "replaced": False},
    "no text": {"names": [1, 2, 3, 4], "replaced": False},
    "a list, as it was once": NAMES,
    "nothing": None,
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("what", NOTED)
def test_names_in_a_note_that_are_none_of_ours_are_not_written(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    note, said = _stopped_while_writing(edit, source, monkeypatch)
    assert said == {"names": NAMES, "replaced": False}
    precious = [edit.out.parent / "precious.mp4", edit.out / "precious.mp4", edit.out / "edited-7.mp4"]
    for path in precious:
        path.write_text("mine")
    noted = NOTED[what]
    note.write_text(noted if isinstance(noted, str) else json.dumps(noted))
    assert run(source, edit.out) == 0
    assert all(path.read_text() == "mine" for path in precious)
    assert not Path("/tmp/evlm-precious.mp4").exists()
    made = {path.name for path in edit.out.iterdir() if path.stat().st_size}
    made -= {path.name for path in precious}
    assert made == {"edited-2.mp4", "mask-2.mp4", "trace-2.json", "sheet-2.png"}


@pytest.mark.parametrize("stands", ["a link", "a folder", "nothing"])
def test_a_claimed_name_at_which_something_else_stands_now_is_given_up(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch, stands: str
) -> None:
    """Of a name that was only taken away, the others still hold the number."""
    _stopped_while_writing(edit, source, monkeypatch)
    claimed, elsewhere = edit.out / "edited.mp4", edit.out.parent / "elsewhere.mp4"
    elsewhere.write_text("mine")
    claimed.unlink()
    if stands == "a link":
        claimed.symlink_to(elsewhere)
    elif stands == "a folder":
        claimed.mkdir()
    assert run(source, edit.out) == 0
    assert elsewhere.read_text() == "mine"
    number = "" if stands == "nothing" else "-2"
    assert all((edit.out / f"{stem}{number}.{end}").stat().st_size for stem, end in map(_parts, NAMES))


def _parts(name: str) -> list[str]:
    return name.split(".")


def test_what_a_run_might_replace_the_same_without_overwrite_does_not(
    edit: EditCommand, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit.out.mkdir()
    (edit.out / "edited.mp4").write_text("mine")
    _, said = _stopped_while_writing(edit, source, monkeypatch, "--overwrite")
    assert said == {"names": NAMES, "replaced": True}
    assert run(source, edit.out) == 0
    assert (edit.out / "edited.mp4").read_text() == "mine" and (edit.out / "edited-2.mp4").stat().st_size
