"""Clips onto the disk: a reader gets back what was written, and an earlier file survives a failure."""

from __future__ import annotations

import errno
import io
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_maker import draw, number, write_video
from torch import Tensor

from evlm.errors import PictureError
from evlm.files.clip_codecs import form_of
from evlm.files.clip_held import write_sound
from evlm.files.clip_sound import Sound
from evlm.files.clip_writer import join_segments, write_clip, write_segment
from evlm.files.clips import read_clip

av = pytest.importorskip("av")
NTSC = Fraction(30000, 1001)


def numbered(count: int, height: int = 48, width: int = 64) -> Tensor:
    """Frames [F, H, W, 3] that show their numbers."""
    return torch.from_numpy(np.stack([draw(each, height, width) for each in range(count)])).float() / 255


def packets(path: Path) -> list[tuple[bytes, Fraction]]:
    """(content, seconds after the first frame of the picture) of each packet of sound."""
    with av.open(str(path)) as container:
        begin = next(p.pts * p.time_base for p in container.demux(video=0) if p.size)
    with av.open(str(path)) as container:
        heard = [packet for packet in container.demux(audio=0) if packet.size]
        return [(bytes(packet), packet.pts * packet.time_base - begin) for packet in heard]


@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("vp9", ".webm"), ("ffv1", ".mkv")])
def test_frames_rate_and_odd_sizes_come_back(tmp_path: Path, codec: str, suffix: str) -> None:
    path, frames = tmp_path / f"a{suffix}", numbered(7, 47, 63)
    notes = write_clip(path, iter([frames[:3], frames[3:4], frames[4:]]), codec, [1 / NTSC] * 7)
    assert notes == [] if codec == "ffv1" else "other programs show 64 x 48, the last column" in notes[0]
    back = read_clip(path)
    assert back.frames.shape == frames.shape and back.rate == NTSC
    assert [number(each.numpy()) for each in back.frames] == list(range(7))
    if codec == "ffv1":
        assert torch.equal(back.frames, frames)
    else:  # away from the edges, where colours have half the pixels
        assert (back.frames - frames)[:, 4:12, 4:16].abs().mean() < 2 / 255
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_pictures_is_whole_or_not_there(tmp_path: Path) -> None:
    frames = numbered(3)
    assert write_clip(tmp_path / "a", frames, "png") == []
    assert torch.equal(read_clip(tmp_path / "a").frames, frames)
    with pytest.raises(PictureError, match="frames of a clip have one size"):
        write_clip(tmp_path / "a", [frames[:2].flip(0), frames[:1, :40]], "png")
    assert torch.equal(read_clip(tmp_path / "a").frames, frames)
    write_clip(tmp_path / "a", frames[1:], "png")
    assert torch.equal(read_clip(tmp_path / "a").frames, frames[1:])
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(PictureError, match=r"notes\.txt lies there"):
        write_clip(tmp_path / "a", frames, "png")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_an_mp4_says_its_colours_and_keeps_uneven_times(tmp_path: Path) -> None:
    durations = [Fraction(1, 30), Fraction(1, 10), Fraction(1, 24), Fraction(2)]
    write_clip(tmp_path / "a.mp4", numbered(4), "h264", durations)
    assert read_clip(tmp_path / "a.mp4").durations == tuple(durations)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert [int(context.colorspace), int(context.color_primaries), int(context.color_trc)] == [1, 1, 1]
        assert int(context.color_range) == 1


def test_opacity_is_kept_where_the_codec_can(tmp_path: Path) -> None:
    alpha = torch.rand(3, 48, 64, 1, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    frames = torch.cat([numbered(3), alpha], -1)
    for codec, suffix in (("ffv1", ".mkv"), ("vp9", ".webm")):
        assert write_clip(tmp_path / f"a{suffix}", frames, codec) == []
    with av.open(str(tmp_path / "a.mkv")) as container:
        kept = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
        assert np.array_equal(np.stack(kept), (frames * 255).round().numpy().astype(np.uint8))
    with av.open(str(tmp_path / "a.webm")) as container:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        shown = [f for packet in container.demux(video=0) if packet.size for f in decoder.decode(packet)]
        assert [each.format.name for each in shown] == ["yuva420p"] * 3
    notes = write_clip(tmp_path / "a.mp4", frames, "h264")
    assert len(notes) == 1 and "no transparency" in notes[0]


def test_more_than_eight_bits(tmp_path: Path) -> None:
    steps = torch.arange(48 * 64 * 3).reshape(1, 48, 64, 3) * 7 % 65536
    notes = write_clip(tmp_path / "a.mkv", steps / 65535, "ffv1", bits=10)
    assert notes == ["ffv1 is written with 16 bits a channel"]
    with av.open(str(tmp_path / "a.mkv")) as container:
        (kept,) = [frame.to_ndarray(format="rgb48le") for frame in container.decode(video=0)]
    assert np.array_equal(kept, steps[0].numpy())
    write_clip(tmp_path / "a.mp4", steps / 65535, "h264", bits=10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    assert "8 bits" in write_clip(tmp_path / "a.webm", steps / 65535, "vp9", bits=10)[0]


# --- sound ---


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_copied_packet_by_packet_and_stays_in_time(tmp_path: Path, suffix: str) -> None:
    source = write_video(
        tmp_path / "source.mp4", "libx264", 12, rate=NTSC, sound=0.7
    )  # longer than the picture
    path = tmp_path / f"a{suffix}"
    codec = "h264" if suffix == ".mp4" else "ffv1"
    assert write_clip(path, numbered(12), codec, [1 / NTSC] * 12, Sound(source)) == []
    before, after = packets(source), packets(path)
    assert [content for content, _ in after] == [content for content, _ in before]
    assert max(abs(a - b) for (_, a), (_, b) in zip(before, after, strict=True)) < Fraction(2, 1000)
    assert read_clip(path).rate == NTSC


def test_sound_that_the_file_does_not_take_is_encoded_and_it_is_said(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", "libx264", 5, sound=0.4)
    notes = write_clip(tmp_path / "a.webm", numbered(5), "vp9", [Fraction(1, 25)] * 5, Sound(source))
    assert notes == [".webm takes no aac sound; it is libopus now"]
    times = [time for _, time in packets(tmp_path / "a.webm")]
    assert times[0] <= 0 and 0.36 < times[-1] < 0.44


def test_of_some_frames_their_own_sound_is_heard(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", "libx264", 25, sound=1)
    sound = Sound(source, Fraction(10, 25), Fraction(5, 25))
    notes = write_clip(tmp_path / "a.mp4", numbered(5), "h264", [Fraction(1, 25)] * 5, sound)
    assert len(notes) == 1 and "encoded again" in notes[0]
    with av.open(str(tmp_path / "a.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert 0.2 <= len(heard) / 48000 < 0.25
    rises = np.flatnonzero((heard[2000:9000][:-1] < 0) & (heard[2000:9000][1:] >= 0))
    assert 48000 / np.diff(rises).mean() == pytest.approx(440, rel=0.01)


# --- segments ---


def test_segments_joined_are_the_clip_each_time_with_the_same_bytes(tmp_path: Path) -> None:
    frames, form = numbered(9), form_of("h264", 48, 64, NTSC)[0]
    for start, stop in pairwise((0, 4, 5, 9)):
        assert write_segment(tmp_path / f"{start}.mkv", frames[start:stop], form) == stop - start
    segments = [tmp_path / f"{start}.mkv" for start in (0, 4, 5)]
    for name in ("a.mp4", "b.mp4"):
        join_segments(tmp_path / name, segments, form, [1 / NTSC] * 9)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    back = read_clip(tmp_path / "a.mp4")
    assert [number(each.numpy()) for each in back.frames] == list(range(9)) and back.rate == NTSC
    for count in (8, 10):
        with pytest.raises(PictureError, match="frames"):
            join_segments(tmp_path / "a.mp4", segments, form, [1 / NTSC] * count)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


# --- what cannot be ---


class _Full(io.FileIO):
    """A file on a disk that takes a little more, and then nothing."""

    left = 3000

    def write(self, data: Any) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("codec", ["h264", "ffv1", "png"])
def test_a_full_disk_leaves_the_earlier_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    path = tmp_path / "a"
    write_clip(path, numbered(3), codec)
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    opened = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return _Full(self, "w+") if "x" in mode else opened(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    noise = torch.rand(20, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PictureError, match=r"cannot be written .*No space left on device"):
        write_clip(path, noise, codec)
    monkeypatch.undo()
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


def test_without_the_encoder_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = av.codec.Codec

    def codec(name: str, mode: str = "r") -> Any:
        if name == "libx264":
            raise av.codec.codec.UnknownCodecError(name)
        return known(name, mode)

    monkeypatch.setattr(av.codec, "Codec", codec)
    with pytest.raises(PictureError, match=r"no libx264 .*pip install --force-reinstall av.*--codec ffv1"):
        write_clip(tmp_path / "a.mp4", numbered(2))
    assert not list(tmp_path.iterdir())


def test_what_is_no_clip_is_refused_in_one_line(tmp_path: Path) -> None:
    for frames, durations, codec, why in (
        (numbered(1)[:0], None, "h264", "no frame to write"),
        (iter([]), None, "ffv1", "no frame to write"),
        (numbered(3), [Fraction(1)] * 2, "ffv1", "2 durations for 3 frames"),
        ([numbered(2), numbered(2, 40)], None, "h264", "frames of a clip have one size"),
        (numbered(1), None, "h266", "expected one of h264, vp9, ffv1, png"),
    ):
        with pytest.raises(PictureError, match=why) as error:
            write_clip(tmp_path / "a.mp4", frames, codec, durations)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_colon_in_its_name_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "take:1").mkdir()
    monkeypatch.chdir(tmp_path)
    write_clip("take:1/a.mkv", numbered(2), "ffv1")
    assert len(read_clip(tmp_path / "take:1" / "a.mkv").frames) == 2


@pytest.mark.parametrize(("own", "written"), [(37_800, 44_100), (192_000, 96_000), (4_000, 7_350)])
def test_sound_of_a_rate_that_aac_does_not_know_takes_another(tmp_path: Path, own: int, written: int) -> None:
    wave = (torch.arange(own // 2) * 2 * torch.pi * 440 / own).sin()[None]
    write_sound(tmp_path / "s.mkv", wave, own)
    notes = write_clip(
        tmp_path / "a.mp4",
        numbered(4),
        "h264",
        [Fraction(1, 10)] * 4,
        Sound(tmp_path / "s.mkv", Fraction(0), Fraction(4, 10)),
    )
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio[0].codec_context.sample_rate == written
        heard = sum(frame.samples for frame in container.decode(audio=0)) / written
    assert heard >= 0.39 and any(f"no {own} samples" in note for note in notes)
