"""`--until keyframes` gives a clip's painted keyframes out, `--keyframes FOLDER` takes them back, edited."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import write_video
from scripted import Middle, Plans

from evlm.__main__ import main
from evlm.clips.handed import KEYS_FILE, HandedKeys
from evlm.errors import PictureError
from evlm.files.clips import read_clip
from evlm.files.pictures import load_picture, save_picture
from evlm.pipeline import Pipeline
from evlm.video.handed_out import digest_of
from evlm.video.windows import WindowPainter

pytest.importorskip("av")
COUNT = 20
KEYS = [0, 16, 19]
EDGE = 4  # pixels of the rim in which an edit fades in


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_ip2p.load(
        tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", "libx264", COUNT, sound=0.6, crf="4")


@pytest.fixture
def plans(editor: Any, monkeypatch: pytest.MonkeyPatch) -> Plans:
    plans = Plans()
    load: Callable[..., Pipeline] = lambda *_, **__: Pipeline(plans, Middle(), None, editor)  # noqa: E731
    monkeypatch.setattr(Pipeline, "load", load)
    return plans


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each painting had."""
    found: list[int] = []
    paint = WindowPainter.paint

    def counting(self: Any, work: Any, held: Any) -> Any:
        found.append(len(work.which))
        return paint(self, work, held)

    monkeypatch.setattr(WindowPainter, "paint", counting)
    return found


def run(source: Path, out: Path, *more: str) -> int:
    said = ["--prompt", "x", "--steps", "1", "--codec", "ffv1", "--propagate", "flow"]
    return main(["edit", "--video", str(source), *said, *more, "--out", str(out)])


def test_keyframes_come_out_are_edited_and_go_back_in(
    plans: Plans, painted: list[int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--until", "keyframes") == 0
    assert f"with --keyframes {out / 'keyframes'} in its place" in capsys.readouterr().err
    folder = out / "keyframes"
    assert sorted(each.name for each in folder.iterdir()) == [*(f"{k:08}.png" for k in KEYS), KEYS_FILE]
    assert {each.name for each in out.iterdir() if each.name[0] != "."} == {
        "keyframes",
        "mask.mkv",
        "trace.json",
    }
    before, mask = read_clip(source), read_clip(out / "mask.mkv").frames[..., 0] >= 0.5
    keys = HandedKeys.read(folder).keys
    assert keys.indices == tuple(KEYS) and keys.times == tuple((before.times or ())[key] for key in KEYS)
    assert (keys.count, keys.height, keys.width) == (COUNT, 48, 64)
    assert keys.source == digest_of(before.frames[KEYS])
    assert painted == [len(KEYS)]

    for key in KEYS:  # somebody else paints them
        picture = load_picture(folder / f"{key:08}.png")
        save_picture(folder / f"{key:08}.png", torch.tensor((0.2, 0.6, 0.4)).expand_as(picture))
    assert run(source, out, "--keyframes", str(folder)) == 0
    assert painted == [len(KEYS)] and len(plans.requests) == 1  # neither painted nor reasoned again
    after = read_clip(out / "edited-2.mkv")
    assert after.durations == before.durations and len(after.frames) == COUNT
    assert torch.equal(after.frames[~mask], before.frames[~mask])
    inner = (slice(None), slice(12 + EDGE, 36 - EDGE), slice(16 + EDGE, 48 - EDGE))
    assert (after.frames[inner] - torch.tensor((0.2, 0.6, 0.4))).abs().max() < 0.02
    (work,) = out.glob(".evlm-*")  # plan, masks and painted keyframes are the plain command's
    assert not list(work.glob("handed-*"))


def test_shades_of_handed_keyframes_are_evened_out_where_it_is_asked_for(
    plans: Plans, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--until", "keyframes") == 0
    folder, given = out / "keyframes", {}
    for number, key in enumerate(KEYS):
        shade = torch.tensor((0.2, 0.6, 0.4)) + 0.1 * number
        picture = load_picture(folder / f"{key:08}.png")
        save_picture(folder / f"{key:08}.png", shade.expand_as(picture))
        given[key] = (folder / f"{key:08}.png").read_bytes()
    assert run(source, out, "--keyframes", str(folder)) == 0
    assert run(source, out, "--keyframes", str(folder), "--one-look") == 0
    before = read_clip(source).frames
    mask = read_clip(out / "mask.mkv").frames[..., 0] >= 0.5
    steps = []
    for name in ("edited-2.mkv", "edited-3.mkv"):
        after = read_clip(out / name).frames
        assert torch.equal(after[~mask], before[~mask])
        means = torch.stack([after[key][mask[key]].mean() for key in KEYS])
        steps.append(float(means.max() - means.min()))
    assert steps[1] < 0.5 * steps[0]
    assert {key: (folder / f"{key:08}.png").read_bytes() for key in KEYS} == given
    assert not list(next(out.glob(".evlm-*")).glob("handed-*"))
    capsys.readouterr()
    assert run(source, out, "--one-look") == 2
    assert "--one-look evens out edited keyframes: give their folder" in capsys.readouterr().err


@pytest.mark.slow  # handed back they go on above and below
def test_without_until_the_run_goes_on_with_the_same_keyframes(
    plans: Plans, painted: list[int], source: Path, tmp_path: Path
) -> None:
    assert run(source, tmp_path / "whole") == 0
    assert run(source, tmp_path / "out", "--until", "keyframes") == 0
    painted.clear()
    assert run(source, tmp_path / "out") == 0
    assert painted == []
    wanted = (tmp_path / "whole" / "edited.mkv").read_bytes()
    assert (tmp_path / "out" / "edited-2.mkv").read_bytes() == wanted
    edited = read_clip(tmp_path / "whole" / "edited.mkv").frames
    for key in KEYS:
        shown = load_picture(tmp_path / "out" / "keyframes" / f"{key:08}.png")[0]
        assert torch.equal(shown, edited[key])


class _Killed(BaseException):
    pass


def test_handed_back_it_is_resumed_window_by_window_and_beside_the_other_run(
    plans: Plans, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlm.clips import job

    out = tmp_path / "out"
    assert run(source, out, "--until", "keyframes") == 0
    shutil.copytree(out, tmp_path / "whole")
    assert run(source, tmp_path / "whole", "--keyframes", str(out / "keyframes")) == 0
    carry, firsts = job.HandedChain.windows, list[int]()

    def some(self: Any) -> Any:
        for first, frames in carry(self):
            if first == 16 and not firsts[2:]:
                raise _Killed
            firsts.append(first)
            yield first, frames

    monkeypatch.setattr(job.HandedChain, "windows", some)
    with pytest.raises(_Killed):
        run(source, out, "--keyframes", str(out / "keyframes"))
    assert firsts == [0, 8]
    firsts.append(-1)
    assert run(source, out, "--keyframes", str(out / "keyframes")) == 0
    assert firsts == [0, 8, -1, 16]
    wanted = (tmp_path / "whole" / "edited-2.mkv").read_bytes()
    assert (out / "edited-2.mkv").read_bytes() == wanted


def test_each_frame_painted_by_itself_has_no_keyframes(
    plans: Plans, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--prompt", "x", "--until", "keyframes", "--out", str(tmp_path / "out"), "--propagate", "none"]
    assert main(["edit", "--video", str(source), *out]) == 2
    assert "--until keyframes: each of the 20 frames is painted" in capsys.readouterr().err
    assert not plans.requests


def test_what_does_not_belong_together_is_one_line(
    plans: Plans, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--until", "keyframes") == 0
    folder = out / "keyframes"

    def said(*more: str, clip: Path = source) -> str:
        capsys.readouterr()
        assert run(clip, out, "--keyframes", str(folder), *more) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        return lines[-1]

    assert "--until mask goes with no edited keyframes" in said("--until", "mask")
    assert "has 6 of 64 x 48" in said("--frames", "0:6")
    other = write_video(tmp_path / "b.mp4", "libx264", COUNT, crf="40")
    assert "are of another clip than" in said(clip=other)
    save_picture(folder / "00000016.png", torch.zeros(48, 32, 3))
    assert "00000016.png: 32 x 48 pixels, and the clip has 64 x 48" in said()
    (folder / "00000016.png").unlink()
    assert "2 pictures for the 3 keyframes" in said()
    assert run(source, out, "--keyframes", str(tmp_path / "nothing")) == 2
    assert "or a folder of edited keyframes" in capsys.readouterr().err
    assert run(source, out, "--until", "keyframes", "--overwrite") == 2  # before anything is painted
    assert "keyframes is a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(source, out, "--keyframes", str(tmp_path / "empty")) == 2
    assert "give the folder that --until keyframes wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("indices", [0, 0, 19], "each once and in order"),
        ("indices", [0, 16, COUNT], f"numbers of frames from 0 to {COUNT - 1}"),
        ("indices", [True], "numbers of frames"),
        ("times", ["0", "x", "1"], "seconds such as"),
        ("times", ["0", "1/0", "1"], "seconds such as"),
        ("times", ["0"], "expected 3 of them"),
        ("source", "../x", "hexadecimal"),
        ("count", 10**9, "a whole number"),
        ("asked", "all", "expected null"),
    ],
)
def test_a_list_of_keyframes_is_read_with_mistrust(
    tmp_path: Path, name: str, value: object, why: str
) -> None:
    data = {
        "indices": KEYS,
        "times": [str(Fraction(key, 24)) for key in KEYS],
        "count": COUNT,
        "height": 48,
        "width": 64,
        "source": "0" * 32,
        "asked": KEYS,
    }
    for key in KEYS:
        save_picture(tmp_path / f"{key}.png", torch.zeros(48, 64, 3))
    (tmp_path / KEYS_FILE).write_text(json.dumps(data))
    assert HandedKeys.read(tmp_path).asked == tuple(KEYS)
    (tmp_path / KEYS_FILE).write_text(json.dumps({**data, name: value}))
    with pytest.raises(PictureError, match=why):
        HandedKeys.read(tmp_path)
    (tmp_path / KEYS_FILE).write_text("[" * 400_000)
    with pytest.raises(PictureError, match="no JSON"):
        HandedKeys.read(tmp_path)
