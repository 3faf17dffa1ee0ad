"""Measuring on clips: the truth is right and steady, what is left as it was is wrong, what changes from frame
to frame flickers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evlm.edit.ip2p import IP2P
from trainer.bundle import check_clips
from trainer.bundle.check import PARTS, bars
from trainer.bundle.check_clips import KINDS, Painted, edit_planned, load_chain, paint_clip, shares
from trainer.world.clip_rows import clip_at
from trainer.world.clips import ClipEdit
from trainer.world.rows import Recipe

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled"


class Painter(IP2P):
    """Gives back what it was made with."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames = frames


def clip_of(op: str, number: int = 0) -> ClipEdit:
    return clip_at(Recipe(seed=4, split="test", op=op), number)[1]


def painted(clip: ClipEdit, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Painted:
    import evlm.video.clip

    monkeypatch.setattr(
        evlm.video.clip, "edit_clip", lambda editor, *_: SimpleNamespace(frames=editor.frames)
    )
    return paint_clip(Painter(frames), clip)


@pytest.mark.parametrize("op", [KINDS[0], *(pytest.param(op, marks=pytest.mark.slow) for op in KINDS[1:])])
def test_the_truth_is_right_and_what_was_left_is_wrong(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clip_of(op)
    source, truth = (torch.from_numpy(each).float() / 255 for each in clip.pictures())
    exact, same = (painted(clip, frames, monkeypatch) for frames in (truth, source))
    assert exact.right and all(exact.right) and exact.flicker == 0 and exact.outside == 0
    assert same.right and not any(same.right)
    beside = source.clone()
    beside[:, 0, 0] += 0.25
    assert not clip.regions()[:, 0, 0].any()
    assert painted(clip, beside, monkeypatch).outside == pytest.approx(0.25)


def test_other_paint_in_every_frame_flickers_and_warps(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = clip_of("recolour")
    truth = torch.from_numpy(clip.pictures()[1]).float() / 255
    mask = torch.from_numpy(clip.regions())[..., None]
    dice = torch.Generator().manual_seed(1)
    shifts = 0.1 * torch.randn(len(truth), 1, 1, 3, generator=dice)
    steady, restless = (painted(clip, truth + each, monkeypatch) for each in (0, shifts * mask))
    assert restless.flicker > 10 > steady.flicker
    assert restless.excess is not None and steady.excess is not None
    assert restless.excess > steady.excess + 5


def test_shares_are_of_clips_in_which_something_can_be_told() -> None:
    clips = [clip_of("recolour"), clip_of("recolour"), clip_of("remove"), clip_of("retexture")]
    found = shares(
        clips,
        [
            Painted((True, False), 3.0, 2.0, 0.0),
            Painted((), 9.0, 9.0, 0.0),
            Painted((True,), 7.0, 7.0, 0.0),
            Painted((True, True), None, 4.0, 0.5),
        ],
    )
    assert found["recolour"] == 0 and found["recolour, frames"] == 0.5 and found["remove"] == 1
    assert found["excess"] == 3 and found["flicker"] == 3 and found["outside"] == 0.5


def test_a_true_plan_is_followed_through_a_clip() -> None:
    question, clip = clip_at(Recipe(seed=4, split="test", op="recolour"), 0)
    short = ClipEdit(replace(clip.film, frames=3), clip.edit)
    right, seconds = edit_planned(load_chain(BUNDLED), (question, short))
    assert len(right) == 3 and seconds > 0


def test_the_part_has_its_bars_and_gives_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "clips" in PARTS
    sizes = []

    def some(make, work, items, log, jobs):
        sizes.append(len(items))
        if work is paint_clip:
            return [Painted((True,), 0.0, 0.0, 0.0) for _ in items]
        return [((True, number > 0), 1.0 + number) for number, _ in enumerate(items)]

    monkeypatch.setattr(check_clips, "parallel_map", some)
    found = check_clips.check(BUNDLED, 50, 3)
    assert sizes == [15, 3] and found["planned"] == pytest.approx(2 / 3) and found["seconds"] == 2
    assert {name for bar in bars() if bar.part == "clips" for name in bar.names} <= set(found)
