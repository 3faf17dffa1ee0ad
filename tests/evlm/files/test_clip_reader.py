"""Clips of any length in windows: every frame once, at its time, and never more than a window in memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_maker import draw, number, write_video

from evlm.clips.given_mask import GivenMask
from evlm.errors import PictureError
from evlm.files.animations import animation_shots
from evlm.files.clip_reader import iter_clip, open_clip
from evlm.files.clip_writer import write_clip
from evlm.files.clips import read_clip, save_animation
from evlm.files.pictures import load_picture, save_picture
from evlm.files.selection import Selection

av = pytest.importorskip("av")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", "libx264", 14, rate=Fraction(30000, 1001))


@pytest.mark.parametrize(("window", "overlap"), [(4, 0), (5, 2), (14, 3), (20, 1), (1, 0)])
@pytest.mark.parametrize("frames", [None, "3:11", "0:14:2", "13:"])
def test_windows_hold_what_the_whole_clip_holds(video: Path, window: int, overlap: int, frames: str) -> None:
    selection = Selection.parse(frames)
    clip = read_clip(video, selection)
    found, durations = [], []
    for part in iter_clip(video, window, overlap, selection):
        assert len(part.frames) <= window and part.alpha is None
        assert torch.equal(part.frames, clip.frames[part.first : part.first + len(part.frames)])
        assert part.first + len(part.frames) - part.new == len(found)
        found += list(part.frames[-part.new :])
        durations += part.durations[-part.new :]
    assert len(found) == len(clip.frames) == open_clip(video, selection).count
    assert tuple(durations) == clip.durations


def test_from_any_frame_on(video: Path) -> None:
    clip = open_clip(video)
    windows = list(clip.windows(4, 1, begin=6))
    assert [part.first for part in windows] == [6, 9, 12]
    assert [number(each.numpy()) for each in windows[0].frames] == [6, 7, 8, 9]
    frames, rate = clip.some(4)
    assert [number(each.numpy()) for each in frames] == [0, 4, 9, 13]
    assert rate == Fraction(4, 14) * Fraction(30000, 1001)


def test_a_limit_and_a_rate(video: Path) -> None:
    selection = Selection(first=2, limit=5)
    (part,) = iter_clip(video, 9, 0, selection)
    assert [number(each.numpy()) for each in part.frames] == [2, 3, 4, 5, 6]
    assert open_clip(video, selection).count == 5
    assert open_clip(video, selection).begin == 2 * Fraction(1001, 30000)
    slow = Selection.parse(None, "10")
    (part,) = iter_clip(video, 9, 0, slow)
    assert torch.equal(part.frames, read_clip(video, slow).frames)


def test_depth_and_opacity_come_with_the_frames(tmp_path: Path) -> None:
    alpha = torch.arange(48 * 64).reshape(1, 48, 64, 1) % 256 / 255
    colours = torch.from_numpy(draw(3)).float()[None] / 255
    frames = torch.cat([colours, alpha], -1).expand(3, -1, -1, -1)
    write_clip(tmp_path / "a.mkv", frames, "ffv1")
    write_clip(tmp_path / "a.webm", frames, "vp9")
    for name, most in (("a.mkv", 0.0), ("a.webm", 0.1)):
        (part,) = iter_clip(tmp_path / name, 5)
        assert part.alpha is not None and open_clip(tmp_path / name).alpha
        assert (part.alpha - frames[..., 3]).abs().mean() <= most
    deep = torch.arange(48 * 64 * 3).reshape(1, 48, 64, 3) * 7 % 65536 / 65535
    write_clip(tmp_path / "deep.mkv", deep, "ffv1", bits=16)
    clip = open_clip(tmp_path / "deep.mkv")
    (part,) = clip.windows(5)
    assert torch.equal(part.frames, deep) and clip.bits == 16 and clip.notes == []


def test_animations_and_folders_are_clips_too(tmp_path: Path) -> None:
    frames = torch.from_numpy(np.stack([draw(each) for each in range(5)])).float() / 255
    save_animation(tmp_path / "a.webp", frames, durations=[Fraction(1, 10), *[Fraction(1, 20)] * 4])
    for index, frame in enumerate(frames):
        save_picture(tmp_path / "folder" / f"{index}.png", frame)
    for name in ("a.webp", "folder"):
        clip = open_clip(tmp_path / name)
        windows = list(clip.windows(2))
        assert torch.equal(torch.cat([part.frames for part in windows]), frames) and clip.count == 5
    assert "8 a second" in clip.notes[0]


@pytest.mark.parametrize("cut", ["nothing", "text", "half", "sound", "no frames", "gone"])
def test_what_is_no_clip_is_said_in_one_line(tmp_path: Path, cut: str) -> None:
    path = write_video(tmp_path / "a.mp4", "libx264", 6, sound=0.3)
    data = path.read_bytes()
    if cut == "sound":
        path = tmp_path / "a.m4a"
        with av.open(str(path), "w", format="mp4") as container:
            tone = container.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 48000
            container.mux([*tone.encode(frame), *tone.encode()])
    elif cut == "gone":
        path.unlink()
    elif cut != "no frames":
        path.write_bytes({"nothing": b"", "text": b"a clip " * 99, "half": data[: len(data) // 2]}[cut])
    selection = Selection(first=100) if cut == "no frames" else None
    with pytest.raises(PictureError, match=path.name) as error:
        list(iter_clip(path, 4, 0, selection))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.mp4", "a", "a.mov"])
def test_an_mp4_without_its_end_is_said_to_be_cut_off(tmp_path: Path, name: str) -> None:
    data = write_video(tmp_path / "whole.mp4", "libx264", 12).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    for read in (open_clip, read_clip):
        with pytest.raises(PictureError, match=f"{path}: not a video .*cut off, and its index.*is lost"):
            read(path)


def test_the_last_of_uneven_frames_lasts_as_long_in_a_matroska_as_it_was_written(tmp_path: Path) -> None:
    lasting = tuple(Fraction(each, 100) for each in (10, 5, 20, 10, 3))
    path = tmp_path / "a.mkv"
    write_clip(path, torch.rand(5, 16, 16, 3), "ffv1", lasting)
    assert read_clip(path).durations == lasting
    clip = open_clip(path)
    assert [each for part in clip.windows(2) for each in part.durations] == list(lasting)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])  # it still says how long all was
    cut = read_clip(path)
    assert len(cut.frames) < 5 and (cut.durations or ())[-1] <= Fraction(4, 5)


def test_a_clip_cut_inside_a_window_gives_what_there_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", "ffv1", 12, pix_fmt="bgr0")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    clip = open_clip(path)
    numbers = [number(each.numpy()) for part in clip.windows(4) for each in part.frames[-part.new :]]
    assert numbers == list(range(len(numbers))) and 5 <= len(numbers) < 12
    assert any("damaged or cut off" in note for note in clip.notes)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """Peak of 300 frames of 256 px against that of 32, of one process, which reads the 32 first."""
    paths = [
        write_video(
            tmp_path / f"{count}.mp4", "libx264", numbers=[3] * count, size=(256, 256), preset="ultrafast"
        )
        for count in (32, 300)
    ]
    code = (
        "import resource, sys; from evlm.files.clip_reader import iter_clip\n"
        "for path in sys.argv[1:]:\n"
        "    n = sum(part.new for part in iter_clip(path, 8, 2))\n"
        "    print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    words = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (32, 300) and after <= 1.1 * before


def test_frames_that_were_read_are_gone_without_the_collector(video: Path) -> None:
    """PyAV's frame and its side data hold each other, once somebody has asked for it."""
    gc.collect()
    gc.disable()
    try:
        seen = sum(len(window.frames) for window in iter_clip(video, 4))
        held = sum(type(each).__name__ == "VideoFrame" for each in gc.get_objects())
    finally:
        gc.enable()
    assert seen >= 10 and held < 3


def test_pictures_keep_their_depth_and_their_opacity(tmp_path: Path) -> None:
    """A folder of pictures of 8 bits is no clip of 16, and one that can be seen through stays so."""
    from PIL import Image

    seen = draw(3)
    alpha = np.full((*seen.shape[:2], 1), 255, np.uint8)
    alpha[:8], alpha[8:16] = 0, 100
    for at, picture in enumerate((seen, np.concatenate([seen, alpha], -1))):
        for folder in ("mixed", ["opaque", "clear"][at]):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{at}.png")
    opaque, clear = open_clip(tmp_path / "opaque"), open_clip(tmp_path / "clear")
    assert (opaque.bits, opaque.alpha) == (8, False) and (clear.bits, clear.alpha) == (8, True)
    assert np.array_equal(next(opaque.frames()).pixels.numpy(), seen)
    pixels = next(clear.frames()).pixels.numpy()
    assert np.array_equal(pixels[..., 3:], alpha) and np.array_equal(pixels[8:, :, :3], seen[8:])
    assert bool((pixels[:8, :, :3] == 255).all())  # of what cannot be seen no colour means anything
    shown, _ = clear.some(1)  # what a reasoner sees lies over white, as `load_picture` gives it
    assert torch.allclose(shown, load_picture(tmp_path / "clear" / "1.png"), atol=1e-6)
    masks = GivenMask(tmp_path / "clear", clear, None, clear)
    assert torch.allclose(next(masks.windows(1)), shown.mean(-1))
    (window,) = open_clip(tmp_path / "mixed").windows(3)
    assert window.alpha is not None and bool((window.alpha[0] == 1).all())
    (tmp_path / "deep").mkdir()
    write_clip(tmp_path / "deep.frames", torch.rand(1, 8, 8, 3), "png", bits=16)
    assert open_clip(tmp_path / "deep.frames").bits == 16


def test_an_animation_is_gone_through_once_before_its_frames_come() -> None:
    sought: list[int] = []
    image = SimpleNamespace(format="PNG", mode="RGB", info={}, n_frames=4, seek=sought.append)
    count, _ = animation_shots(image, [])  # type: ignore[arg-type]
    assert count == 4 and sought == sorted(sought), "going back decodes all from the first frame"


def test_an_animation_keeps_its_opacity_and_a_tiff_is_one_picture(tmp_path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(draw(at)).convert("RGBA") for at in range(3)]
    pictures[1].putpixel((20, 20), (0, 0, 0, 0))
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True, exact=True
    )
    clip = open_clip(tmp_path / "a.webp")
    frames = [each.pixels for each in clip.frames()]
    assert clip.alpha and clip.bits == 8 and len(frames) == clip.count == 3
    assert [int((each[..., 3] == 0).sum()) for each in frames] == [0, 1, 0]
    save_animation(tmp_path / "b.gif", torch.from_numpy(np.stack([draw(1), draw(2)])).float() / 255, 8)
    clip = open_clip(tmp_path / "b.gif")
    assert (clip.bits, clip.alpha, clip.count) == (8, False, 2)
    pages = [each.convert("RGB") for each in pictures]
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    clip = open_clip(tmp_path / "c.tif")
    assert clip.count == len(list(clip.frames())) == 1 and "3 pages" in clip.notes[0]
