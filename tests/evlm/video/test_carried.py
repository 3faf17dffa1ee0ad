"""A clip of which keyframes alone are painted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_ip2p
import torch
from moving_square import moving

from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import EditSettings
from evlm.video.clip import edit_clip
from evlm.video.settings import VideoSettings

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)
FLOW = VideoSettings(together="anchors", propagate="flow", window=4)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> IP2P:
    folder = tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    return tiny_ip2p.load(folder)


def test_on_equal_frames_the_keyframes_paint_is_the_single_pictures(editor: IP2P) -> None:
    frame, mask = tiny_ip2p.frames(1), torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:41] = 1
    alone = editor.edit(frame, "make it red", mask, QUICK).frames
    clip = edit_clip(editor, frame.expand(6, -1, -1, -1), "make it red", mask, QUICK, video=FLOW)
    assert float((clip.frames - alone).abs().max()) <= 2e-5
    assert clip.notes[0].startswith("2 of 6 frames are keyframes")


def test_fewer_frames_go_through_the_model_and_the_outside_stays(
    editor: IP2P, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, inside = moving(9, 2)
    calls: list[int] = []
    paint = editor.paint
    monkeypatch.setattr(editor, "paint", lambda *a, **k: calls.append(len(a[0])) or paint(*a, **k))
    seen: list[tuple[int, int]] = []
    edited = edit_clip(
        editor, frames, "make it red", inside.float(), QUICK, lambda a, b, _: seen.append((a, b)), FLOW
    )
    assert torch.equal(edited.frames[~inside], frames[~inside]) and edited.frames.shape == frames.shape
    assert bool((edited.frames != frames).any(-1)[inside].float().mean() > 0.9)
    assert calls[0] == 2 and sum(calls) < 9
    assert seen[-1] == (18, 18) and seen == sorted(seen)


def test_auto_carries_long_clips_only_and_given_keyframes_are_taken(editor: IP2P) -> None:
    assert VideoSettings().carries(9) and not VideoSettings().carries(8)
    assert not VideoSettings(propagate="none").carries(99) and FLOW.carries(2)
    frames, inside = moving(8, 2)
    chosen = replace(FLOW, keyframes=(4,))
    edited = edit_clip(editor, frames, "make it red", inside.float(), QUICK, video=chosen)
    assert edited.notes[0].startswith("1 of 8 frames") and len(edited.crops) == 8


def test_frames_by_themselves_are_carried_without_looking_at_each_other(editor: IP2P) -> None:
    frames, inside = moving(6, 2)
    alone = replace(FLOW, together="per-frame")
    edited = edit_clip(editor, frames, "make it red", inside.float(), QUICK, video=alone).frames
    single = editor.edit(frames[:1], "make it red", inside[:1].float(), QUICK).frames
    assert torch.allclose(edited[:1], single, atol=1e-4)
