"""`evlm edit --video` where the disk is full, where it is interrupted, and where the process is killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import write_video
from scripted import EditCommand, edit_command

from evlm.__main__ import main
from evlm.files import clip_writer, pictures

pytest.importorskip("av")
COUNT = 20
ROOT = Path(__file__).parents[3]
# A process of its own in which every part is real but the models.
CHILD = """
import sys
sys.path[:0] = {paths!r}
from scripted import Middle, Paints, Plans
from evlm.__main__ import main
from evlm.pipeline import Pipeline
Pipeline.load = lambda *_, **__: Pipeline(Plans(), Middle(), None, Paints())
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    return edit_command(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", "libx264", COUNT, sound=0.6, crf="4")


def words(source: Path, out: Path, *more: str) -> list[str]:
    return ["edit", "--video", str(source), "--prompt", "x", "--out", str(out), *more]


def files_of(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if "trace" not in name}  # it has seconds in it


def the_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize("codec", [pytest.param("h264", marks=pytest.mark.slow), "png"])
def test_a_disk_that_is_full_at_any_moment_leaves_what_was_there_and_says_so(
    edit: EditCommand,
    source: Path,
    tmp_path: Path,
    codec: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--codec", codec, "--max-frames", "10"]
    assert main(words(source, tmp_path / "whole", *more)) == 0
    assert main(words(source, tmp_path / "out", *more, "--steps", "2")) == 0
    earlier, wanted = files_of(tmp_path / "out"), files_of(tmp_path / "whole")
    fsync = os.fsync
    left = [-1]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(pictures.os, "fsync", full)
    capsys.readouterr()
    said: list[str] = []
    # So many writes until the disk is full: in plan and places, in a window, between them, in the results.
    for writes in (1, 3, 20, 2, 25, 4, 3, 40, 2, 3, 4, 60, 200):
        left[0] = writes
        if main(words(source, tmp_path / "out", *more)) == 0:
            break
        said.append(the_one_line(capsys))
        after = files_of(tmp_path / "out")
        assert {name: after.get(name) for name in earlier} == earlier
        assert not [name for name in after if name.endswith(".tmp")]
    assert 6 < len(said) < 13
    for line in said:
        assert "No space left on device" in line and str(tmp_path / "out") in line and "make room" in line
    after = files_of(tmp_path / "out")
    fresh = {name: data for name, data in after.items() if name not in earlier}
    assert sorted(fresh.values()) == sorted(wanted.values()) and not list((tmp_path / "out").glob(".evlm-*"))
    assert {"edited-2.mp4", "edited-2.frames/00000000.png"} & set(after)


def test_interrupted_while_the_clip_is_joined_the_earlier_one_is_whole_and_it_goes_on(
    edit: EditCommand, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(words(source, tmp_path / "out", "--steps", "2")) == 0
    assert main(words(source, tmp_path / "whole")) == 0
    earlier, wanted = files_of(tmp_path / "out"), files_of(tmp_path / "whole")
    packets = clip_writer._packets

    for number in (3, COUNT + 2):  # in the mask, in the clip
        left = [number]

        def stopped(*given: Any, left: list[int] = left) -> Any:
            for each in packets(*given):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                yield each

        monkeypatch.setattr(clip_writer, "_packets", stopped)
        capsys.readouterr()
        assert main(words(source, tmp_path / "out")) == 130
        assert "the same command goes on from there" in capsys.readouterr().err
        assert files_of(tmp_path / "out").items() >= earlier.items()
        assert {each.name for each in (tmp_path / "out").iterdir() if not each.name.startswith(".evlm-")} == {
            "edited.mp4", "mask.mp4", "sheet.png", "trace.json"
        }  # fmt: skip
    monkeypatch.setattr(clip_writer, "_packets", packets)
    asked = len(edit.requests)
    assert main(words(source, tmp_path / "out")) == 0 and len(edit.requests) == asked
    after = files_of(tmp_path / "out")
    assert {name: after[name.replace(".", "-2.")] for name in wanted} == wanted


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_file_that_may_not_grow_is_one_line(source: Path, tmp_path: Path) -> None:
    """The system's own refusal, which a full disk is, too."""
    import resource

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    command = [sys.executable, "-c", child(), *words(source, tmp_path / "out", "--codec", "ffv1")]
    done = subprocess.run(command, preexec_fn=little, capture_output=True, text=True, env=environment())
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(said) == 1 and "File too large" in said[0], done.stderr
    assert [path.name[:6] for path in (tmp_path / "out").iterdir()] == [".evlm-"]
    again = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert again.returncode == 0, again.stderr
    assert "edited.mkv" in files_of(tmp_path / "out")


def child() -> str:
    return CHILD.format(paths=[str(ROOT), str(ROOT / "tests" / "evlm" / "files")])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def killed(command: list[str], out: Path, pattern: str) -> None:
    """Starts the command and kills it, really, as soon as a file of this name is there."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT)
    try:
        while not any(out.glob(pattern)):
            assert process.poll() is None, f"it ended before {pattern} was there"
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_process_killed_at_several_moments_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    """With the bundled models."""
    source = write_video(tmp_path / "a.mp4", "libx264", COUNT, sound=0.6, crf="4")
    plan = {"instruction": "make the square blue", "targets": ["square"], "scope": "local"}
    trace = tmp_path / "plan.json"
    trace.write_text(json.dumps({"prompt": "blue", "trace": {"plan": plan}}))
    more = ["--plan", str(trace), "--anyway", "--propagate", "none", "--steps", "2"]
    command = [sys.executable, "-m", "evlm", *words(source, tmp_path / "whole", *more)]
    command = [
        word for at, word in enumerate(command) if word != "--prompt" and command[at - 1] != "--prompt"
    ]
    subprocess.run(command, check=True, env=environment(), cwd=ROOT)
    wanted = files_of(tmp_path / "whole")
    out = tmp_path / "out"
    command = [str(out) if word == str(tmp_path / "whole") else word for word in command]
    for pattern in ("plan.json", "places-*.npz", "window-00000000.mkv", "state-*", "window-*[1-9].mkv"):
        killed(command, out, f".evlm-*/{pattern}")
    subprocess.run(command, check=True, env=environment(), cwd=ROOT)
    assert files_of(out) == wanted
