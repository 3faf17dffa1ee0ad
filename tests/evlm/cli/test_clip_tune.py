"""`edit --video --tune STEPS`: the editor learns the clip before it paints; a stopped run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import write_video
from scripted import Middle, Plans, edit_command

from evlm.__main__ import main
from evlm.clips.job import ClipJob
from evlm.files.clips import read_clip
from evlm.pipeline import Pipeline
from evlm.video import tune as tune_file

pytest.importorskip("av")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", "libx264", 5, crf="4")


def run(source: Path, out: Path, *more: str) -> int:
    said = ["--prompt", "x", "--steps", "1", "--codec", "ffv1"]
    return main(["edit", "--video", str(source), *said, *more, "--out", str(out)])


def test_the_editor_is_tuned_and_a_run_that_was_stopped_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tiny_ip2p.load(tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path / "model"))
    load: Callable[..., Pipeline] = lambda *_, **__: Pipeline(Plans(), Middle(), None, editor)  # noqa: E731
    monkeypatch.setattr(Pipeline, "load", load)
    monkeypatch.setattr(tune_file, "EVERY", 2)
    monkeypatch.setattr(tune_file, "RATE", 0.1)
    own = {name: each.detach().clone() for name, each in editor.unet.named_parameters()}
    tell = ClipJob.tell
    seen: list[tuple[int, int]] = []
    stop = 99

    def told(job: ClipJob, what: str, done: int, total: int | None = None) -> None:
        tell(job, what, done, total)
        if what == "tune":
            seen.append((done, total or 0))
            if done == stop:
                raise KeyboardInterrupt

    monkeypatch.setattr(ClipJob, "tell", told)
    assert run(source, tmp_path / "plain") == 0 and not seen
    assert run(source, tmp_path / "whole", "--tune", "4") == 0
    assert seen == [(done, 4) for done in range(1, 5)]
    stop = 3
    seen.clear()
    assert run(source, tmp_path / "out", "--tune", "4") == 130
    stop = 99
    assert run(source, tmp_path / "out", "--tune", "4") == 0
    assert seen == [(done, 4) for done in (1, 2, 3, 3, 4)]  # two were saved
    whole, out = ((tmp_path / each / "edited.mkv").read_bytes() for each in ("whole", "out"))
    assert whole == out
    plain, tuned = (read_clip(tmp_path / each / "edited.mkv").frames for each in ("plain", "whole"))
    mask = read_clip(tmp_path / "whole" / "mask.mkv").frames[..., 0] >= 0.5
    assert not torch.equal(plain[mask], tuned[mask]) and torch.equal(plain[~mask], tuned[~mask])
    assert all(torch.equal(each, own[name]) for name, each in editor.unet.named_parameters())


def test_fp16_which_a_card_takes_by_itself_is_refused_before_anything_is_done(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = tiny_ip2p.load(tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path / "model"))
    editor.unet.half()
    nobody: Any = None  # who asks it fails
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: Pipeline(nobody, None, None, editor))
    assert run(source, tmp_path / "out", "--tune", "5") == 2
    assert "an editor in fp16 cannot be tuned: load it in bf16 or fp32" in capsys.readouterr().err


def test_an_editor_that_cannot_be_tuned_and_a_picture_are_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit: Any = edit_command(tmp_path, monkeypatch)
    assert run(source, edit.out, "--tune", "5") == 2
    assert "cannot be tuned: leave --tune out" in capsys.readouterr().err
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    assert (
        main(["edit", "--image", str(picture), "--prompt", "x", "--tune", "5", "--out", str(edit.out)]) == 2
    )
    assert "--tune is for --video" in capsys.readouterr().err
