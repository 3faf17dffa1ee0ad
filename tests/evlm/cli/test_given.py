"""`evlm edit --plan` and `--mask`: what is given is taken, and no model is asked for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import write_video
from scripted import PAINT, Middle, Paints, Plans

from evlm.__main__ import main
from evlm.errors import RequestError
from evlm.files.clip_writer import write_clip
from evlm.files.clips import read_clip
from evlm.files.pictures import load_picture, save_mask, save_picture
from evlm.pipeline import Pipeline
from evlm.plan.trace import Plan, plan_to_json
from evlm.reason.given import GivenPlan

pytest.importorskip("av")
COUNT = 6


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Plans:
    plans = Plans()

    def load(chosen: Any, reasoner: Any = None, *_: Any, **__: Any) -> Pipeline:
        assert reasoner is None or "reasoner" not in chosen
        return Pipeline(reasoner or plans, Middle(), None, Paints())

    monkeypatch.setattr(Pipeline, "load", load)
    return plans


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mkv", "ffv1", COUNT, pix_fmt="bgr0")


def masks(count: int) -> torch.Tensor:
    """[count, 48, 64, 3]: a square that goes right."""
    on = torch.zeros(count, 48, 64, 3)
    for at in range(count):
        on[at, 10:20, 5 * at : 5 * at + 10] = 1
    return on


def run(kind: str, path: Path, out: Path, *more: str) -> int:
    lossless = ["--codec", "ffv1"] if kind == "--video" else []
    return main(["edit", kind, str(path), *more, *lossless, "--out", str(out)])


def test_a_trace_is_the_plan_of_another_run_and_no_reasoner_is_asked(
    asked: Plans, source: Path, tmp_path: Path
) -> None:
    assert run("--video", source, tmp_path / "first", "--prompt", "greener") == 0
    assert len(asked.requests) == 1
    trace = tmp_path / "first" / "trace.json"
    assert run("--video", source, tmp_path / "second", "--plan", str(trace)) == 0
    assert len(asked.requests) == 1
    first, second = (read_clip(tmp_path / each / "edited.mkv").frames for each in ("first", "second"))
    assert torch.equal(first, second)
    said = json.loads((tmp_path / "second" / "trace.json").read_text())
    assert said["prompt"] == "greener" and said["trace"]["plan"]["instruction"] == "paint the middle green"


def test_a_picture_takes_both(asked: Plans, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", torch.full((8, 8, 3), 0.25))
    on = torch.zeros(8, 8)
    on[2:4, 2:4] = 1
    save_mask(tmp_path / "m.png", on)
    (tmp_path / "plan.json").write_text(plan_to_json(Plan("greener")))
    out = tmp_path / "out"
    given = ["--plan", str(tmp_path / "plan.json"), "--mask", str(tmp_path / "m.png")]
    assert run("--image", tmp_path / "a.png", out, *given) == 0 and not asked.requests
    edited = load_picture(out / "edited.png")[0]
    green = ((edited - torch.tensor(PAINT)).abs() < 1 / 255).all(-1)
    assert torch.equal(green, on > 0)


def test_a_clip_of_masks_says_where_in_every_frame(asked: Plans, source: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "m.mkv", masks(COUNT), "ffv1")
    assert run("--video", source, tmp_path / "out", "--prompt", "x", "--mask", str(tmp_path / "m.mkv")) == 0
    before, after = read_clip(source).frames, read_clip(tmp_path / "out" / "edited.mkv").frames
    on = masks(COUNT)[..., 0] > 0
    assert torch.equal(after[~on], before[~on])
    assert (after[on] - torch.tensor(PAINT)).abs().max() < 1 / 255


def test_a_drawn_mask_of_another_size_is_for_all_frames(asked: Plans, source: Path, tmp_path: Path) -> None:
    on = torch.zeros(24, 32)
    on[:, :16] = 1
    save_mask(tmp_path / "m.png", on)
    assert run("--video", source, tmp_path / "out", "--prompt", "x", "--mask", str(tmp_path / "m.png")) == 0
    mask = read_clip(tmp_path / "out" / "mask.mkv").frames[..., 0] > 0.5
    assert bool(mask[:, :, :32].all()) and not bool(mask[:, :, 32:].any())


def test_a_run_that_stops_behind_plan_or_masks_goes_on_from_there(
    asked: Plans, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--video", source, tmp_path / "whole", "--prompt", "x") == 0
    out, asked_before = tmp_path / "out", len(asked.requests)

    def written() -> list[str]:
        return sorted(each.name for each in out.iterdir() if each.name[0] != ".")

    assert run("--video", source, out, "--prompt", "x", "--until", "plan") == 0
    assert written() == ["trace.json"]
    assert "without --until goes on" in capsys.readouterr().err
    assert run("--video", source, out, "--prompt", "x", "--until", "mask", "--overwrite") == 0
    assert written() == ["mask.mkv", "trace.json"]
    assert (out / "mask.mkv").read_bytes() == (tmp_path / "whole" / "mask.mkv").read_bytes()
    assert json.loads((out / "trace.json").read_text())["size"] == [COUNT, 48, 64]
    assert run("--video", source, out, "--prompt", "x") == 0
    assert len(asked.requests) == asked_before + 1 and not list(out.glob(".evlm-*"))
    assert (out / "edited-2.mkv").read_bytes() == (tmp_path / "whole" / "edited.mkv").read_bytes()


@pytest.mark.parametrize("frames", [None, "1:5"])
def test_masks_of_another_length_name_both_numbers(
    asked: Plans, source: Path, tmp_path: Path, frames: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "m.mkv", masks(3), "ffv1")
    more = ["--prompt", "x", "--mask", str(tmp_path / "m.mkv"), *(["--frames", frames] if frames else [])]
    assert run("--video", source, tmp_path / "out", *more) == 2
    assert f"m.mkv: 3 masks, and {4 if frames else COUNT} frames" in capsys.readouterr().err


def test_a_mask_with_nothing_on_and_flags_that_do_not_go_together(
    asked: Plans, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_mask(tmp_path / "m.png", torch.zeros(48, 64))
    assert run("--video", source, tmp_path / "out", "--prompt", "x", "--mask", str(tmp_path / "m.png")) == 2
    assert "no pixel of it is on" in capsys.readouterr().err
    assert run("--video", source, tmp_path / "out", "--plan", "t.json", "--compile") == 2
    assert "--compile is for a reasoner" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no json", "it is no JSON"),
        ("[]", "expected an object with a `trace`"),
        ('{"trace": {}}', "the trace has no plan"),
        ('{"trace": {"plan": {"instruction": ""}}}', "it is empty"),
        ('{"trace": {"plan": {"instruction": "x", "targets": 3}}}', "they must be a list"),
        ('{"trace": {"plan": {"instruction": "x", "several": [1]}}}', "each step must be an object"),
        ('{"trace": {"plan": {"instruction": "x", "confidence": NaN}}}', "expected None or 0 to 1"),
        ('{"trace_version": 99, "trace": {}}', "version 99"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(RequestError, match=why) as error:
        GivenPlan.read(path)
    assert str(path) in str(error.value)
    with pytest.raises(RequestError, match="cannot be read"):
        GivenPlan.read(tmp_path / "gone.json")
