"""Forty kinds of clip and more: frames, times and orientation as FFmpeg shows them, and back from the disk.

What is expected was compared, kind by kind, with what Debian's ffmpeg 5.1.9 decodes (-fps_mode
passthrough).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_maker import ROTATIONS, corners, draw, number, set_matrix, write_video
from PIL import Image

from evlm.errors import PictureError
from evlm.files.clips import load_frames

av = pytest.importorskip("av")
UP = (0, 1, 2, 3)
"""The corners of a clip that stands upright, top left to bottom right."""


@dataclass(frozen=True)
class Kind:
    """How a clip is made and what is read of it. numbers: of the frames. steps: seconds each is shown.
    note: what is said. loose: the times are the container's own, in milliseconds or rounder."""

    make: Callable[[Path], Path]
    numbers: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    steps: tuple[Fraction, ...] | Fraction = Fraction(1, 25)
    corners: tuple[int, ...] = UP
    size: tuple[int, int] = (48, 64)
    note: str = ""
    sound: bool = False
    loose: Fraction = Fraction(0)


def video(name: str, codec: str = "libx264", **how: Any) -> Callable[[Path], Path]:
    if codec == "libx264":
        how = {"crf": "10", "preset": "veryfast", **how}
    return lambda folder: write_video(folder / name, codec, **how)


def turned(matrix: tuple[float, ...], **how: Any) -> Callable[[Path], Path]:
    return lambda folder: set_matrix(video("turned.mp4", **how)(folder), matrix)


def renamed(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder).rename(folder / name)


def cut(make: Callable[[Path], Path], share: float) -> Callable[[Path], Path]:
    def shorter(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return shorter


def animation(name: str, durations: list[int], numbers: list[int], **how: Any) -> Callable[[Path], Path]:
    """By Pillow, which melts equal neighbours: so these have none."""

    def make(folder: Path) -> Path:
        first, *others = [Image.fromarray(draw(each)) for each in numbers]
        first.save(folder / name, save_all=True, append_images=others, duration=durations, loop=0, **how)
        return folder / name

    return make


def interlaced(context: Any) -> None:
    context.flags |= 1 << 18 | 1 << 29  # interlaced DCT, interlaced motion estimation


def bt709(context: Any) -> None:
    context.color_primaries, context.color_trc, context.colorspace = 1, 1, 1


def bt709_full(context: Any) -> None:
    bt709(context)
    context.color_range = 2


def pq(context: Any) -> None:
    context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9


MS = Fraction(1, 1000)
F25, F50 = Fraction(1, 25), Fraction(1, 50)
NTSC, FILM = Fraction(1001, 60000), Fraction(1001, 24000)
VFR = (0, 1, 2, 10, 11, 30)
VFR_STEPS = tuple(Fraction(n, 100) for n in (1, 1, 8, 1, 19, 4))
# How long an mp4 shows its last frame FFmpeg tells since version 8 (PyAV 16); before, what its rate says.
VFR_MP4 = VFR_STEPS if av.library_versions["libavformat"][0] >= 62 else (*VFR_STEPS[:-1], Fraction(1, 100))
EQUAL = (0, 0, 0, 1, 1, 0)
TURNED = {
    "as stored": UP,
    "turned 90": (2, 0, 3, 1),
    "turned 180": (3, 2, 1, 0),
    "turned 270": (1, 3, 0, 2),
    "mirrored": (1, 0, 3, 2),
    "upside down": (2, 3, 0, 1),
    "transposed": (0, 2, 1, 3),
    "transposed the other way": (3, 1, 2, 0),
}
SIDE = ("turned 90", "turned 270", "transposed", "transposed the other way")
KINDS: dict[str, Kind] = {
    **{
        f"display matrix {name}": Kind(
            turned(matrix),
            corners=TURNED[name],
            size=(64, 48) if name in SIDE else (48, 64),
            note="" if name == "as stored" else "turned or mirrored",
        )
        for name, matrix in ROTATIONS.items()
    },
    "turned by 30 degrees": Kind(turned((0.866, 0.5, -0.5, 0.866)), note="no quarter turn"),
    "SAR 4:3": Kind(video("a.mp4", sar=Fraction(4, 3)), size=(48, 85), note="not square (4:3)"),
    "SAR 8:9": Kind(video("a.mkv", sar=Fraction(8, 9)), size=(54, 64), note="not square (8:9)", loose=MS),
    "SAR 2:1, turned 90": Kind(
        turned(ROTATIONS["turned 90"], sar=Fraction(2)), size=(128, 48), corners=(2, 0, 3, 1), note="(2:1)"
    ),
    "VFR mp4": Kind(video("a.mp4", pts=VFR, base=Fraction(1, 100)), steps=VFR_MP4),
    "VFR mkv": Kind(video("a.mkv", pts=VFR, base=Fraction(1, 100)), steps=VFR_STEPS, loose=MS),
    "59.94 mp4": Kind(video("a.mp4", rate=1 / NTSC), steps=NTSC),
    "59.94 mkv": Kind(video("a.mkv", rate=1 / NTSC), steps=NTSC, loose=MS),
    "23.976 mov": Kind(video("a.mov", rate=1 / FILM), steps=FILM),
    "120 fps": Kind(video("a.mp4", rate=120), steps=Fraction(1, 120)),
    "equal neighbours": Kind(video("a.mp4", numbers=EQUAL), EQUAL),
    "thirteen equal frames": Kind(video("a.mp4", numbers=(7,) * 13), (7,) * 13),
    "VP9 with alpha": Kind(video("a.webm", "libvpx-vp9", pix_fmt="yuva420p"), note="transparency", loose=MS),
    "VP8 webm": Kind(video("a.webm", "libvpx"), loose=MS),
    "AV1": Kind(video("a.mkv", "libsvtav1", preset="12"), loose=MS),
    "10 bit": Kind(video("a.mp4", pix_fmt="yuv420p10le"), note="10 bits"),
    "ProRes 4:2:2": Kind(video("a.mov", "prores_ks", pix_fmt="yuv422p10le"), note="10 bits"),
    "yuv444p": Kind(video("a.mp4", pix_fmt="yuv444p")),
    "HDR10": Kind(video("a.mp4", pix_fmt="yuv420p10le", setup=pq), note="PQ (HDR10)"),
    "BT.709": Kind(video("a.mp4", setup=bt709)),
    "BT.709, full range": Kind(video("a.mp4", setup=bt709_full)),
    "full range": Kind(video("a.avi", "mjpeg", pix_fmt="yuvj420p")),
    "interlaced": Kind(video("a.mpg", "mpeg2video", setup=interlaced, q="2"), note="interlaced"),
    "one frame": Kind(video("a.mp4", numbers=(3,)), (3,)),
    "two frames": Kind(video("a.mp4", numbers=(3, 9)), (3, 9)),
    "cut mkv": Kind(
        cut(video("a.mkv", "ffv1", pix_fmt="bgr0"), 0.66), (0, 1, 2), loose=MS, note="damaged or cut off"
    ),
    "cut mp4": Kind(
        cut(video("a.mp4", g="1", container_options={"movflags": "faststart"}), 0.8),
        (0, 1, 2),
        note="cut off",
    ),
    "cut ts": Kind(cut(video("a.ts", "mpeg2video", g="1", q="2"), 0.57), (0, 1, 2)),
    "negative start": Kind(video("a.mkv", pts=range(-3, 3)), loose=MS),
    "edit list": Kind(video("a.mp4", pts=range(-3, 3), bf="0", preset="ultrafast"), (3, 4, 5)),
    "late start": Kind(video("a.mp4", pts=range(50, 56))),
    "B-frames": Kind(video("a.mp4", bf="3", count=12), tuple(range(12))),
    "sound longer than the video": Kind(video("a.mp4", sound=2.0), sound=True),
    "sound in webm": Kind(video("a.webm", "libvpx-vp9", sound=0.2), sound=True, loose=MS),
    "MPEG-TS": Kind(video("a.ts")),
    "MPEG-PS": Kind(video("a.mpg", "mpeg2video", q="2")),
    "WMV": Kind(video("a.wmv", "wmv2", q="2"), loose=MS),
    "FLV": Kind(video("a.flv", "flv", q="2"), loose=MS),
    "3GP": Kind(video("a.3gp", "mpeg4", q="2")),
    "Ogg": Kind(video("a.ogv", "libvpx")),
    "AVI": Kind(video("a.avi", "mpeg4", q="2")),
    "mp4 without a suffix": Kind(renamed(video("a.mp4"), "clip")),
    "mp4 called .png": Kind(renamed(video("a.mp4"), "clip.png")),
    "gif called .mp4": Kind(
        renamed(animation("a.gif", [40] * 6, list(range(6))), "clip.mp4"),
    ),
    "odd sizes": Kind(video("a.mkv", "ffv1", pix_fmt="bgr0", size=(33, 47)), size=(33, 47), loose=MS),
    "odd sizes h264": Kind(video("a.mp4", pix_fmt="yuv444p", size=(33, 47)), size=(33, 47)),
    "png in mov": Kind(video("a.mov", "png", pix_fmt="rgba"), note="transparency"),
    "grey": Kind(video("a.mkv", "ffv1", pix_fmt="gray"), corners=(), loose=MS),
    "GIF of uneven times": Kind(
        animation("a.gif", [100, 100, 500, 100, 50, 20], [0, 1, 2, 3, 4, 5]),
        steps=tuple(n * MS for n in (100, 100, 500, 100, 50, 20)),
    ),
    "GIF that asks for no time": Kind(animation("a.gif", [0] * 6, list(range(6))), steps=Fraction(1, 10)),
    "WebP of uneven times": Kind(
        animation("a.webp", [17, 16, 17, 900, 1, 40], [0, 1, 2, 3, 4, 5], lossless=True),
        steps=tuple(n * MS for n in (17, 16, 17, 900, 1, 40)),
    ),
    "APNG": Kind(
        animation("a.png", [100, 50, 25, 10, 1000, 40], [0, 1, 2, 3, 4, 5]),
        steps=tuple(n * MS for n in (100, 50, 25, 10, 1000, 40)),
    ),
    "APNG with a default picture": Kind(
        animation("a.png", [40] * 6, [31, 0, 1, 2, 3, 4, 5], default_image=True),
    ),
    "AVIF": Kind(animation("a.avif", [40] * 6, list(range(6)), quality=90)),
}


def shown_by_pillow(path: Path) -> list[tuple[np.ndarray, int]]:
    """(uint8 [H, W, 3], milliseconds) of each frame of a file, by Pillow itself."""
    shown = []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            shown.append((np.asarray(image.convert("RGB")), round(image.info.get("duration", 0))))
    return shown


def test_there_are_forty_kinds() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", KINDS)
def test_frames_times_and_orientation_as_ffmpeg_shows_them_and_back_from_the_disk(
    tmp_path: Path, name: str
) -> None:
    """(C3, C4, C5, C16)"""
    kind = KINDS[name]
    try:
        path = kind.make(tmp_path)
    except (ValueError, av.error.FFmpegError):
        if name != "AV1":
            raise
        pytest.skip("this PyAV has no encoder for AV1 that takes small frames")
    try:
        frames, fps = load_frames(path)
    except PictureError as error:
        pytest.fail(f"refused: {error}")
    assert tuple(frames.shape[1:3]) == kind.size and len(frames) == len(kind.numbers)
    if kind.corners:
        assert {corners(frame.numpy()) for frame in frames} == {kind.corners}
    if kind.corners == UP:
        assert tuple(number(frame.numpy()) for frame in frames) == kind.numbers

    from evlm.files import clips

    assert hasattr(clips, "read_clip"), "times and notes are not read"
    clip = clips.read_clip(path)
    steps = kind.steps if isinstance(kind.steps, tuple) else (kind.steps,) * len(kind.numbers)
    if len(frames) > 1:
        assert all(abs(a - b) <= kind.loose for a, b in zip(clip.durations, steps, strict=True))
        assert fps == pytest.approx(float(len(steps) / sum(steps)), rel=0.1)
    assert clip.sound is kind.sound
    said = [note for note in clip.notes if kind.note and kind.note in note]
    assert bool(said) == bool(kind.note) and (kind.note or not clip.notes)

    back = tmp_path / "back.webp"
    clips.save_animation(back, frames, durations=clip.durations or (Fraction(1),))
    shown = shown_by_pillow(back)
    assert len(shown) == len(frames)
    end = Fraction(0)
    total = 0
    for frame, (pixels, milliseconds), duration in zip(frames, shown, clip.durations, strict=True):
        assert np.array_equal(pixels, (frame * 255).round().byte().numpy())
        end, total = end + duration, total + milliseconds
        assert abs(end - total * MS) <= MS / 2  # rounded each by itself: nothing drifts
