"""`evlm edit` on clips: what lies on the disk has the frames, times and orientation that a player shows."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_maker import corners, draw, number, write_video
from PIL import Image
from scripted import EditCommand
from test_clip_kinds import KINDS, UP, shown_by_pillow

from evlm.files import clips
from evlm.reason.messages import MAX_FRAMES

pytest.importorskip("av")
MS = Fraction(1, 1000)
EDITED = (
    "display matrix turned 90",
    "display matrix transposed",
    "SAR 4:3",
    "VFR mp4",
    "59.94 mp4",
    "equal neighbours",
    "thirteen equal frames",
    "VP9 with alpha",
    "HDR10",
    "edit list",
    "sound longer than the video",
    "mp4 without a suffix",
    "WMV",
    "GIF of uneven times",
    "APNG with a default picture",
)


def record(edit: EditCommand) -> dict[str, Any]:
    return json.loads((edit.out / "trace.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EDITED)
def test_edited_mask_and_input_have_the_same_frames_times_and_orientation(
    edit: EditCommand, tmp_path: Path, name: str
) -> None:
    """Outside the mask the file has the input's frames; the mask has as many as the edit. (C3, C4, C5)"""
    kind = KINDS[name]
    (tmp_path / "in").mkdir()
    path = kind.make(tmp_path / "in")
    assert edit(path) == 0
    edited, mask = shown_by_pillow(edit.out / "edited.webp"), shown_by_pillow(edit.out / "mask.webp")
    steps = kind.steps if isinstance(kind.steps, tuple) else (kind.steps,) * len(kind.numbers)
    assert len(edited) == len(mask) == len(steps)
    assert [time for _, time in edited] == [time for _, time in mask]
    ends = zip(accumulate(steps), accumulate(time for _, time in edited), strict=True)
    assert all(abs(end - milliseconds * MS) <= MS / 2 + kind.loose for end, milliseconds in ends)
    assert {pixels.shape[:2] for pixels, _ in (*edited, *mask)} == {kind.size}
    assert {corners(pixels / 255) for pixels, _ in edited} == {kind.corners}
    frames = (clips.load_frames(path)[0] * 255).round().byte().numpy()
    for frame, (pixels, _), (where, _) in zip(frames, edited, mask, strict=True):
        assert np.array_equal(pixels[where[..., 0] == 0], frame[where[..., 0] == 0])
        assert not np.array_equal(pixels, frame)
    assert hasattr(clips, "read_clip"), "times are not read"
    clip = record(edit)["clip"]
    times = [Fraction(time) for time in [*clip["times"], clip["seconds"]]]
    assert all(abs(b - a - step) <= kind.loose for (a, b), step in zip(pairwise(times), steps, strict=True))
    assert not kind.note or any(kind.note in note for note in record(edit)["notes"])
    if kind.corners == UP and name != "SAR 4:3":
        assert len(edit.requests[0].original) == len(kind.numbers)


def test_what_the_result_is_and_lacks_is_said(
    edit: EditCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C6)"""
    path = write_video(tmp_path / "a.mp4", "libx264", sound=0.3, rate=Fraction(60000, 1001))
    assert edit(path) == 0
    said = capsys.readouterr().err
    size = (edit.out / "edited.webp").stat().st_size / 1e6
    assert f"6 frames, lossless animated WebP, {size:.1f} MB, without the sound of the original" in said
    assert "edited.webp holds times in whole milliseconds" in said
    assert record(edit)["clip"] == {
        "fps": 60000 / 1001,
        "times": ["0", "1001/60000", "1001/30000", "1001/20000", "1001/15000", "1001/12000"],
        "seconds": "1001/10000",
        "sound": True,
    }


def test_of_a_clip_a_range_and_a_rate_are_edited(edit: EditCommand, tmp_path: Path) -> None:
    """(C7)"""
    path = write_video(tmp_path / "a.mp4", "libx264", count=20, crf="10")
    try:
        code = edit(path, "--frames", "4:16", "--fps", "12.5")
    except SystemExit:
        pytest.fail("there is no --frames and no --fps")
    assert code == 0
    assert [number(frame.numpy()) for frame in edit.requests[0].original] == [4, 6, 8, 10, 12, 14]
    assert [time for _, time in shown_by_pillow(edit.out / "edited.webp")] == [80] * 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--frames", "9:3"), "FIRST < END"),
        (("--frames", "x"), "expected FIRST:END"),
        (("--fps", "0"), "above 0 and at most 1000"),
        (("--frames", "90:"), "6 frames"),
    ],
)
def test_a_choice_that_leaves_nothing_is_one_error(
    edit: EditCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], message: str
) -> None:
    """(C7)"""
    path = write_video(tmp_path / "a.mp4", "libx264")
    try:
        code = edit(path, *more)
    except SystemExit:
        pytest.fail("there is no --frames and no --fps")
    assert code == 2 and not edit.out.exists()
    assert message in " ".join(capsys.readouterr().err.split())


def test_frames_cannot_be_chosen_from_one_picture(
    edit: EditCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C7)"""
    Image.fromarray(draw(1)).save(tmp_path / "a.png")
    try:
        code = edit(tmp_path / "a.png", "--frames", "0:2")
    except SystemExit:
        pytest.fail("there is no --frames")
    assert code == 2 and "one picture" in capsys.readouterr().err


def test_a_long_reference_is_read_where_it_is_sampled(
    edit: EditCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is read of an original is no hindrance, only the frames that are seen are taken. (C7)"""
    Image.fromarray(draw(1)).save(tmp_path / "a.png")
    path = write_video(tmp_path / "a.mp4", "libx264", numbers=[n % 32 for n in range(40)], crf="10", g="8")
    monkeypatch.setattr(clips, "MAX_TOTAL_PIXELS", 48 * 64 * MAX_FRAMES)
    assert edit(tmp_path / "a.png", "--reference-video", str(path)) == 0
    reference = edit.requests[0].references[0]
    wanted = [0, 6, 11, 17, 22, 28, 33, 39]
    assert [number(frame.numpy()) for frame in reference.frames] == [n % 32 for n in wanted]
    assert reference.fps == pytest.approx(7 / (39 / 25))


def test_a_folder_of_frames_says_its_rate_by_fps(edit: EditCommand, tmp_path: Path) -> None:
    """Hidden files among the frames are none. (C7, C16)"""
    (tmp_path / "in").mkdir()
    for index in range(3):
        Image.fromarray(draw(index)).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "._0.png").write_bytes(b"\0\5\x16\7")
    assert edit(tmp_path / "in") == 0
    assert [time for _, time in shown_by_pillow(edit.out / "edited.webp")] == [125] * 3
    assert any("--fps chooses" in note for note in record(edit)["notes"])
    assert edit(tmp_path / "in", "--fps", "25", "--overwrite") == 0
    assert [time for _, time in shown_by_pillow(edit.out / "edited.webp")] == [40] * 3
