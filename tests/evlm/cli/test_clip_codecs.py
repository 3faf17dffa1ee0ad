"""`evlm edit --video` and the nodes' reader on files of many codecs and containers: frames, times and sound
are kept. Six kinds in the fast suite, the others are slow."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))
from clip_maker import draw
from scripted import EditCommand, edit_command
from test_clip_kinds import KINDS

from evlm.__main__ import main
from evlm.files.clip_reader import open_clip
from evlm.files.clips import read_clip

av = pytest.importorskip("av")
RATE = 25
COUNT = 10
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}
# name: (file, codec, pixels, size, sounds of codec, layout and rate, first frame's number, options)
SOUNDED: dict[str, tuple[str, str, str, tuple[int, int], list[tuple[str, str, int]], int]] = {
    "h264 4:2:2, two tracks of sound, mkv": (
        "a.mkv", "libx264", "yuv422p", (48, 64), [("aac", "stereo", 48000), ("libopus", "mono", 48000)], 0,
    ),
    "h264, 175 x 99, mono": ("a.mp4", "libx264", "yuv444p", (99, 175), [("aac", "mono", 44100)], 0),
    "hevc of 10 bits": ("a.mkv", "libx265", "yuv420p10le", (48, 64), [("aac", "stereo", 48000)], 0),
    "vp8 and opus, webm": ("a.webm", "libvpx", "yuv420p", (48, 64), [("libopus", "stereo", 48000)], 0),
    "mpeg4 and mp3, avi": ("a.avi", "mpeg4", "yuv420p", (48, 64), [("libmp3lame", "stereo", 44100)], 0),
    "mpeg2 and ac3, ts": ("a.ts", "mpeg2video", "yuv420p", (48, 64), [("ac3", "5.1", 48000)], 0),
    "mpeg1 and mp2": ("a.mpg", "mpeg1video", "yuv420p", (48, 64), [("mp2", "stereo", 44100)], 0),
    "prores and pcm": ("a.mov", "prores_ks", "yuv422p10le", (48, 64), [("pcm_s16le", "stereo", 48000)], 0),
    "prores 4444, alac": ("a.mov", "prores_ks", "yuva444p10le", (48, 64), [("alac", "stereo", 44100)], 0),
    "ffv1 and flac": ("a.mkv", "ffv1", "yuv420p", (99, 175), [("flac", "stereo", 44100)], 0),
    "mjpeg and pcm of 8 bits": ("a.avi", "mjpeg", "yuvj420p", (48, 64), [("pcm_u8", "mono", 22050)], 0),
    "flv": ("a.flv", "flv1", "yuv420p", (48, 64), [("aac", "stereo", 44100)], 0),
    "begins at 2 s": ("a.mkv", "libx264", "yuv420p", (48, 64), [("aac", "mono", 48000)], 50),
    "begins at 20 s, ts": ("a.ts", "libx264", "yuv420p", (48, 64), [("aac", "mono", 48000)], 500),
}  # fmt: skip
FAST = ("h264 4:2:2, two tracks of sound, mkv", "vp8 and opus, webm", "begins at 2 s")
FAST_KINDS = ("display matrix turned 90", "VFR mkv", "GIF of uneven times")


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    return edit_command(tmp_path, monkeypatch)


def marked(names: Any, fast: tuple[str, ...]) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def with_sound(folder: Path, kind: str) -> Path:
    name, codec, pixels, size, sounds, first = SOUNDED[kind]
    options = {"libx265": {"x265-params": "log-level=0", "preset": "ultrafast"}}.get(codec, {})
    with av.open(str(folder / name), "w") as container:
        video = container.add_stream(codec, rate=RATE, options=options)
        video.height, video.width, video.pix_fmt = *size, pixels
        video.codec_context.time_base = Fraction(1, RATE)
        tracks = [container.add_stream(each, rate=rate) for each, _, rate in sounds]
        for track, (_, layout, _) in zip(tracks, sounds, strict=True):
            track.codec_context.layout = layout
        for at in range(COUNT):
            frame = av.VideoFrame.from_ndarray(draw(at, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = at + first, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for track, (_, layout, rate) in zip(tracks, sounds, strict=True):
            resampler = av.AudioResampler(format=track.codec_context.format.name, layout=layout, rate=rate)
            for start in range(0, COUNT * rate // RATE, 960):
                tone = np.sin(np.arange(start, start + 960) * 2 * np.pi * 440 / rate).astype(np.float32) / 2
                samples = np.repeat(tone[None], CHANNELS[layout], 0)
                heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                heard.sample_rate, heard.time_base = rate, Fraction(1, rate)
                heard.pts = start + first * rate // RATE
                for each in resampler.resample(heard):
                    container.mux(track.encode(each))
            container.mux(track.encode())
    return folder / name


def sounds_of(path: Path) -> list[tuple[str, int, int]]:
    with av.open(str(path)) as container:
        contexts = [each.codec_context for each in container.streams.audio]
        return [(each.name, len(each.layout.channels), each.sample_rate) for each in contexts]


def test_what_can_be_seen_through_lies_over_white_where_a_codec_has_no_opacity(
    edit: EditCommand, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    alpha = np.full((48, 64, 1), 128, np.uint8)
    for at in range(2):
        dark = np.concatenate([np.zeros((48, 64, 3), np.uint8), alpha], -1)
        Image.fromarray(dark).save(tmp_path / "in" / f"{at}.png")
    assert main(["edit", "--video", str(tmp_path / "in"), "--prompt", "x", "--out", str(edit.out)]) == 0
    frames, on = read_clip(edit.out / "edited.mp4").frames, read_clip(edit.out / "mask.mp4").frames[..., 0]
    assert bool((on < 0.1).any()) and bool((frames[on < 0.1] - 127 / 255).abs().mean() < 0.03)


def edited(edit: EditCommand, source: Path) -> Path:
    """`source` edited losslessly, after what holds for every kind."""
    assert (
        main(["edit", "--video", str(source), "--prompt", "x", "--codec", "ffv1", "--out", str(edit.out)])
        == 0
    )
    clip = open_clip(source)  # what the nodes read, too
    windows = list(clip.windows(64))
    before = torch.cat([each.frames for each in windows])
    result = open_clip(edit.out / "edited.mkv")
    after = torch.cat([each.frames for each in result.windows(64)])
    on = read_clip(edit.out / "mask.mkv").frames[..., 0] >= 0.5
    assert after.shape == before.shape and bool(on.any()) and not bool(on.all())
    assert (after - before)[~on].abs().max() <= (0 if clip.bits == 8 else 1 / 65535)
    wanted = [duration for each in windows for duration in each.durations]
    found = [duration for each in result.windows(64) for duration in each.durations]
    ends = zip(accumulate(wanted), accumulate(found), strict=True)
    assert all(abs(a - b) <= Fraction(1, 990) for a, b in ends)  # Matroska counts milliseconds
    return edit.out / "edited.mkv"


@pytest.mark.parametrize("kind", marked(SOUNDED, FAST))
def test_a_file_with_sound_comes_through(edit: EditCommand, tmp_path: Path, kind: str) -> None:
    try:
        source = with_sound(tmp_path, kind)
    except (ValueError, av.error.FFmpegError) as error:
        pytest.skip(f"this PyAV cannot make it: {error}")
    with av.open(str(source)) as container:
        assert len(container.streams.audio) == len(SOUNDED[kind][4])
    result = edited(edit, source)
    assert sounds_of(result) == sounds_of(source)
    heard = [_seconds(path) for path in (source, result)]
    for (start, end), (began, ended) in zip(*heard, strict=True):
        assert abs(start - began) < 0.03 and abs(end - ended) < 0.06


def _seconds(path: Path) -> list[tuple[float, float]]:
    """Of each track of sound, when it begins and ends, counted from the first frame."""
    with av.open(str(path)) as container:
        packets = [each for each in container.demux() if each.size and each.pts is not None]
        zero = min(p.pts * p.time_base for p in packets if p.stream.type == "video")
        found = []
        for stream in container.streams.audio:
            mine = [p for p in packets if p.stream.index == stream.index]
            ends = [(p.pts + (p.duration or 0)) * p.time_base for p in mine]
            found.append((float(min(p.pts * p.time_base for p in mine) - zero), float(max(ends) - zero)))
        return found


@pytest.mark.parametrize("name", marked(KINDS, FAST_KINDS))
def test_a_kind_of_clip_comes_through(edit: EditCommand, tmp_path: Path, name: str) -> None:
    try:
        source = KINDS[name].make(tmp_path)
    except (ValueError, av.error.FFmpegError) as error:
        pytest.skip(f"this PyAV cannot make it: {error}")
    edited(edit, source)
