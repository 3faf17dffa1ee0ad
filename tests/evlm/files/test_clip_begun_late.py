"""Recordings that begin between two keyframes: fewer frames are decoded than the file has, and later ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_maker import begun_late, number, write_video

from evlm.clips.given_mask import GivenMask
from evlm.errors import PictureError
from evlm.files.clip_reader import ClipFile, open_clip
from evlm.files.clip_sound import Sound
from evlm.files.clip_writer import write_clip

av = pytest.importorskip("av")
LOST, GROUP, COUNT = 3, 10, 16
LEFT = COUNT - GROUP  # frames that can be decoded


@pytest.fixture
def clip(tmp_path: Path) -> ClipFile:
    plain = {"x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes=0"}
    whole = write_video(tmp_path / "a.ts", "libx264", COUNT, rate=10, sound=1.6, **plain)  # type: ignore[arg-type]
    return open_clip(begun_late(tmp_path / "late.ts", whole, LOST))


def test_sound_begins_with_the_first_frame_that_is_there(clip: ClipFile, tmp_path: Path) -> None:
    first = next(clip.frames())
    assert number(first.pixels.numpy() / 255) == GROUP
    with av.open(str(clip.path)) as container:
        shown = next(frame for frame in container.decode(video=0))
        assert clip.begin == shown.pts * Fraction(shown.time_base)
    with av.open(str(clip.path)) as container:
        heard = min(float(p.pts * p.time_base) for p in container.demux(audio=0) if p.pts is not None)
    frames = torch.from_numpy(np.stack([each.pixels.numpy() for each in clip.frames()])).float() / 255
    write_clip(tmp_path / "out.mkv", frames, "ffv1", [Fraction(1, 10)] * LEFT, Sound(clip.path, clip.begin))
    with av.open(str(tmp_path / "out.mkv")) as container:
        packets = [p for p in container.demux() if p.pts is not None]
        audio, video = (
            min(float(p.pts * p.time_base) for p in packets if p.stream.type == kind)
            for kind in ("audio", "video")
        )
    assert abs((video - audio) - (float(clip.begin) - heard)) < 0.03


def test_one_mask_for_each_frame_that_is_there(clip: ClipFile, tmp_path: Path) -> None:
    assert clip.count == COUNT - LOST  # what the file says
    on = torch.zeros(LEFT, 48, 64, 3)
    on[:, 10:20, 10:20] = 1
    write_clip(tmp_path / "m.mkv", on, "ffv1")
    given = GivenMask.open(tmp_path / "m.mkv", clip)
    assert clip.count == LEFT and sum(len(each) for each in given.windows(4)) == LEFT
    write_clip(tmp_path / "more.mkv", torch.cat([on, on[:1]]), "ffv1")
    with pytest.raises(PictureError, match=f"{LEFT + 1} masks, and {LEFT} frames"):
        GivenMask.open(tmp_path / "more.mkv", clip)


def test_masks_larger_than_the_clip_come_one_by_one(clip: ClipFile, tmp_path: Path) -> None:
    """A window is measured in the clip's pixels; a mask of four times its size would fill many of them."""
    large = torch.zeros(LEFT, 192, 256, 3)
    large[:, 40:80, 40:80] = 1
    write_clip(tmp_path / "m.mkv", large, "ffv1")
    given = GivenMask.open(tmp_path / "m.mkv", clip)
    sizes: list[tuple[int, ...]] = []
    resized = GivenMask._resized

    def watched(self: GivenMask, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(mask.shape))
        return resized(self, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GivenMask, "_resized", watched)
        (window,) = given.windows(99)
    assert sizes == [(1, 192, 256)] * LEFT and window.shape == (LEFT, 48, 64)
    assert torch.equal(window[0] >= 0.5, window[-1] >= 0.5) and bool((window[0, 12:18, 12:18] > 0.9).all())


def test_a_matroska_that_begins_late_is_whole(tmp_path: Path) -> None:
    """Its length counts from second 0. (Cut by `ffmpeg -copyts`, for example.)"""
    path = write_video(tmp_path / "late.mkv", "ffv1", 6, "bgr0", rate=10, pts=range(50, 56))
    clip = open_clip(path)
    assert len(list(clip.frames())) == 6 and clip.notes == []
