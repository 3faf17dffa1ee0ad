"""Videos, animations and folders of frames in and out of files."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_maker import draw, number, write_video
from PIL import Image

from evlm.errors import PictureError
from evlm.files import clips
from evlm.files.clips import load_frames
from evlm.files.pictures import check_frames, load_picture, save_picture

ROOT = Path(__file__).resolve().parents[3]
RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.fixture
def rgb():
    return torch.from_numpy(RGB)[None].float() / 255


@pytest.fixture
def moving():
    frames = torch.zeros(5, 6, 8, 3)
    for index in range(5):
        frames[index, :, index] = 1
    return frames


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations(tmp_path, moving, suffix):
    save_picture(tmp_path / f"a.{suffix}", moving, fps=10)
    frames, fps = load_frames(tmp_path / f"a.{suffix}")
    assert torch.equal(frames, moving) and fps == pytest.approx(10)
    assert torch.equal(load_picture(tmp_path / f"a.{suffix}"), moving[:1])


def test_a_folder_of_pictures_in_natural_order(tmp_path, moving):
    for index, frame in enumerate(moving):
        save_picture(tmp_path / f"frame{index + 8}.png", frame)  # 8, 9, 10, 11, 12
    (tmp_path / "notes.txt").write_text("x")
    frames, fps = load_frames(tmp_path)
    assert torch.equal(frames, moving) and fps is None
    save_picture(tmp_path / "z.png", torch.zeros(3, 3, 3))
    with pytest.raises(
        PictureError, match=r"frame 5, counted from 0, is 3 x 3, and those before it are .* one size"
    ):
        load_frames(tmp_path)


def test_one_picture_is_one_frame(tmp_path, rgb):
    save_picture(tmp_path / "a.png", rgb)
    frames, fps = load_frames(tmp_path / "a.png")
    assert torch.equal(frames, rgb) and fps is None


def test_a_phone_picture_with_a_second_picture_in_it_is_one_frame(tmp_path, rgb):
    Image.fromarray(RGB).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (2, 2))], quality=100
    )
    frames, fps = load_frames(tmp_path / "a.jpg")
    assert (frames - rgb).abs().max() < 0.1 and fps is None


def test_a_video_file(tmp_path, moving):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in (0, 120, 240):
            picture = np.full((48, 64, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    frames, fps = load_frames(path)
    assert frames.shape == (3, 48, 64, 3) and fps == pytest.approx(12)
    assert torch.allclose(frames.mean((1, 2, 3)), torch.tensor([0, 120, 240]) / 255, atol=0.05)
    check_frames(frames)
    data = path.read_bytes()
    for cut in (0, 10, 100, len(data) // 2, len(data) - 50):
        path.write_bytes(data[:cut])
        try:
            assert load_frames(path)[0].shape[1:] == (48, 64, 3)
        except PictureError as error:
            assert "a.mp4" in str(error)


def test_too_many_frames_are_refused_before_they_are_decoded(tmp_path, moving, monkeypatch):
    save_picture(tmp_path / "a.gif", moving)
    save_picture(tmp_path / "one" / "1.png", moving[0])
    save_picture(tmp_path / "one" / "2.png", moving[0])
    monkeypatch.setattr(clips, "MAX_TOTAL_PIXELS", 6 * 8 + 1)
    for path in ("a.gif", "one"):
        with pytest.raises(PictureError, match="take fewer frames"):
            load_frames(tmp_path / path)


# --- times, equal frames, selections (C5, C7) ---


def numbered(count: int, numbers: Sequence[int] | None = None) -> torch.Tensor:
    pictures = [draw(each) for each in (range(count) if numbers is None else numbers)]
    return torch.from_numpy(np.stack(pictures)).float() / 255


def shown_by_pillow(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """uint8 [H, W, 3] of each frame, and its milliseconds, by Pillow itself."""
    pictures, milliseconds = [], []
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            pictures.append(np.asarray(image.convert("RGB")))
            milliseconds.append(round(image.info.get("duration", 0)))
    return pictures, milliseconds


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
@pytest.mark.parametrize("numbers", [(0, 0, 0, 1, 1, 0), (5,) * 13])
def test_equal_neighbouring_frames_stay_frames(tmp_path: Path, suffix: str, numbers: tuple[int, ...]) -> None:
    """(C5)"""
    frames = numbered(0, numbers)
    save_picture(tmp_path / f"a.{suffix}", frames, fps=10)
    pictures, milliseconds = shown_by_pillow(tmp_path / f"a.{suffix}")
    assert milliseconds == [100] * len(numbers)
    assert np.array_equal(np.stack(pictures), (frames * 255).byte().numpy())
    assert torch.equal(load_frames(tmp_path / f"a.{suffix}")[0], frames)


@pytest.mark.parametrize(
    ("suffix", "fps", "milliseconds"),
    [
        ("webp", 60, [17, 16, 17, 17, 16, 17]),
        ("webp", 60000 / 1001, [17, 16, 17, 17, 16, 17]),
        ("webp", 24000 / 1001, [42, 41, 42, 42, 42, 41]),
        ("gif", 30, [30, 40, 30, 30, 40, 30]),
        ("gif", 50, [20] * 6),
    ],
)
def test_a_rate_that_the_format_cannot_hold_does_not_drift(
    tmp_path: Path, suffix: str, fps: float, milliseconds: list[int]
) -> None:
    """(C5)"""
    save_picture(tmp_path / f"a.{suffix}", numbered(6), fps=fps)
    assert shown_by_pillow(tmp_path / f"a.{suffix}")[1] == milliseconds


def test_apng_holds_frame_rates_exactly(tmp_path: Path) -> None:
    """59.94 fps is 1001/60000 s a frame, two numbers of 16 bits. (C5)"""
    save_picture(tmp_path / "a.png", numbered(3), fps=60000 / 1001)
    data = (tmp_path / "a.png").read_bytes()
    controls = [data[at + 4 :] for at in range(len(data)) if data[at : at + 4] == b"fcTL"]
    assert [struct.unpack_from(">HH", each, 20) for each in controls] == [(1001, 60000)] * 3


def test_a_gif_that_no_player_would_show_at_its_rate_is_refused(tmp_path: Path) -> None:
    """Below 0.02 s browsers and FFmpeg show a frame for 0.1 s. (C5)"""
    with pytest.raises(PictureError, match=r"0\.02 s.*use \.webp or \.png"):
        save_picture(tmp_path / "a.gif", numbered(3), fps=60)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_times_are_kept_each_by_itself(tmp_path: Path, suffix: str) -> None:
    """(C5)"""
    assert hasattr(clips, "read_clip"), "times are not read"
    durations = [Fraction(n, 1000) for n in (100, 100, 500, 100, 50, 20)]
    notes = clips.save_animation(tmp_path / f"a.{suffix}", numbered(6), durations=durations)
    clip = clips.read_clip(tmp_path / f"a.{suffix}")
    assert notes == [] and list(clip.durations) == durations
    assert clip.times == tuple(Fraction(n, 1000) for n in (0, 100, 200, 700, 800, 850))
    assert clip.rate == Fraction(6000, 870)


def test_what_a_format_rounds_is_said(tmp_path: Path) -> None:
    """(C5)"""
    assert hasattr(clips, "read_clip"), "times are not read"
    durations = [Fraction(1001, 60000)] * 4
    assert (
        "whole milliseconds" in clips.save_animation(tmp_path / "a.webp", numbered(4), durations=durations)[0]
    )
    assert clips.save_animation(tmp_path / "a.png", numbered(4), durations=durations) == []
    for bad in ([Fraction(1)] * 3, [Fraction(-1), *durations[1:]]):
        with pytest.raises(PictureError, match="durations for 4 frames"):
            clips.save_animation(tmp_path / "b.webp", numbered(4), durations=bad)


def test_what_was_written_is_read_back_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk, or a library, that returns other bytes than were given leaves no file behind. (C5)"""
    save_picture(tmp_path / "a.webp", numbered(3), fps=10)
    before = (tmp_path / "a.webp").read_bytes()
    real = Image.Image.save

    def lossy(image: Image.Image, file: object, *rest: object, **options: object) -> None:
        real(image, file, *rest, **{**options, "lossless": False, "quality": 1})

    monkeypatch.setattr(Image.Image, "save", lossy)
    with pytest.raises(PictureError, match="read back"):
        save_picture(tmp_path / "a.webp", numbered(4), fps=10)
    assert (tmp_path / "a.webp").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_frames_of_every_size_and_change_are_written_as_they_are(tmp_path: Path) -> None:
    """Only what changed is stored of a later frame: a pixel in a corner, nothing, everything."""
    generator = torch.Generator().manual_seed(3)
    for height, width in ((1, 1), (1, 7), (6, 1), (5, 9)):
        frames = torch.randint(0, 256, (1, height, width, 3), generator=generator).float().div(255)
        frames = frames.repeat(6, 1, 1, 1)
        frames[1, -1, -1] = 1 - frames[1, -1, -1]
        frames[3, 0, 0, 1] = 1 - frames[3, 0, 0, 1]
        frames[4] = 1 - frames[4]
        for suffix in ("webp", "png"):
            save_picture(tmp_path / f"a.{suffix}", frames, fps=25)
            assert torch.equal(load_frames(tmp_path / f"a.{suffix}")[0], (frames * 255).round() / 255)


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    pytest.importorskip("av")
    return write_video(
        tmp_path / "forty.mp4", "libx264", numbers=[n % 32 for n in range(40)], crf="10", g="8"
    )


@pytest.mark.parametrize(
    ("frames", "fps", "numbers", "steps"),
    [
        ("0:4", None, [0, 1, 2, 3], [1, 1, 1, 1]),
        ("28:", None, [28, 29, 30, 31, 0, 1, 2, 3, 4, 5, 6, 7], [1] * 12),
        (":20:5", None, [0, 5, 10, 15], [5, 5, 5, 5]),
        ("3:9", "12.5", [3, 5, 7], [2, 2, 2]),
        (None, "5", [0, 5, 10, 15, 20, 25, 30, 3], [5] * 8),
        ("0:8", "10", [0, 2, 5, 7], [Fraction(5, 2)] * 3 + [Fraction(1, 2)]),
        ("0:3", "1000", [0, 1, 2], [1, 1, 1]),
        ("0:25", "30000/30001", [0], [25]),
    ],
)
def test_a_range_and_a_rate_can_be_chosen(
    forty: Path, frames: str | None, fps: str | None, numbers: list[int], steps: list[Fraction]
) -> None:
    """(C7)"""
    assert hasattr(clips, "Selection"), "nothing can be chosen"
    clip = clips.read_clip(forty, clips.Selection.parse(frames, fps))
    assert [number(frame.numpy()) for frame in clip.frames] == numbers
    assert [duration * 25 for duration in clip.durations] == steps


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        *((frames, None) for frames in ("", "5", "4:4", "5:2", "-3:", "0:4:0", "a:b")),
        *((None, fps) for fps in ("0", "-1", "1/0", "nan", "inf", "1001", "x")),
    ],
)
def test_what_is_no_range_or_rate_is_refused(frames: str | None, fps: str | None) -> None:
    """(C7)"""
    assert hasattr(clips, "Selection"), "nothing can be chosen"
    with pytest.raises(PictureError, match="expected"):
        clips.Selection.parse(frames, fps)


def test_a_range_behind_the_end_says_how_many_frames_there_are(forty: Path) -> None:
    """(C7)"""
    assert hasattr(clips, "Selection"), "nothing can be chosen"
    with pytest.raises(PictureError, match="40 frames"):
        clips.read_clip(forty, clips.Selection.parse("40:50"))


@pytest.mark.parametrize("name", ["forty.mp4", "a.gif", "a.webp", "folder"])
def test_too_much_is_refused_before_it_is_decoded_with_a_choice_that_fits(
    tmp_path: Path, forty: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal names the numbers and the option; what it proposes is then read. (C7)"""
    path = tmp_path / name
    if name.startswith("a."):
        save_picture(path, numbered(0, [n % 32 for n in range(40)]), fps=25)
    elif name == "folder":
        for index in range(40):
            save_picture(path / f"{index}.png", numbered(0, [index % 32]))
    monkeypatch.setattr(clips, "MAX_TOTAL_PIXELS", 48 * 64 * 11 + 5)
    with pytest.raises(PictureError) as refusal:
        load_frames(path)
    text = str(refusal.value)
    assert "40 frames of 64 x 48 are 122,880 pixels; at most 33,797 are read" in text
    proposed = re.search(r"--frames (\S+?)(?: or --fps ([0-9.]+))?,", text)
    assert proposed and proposed[1] == "0:11"
    assert len(clips.read_clip(path, clips.Selection.parse(proposed[1])).frames) == 11
    if proposed[2]:
        assert 9 <= len(clips.read_clip(path, clips.Selection.parse(None, proposed[2])).frames) <= 11


@pytest.mark.parametrize("name", ["forty.mp4", "vfr.mkv", "a.gif", "a.webp", "a.png", "folder", "a.avi"])
def test_of_a_reference_only_the_frames_that_are_seen_are_taken(
    tmp_path: Path, forty: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same frames that the reasoner would pick of all. (C7)"""
    assert hasattr(clips, "Selection"), "nothing can be chosen"
    path, numbers = tmp_path / name, [n % 32 for n in range(40)]
    if name == "vfr.mkv":
        write_video(
            path, "libvpx-vp9", numbers=numbers, pts=[n * n for n in range(40)], base=Fraction(1, 100), g="9"
        )
    elif name == "a.avi":
        write_video(path, "mpeg4", numbers=numbers, q="2", g="7")
    elif name == "folder":
        for index in range(40):
            save_picture(path / f"{index}.png", numbered(0, [index % 32]))
    elif name != "forty.mp4":
        save_picture(path, numbered(0, numbers), fps=25)
    monkeypatch.setattr(clips, "MAX_TOTAL_PIXELS", 48 * 64 * 8)
    clip = clips.read_clip(path, clips.Selection(at_most=8))
    wanted = [0, 6, 11, 17, 22, 28, 33, 39]
    assert [number(frame.numpy()) for frame in clip.frames] == [n % 32 for n in wanted]
    if name == "vfr.mkv":
        assert [round(time * 100) for time in clip.times] == [n * n for n in wanted]
    elif name != "folder":
        assert [time * 25 for time in clip.times] == wanted


def test_a_long_video_needs_the_memory_of_what_is_taken(tmp_path: Path) -> None:
    """150 frames of 640 x 480 are 550 MB as float; eight of them, and ten of them, are 30 and 37 MB. (C7)"""
    pytest.importorskip("av")
    path = write_video(
        tmp_path / "long.mp4", "libx264", numbers=[n % 32 for n in range(150)], size=(480, 640),
        preset="ultrafast", g="30", sc_threshold="0",
    )  # fmt: skip
    code = """
import av, resource, sys, torch
from evlm.files import clips
clips.MAX_TOTAL_PIXELS = 32_000_000
memory = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
try:
    clips.load_frames(sys.argv[1])
except clips.PictureError as error:
    print(error)
memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
if hasattr(clips, "Selection"):
    few = clips.read_clip(sys.argv[1], clips.Selection(at_most=8))
    first = clips.read_clip(sys.argv[1], clips.Selection(end=10))
    print(len(few.frames), len(first.frames))
memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*memory)
"""
    run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    *said, figures = run.stdout.splitlines()
    before, refused, after = map(int, figures.split())
    assert refused - before < 100_000 and after - before < 250_000  # KB
    assert "150 frames of 640 x 480 are 46,080,000 pixels; at most 32,000,000 are read" in said[0]
    assert "--frames 0:104 or --fps 17.16" in said[0] and said[1] == "8 10"


# --- by content ---


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "mp3"), ("a.flac", "flac"), ("a.mp4", "aac")])
def test_sound_with_a_cover_picture_is_no_video(tmp_path: Path, name: str, codec: str) -> None:
    """(C3)"""
    av = pytest.importorskip("av")
    path = (tmp_path / name).with_suffix(".mp4")
    with av.open(str(path), "w", format=name[2:]) as container:
        tone = container.add_stream(codec, rate=44100)
        cover = container.add_stream("png" if codec == "flac" else "mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24" if codec == "flac" else "yuvj420p"
        if not hasattr(cover, "disposition"):
            pytest.skip("this PyAV cannot mark a cover picture")
        cover.disposition = av.stream.Disposition.attached_pic.value  # PyAV below 16 takes the number
        picture = av.VideoFrame.from_ndarray(draw(1), format="rgb24").reformat(format=cover.pix_fmt)
        container.mux([*cover.encode(picture), *cover.encode()])
        form = "s16" if codec == "flac" else "fltp"
        for start in range(0, 44100, 1152):
            silence = np.zeros((1, 1152), np.int16 if form == "s16" else np.float32)
            samples = av.AudioFrame.from_ndarray(silence, format=form, layout="mono")
            samples.sample_rate, samples.pts = 44100, start
            container.mux(tone.encode(samples))
        container.mux(tone.encode())
    with pytest.raises(PictureError, match="sound with a cover picture"):
        load_frames(path)


def test_the_pages_of_a_tiff_are_said(tmp_path: Path) -> None:
    """(C3)"""
    assert hasattr(clips, "read_clip"), "notes are not read"
    pages = [Image.fromarray(draw(n)) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    clip = clips.read_clip(tmp_path / "a.tif")
    assert torch.equal(clip.frames, numbered(1)) and clip.durations is None
    assert clip.notes == ("the TIFF has 3 pages; the first one is taken",)


def test_hidden_files_in_a_folder_of_frames_are_skipped(tmp_path: Path, moving: torch.Tensor) -> None:
    """What macOS and editors leave beside the frames. (C16)"""
    for index, frame in enumerate(moving):
        save_picture(tmp_path / f"{index}.png", frame)
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7Mac OS X")
    (tmp_path / ".hidden.png").write_bytes(b"")
    try:
        frames = load_frames(tmp_path)[0]
    except PictureError as error:
        pytest.fail(str(error))
    assert torch.equal(frames, moving)
    assert hasattr(clips, "Selection"), "no rate can be given"
    clip = clips.read_clip(tmp_path, clips.Selection.parse("1:4", "12"))
    assert torch.equal(clip.frames, moving[1:4]) and clip.durations == (Fraction(1, 12),) * 3


@pytest.mark.parametrize("list_of_others", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\nother.mp4\n"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, list_of_others: str) -> None:
    """A playlist would lead FFmpeg to files and addresses that nobody named."""
    write_video(tmp_path / "other.mp4", "libx264")
    (tmp_path / "a.mp4").write_text(list_of_others)
    with pytest.raises(PictureError, match=r"a\.mp4: not a video that can be read"):
        load_frames(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").rename(tmp_path / "a")
    with pytest.raises(PictureError, match="not a picture that can be read"):
        load_frames(tmp_path / "a")


def test_damaged_videos_are_a_clip_or_one_error(tmp_path: Path) -> None:
    """Bytes changed anywhere, cut anywhere: 60 cases of three containers."""
    pytest.importorskip("av")
    rng = random.Random(5)
    for suffix in ("mp4", "mkv", "ts"):
        data = write_video(tmp_path / f"good.{suffix}", "libx264", g="3", crf="20").read_bytes()
        for case in range(20):
            damaged = bytearray(data)
            for _ in range(rng.randint(1, 30)):
                damaged[rng.randrange(len(data))] = rng.randrange(256)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(damaged[: rng.randrange(len(data))] if case % 3 == 0 else damaged)
            try:
                check_frames(load_frames(path)[0])
            except PictureError as error:
                assert str(path) in str(error)
