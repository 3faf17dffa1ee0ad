"""Videos, animations and folders of frames in and out of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from evlm.errors import PictureError
from evlm.files import clips
from evlm.files.clips import load_frames
from evlm.files.pictures import check_frames, load_picture, save_picture

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
    with pytest.raises(PictureError, match="different sizes"):
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
