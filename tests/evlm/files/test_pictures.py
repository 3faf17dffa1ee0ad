"""Pictures in and out of files: every mode widened right, damage is one error, nothing written half."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from evlm.errors import PictureError
from evlm.files.clips import load_frames
from evlm.files.pictures import (
    check_frames,
    from_pil,
    load_mask,
    load_picture,
    save_mask,
    save_picture,
    to_pil,
)

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.fixture
def rgb():
    return torch.from_numpy(RGB)[None].float() / 255


def png_bytes(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever is in it."""
    out = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


# --- reading ---


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (5, 7)])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_what_is_saved_is_loaded(tmp_path, size, suffix):
    frames = (torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    save_picture(tmp_path / f"a.{suffix}", frames)
    assert torch.equal(load_picture(tmp_path / f"a.{suffix}"), frames)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_jpeg_is_close(tmp_path):
    frames = torch.linspace(0, 1, 32)[None, :, None, None].expand(1, 32, 32, 3)
    save_picture(tmp_path / "a.jpg", frames)
    assert (load_picture(tmp_path / "a.jpg") - frames).abs().max() < 0.03


def test_alpha_lies_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 255
    pixels[0, :, 3] = [255, 0, 51]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = torch.tensor([[[1.0, 0, 0], [1, 1, 1], [1, 0.8, 0.8]]])
    assert torch.allclose(load_picture(tmp_path / "a.png")[0], expected)
    Image.fromarray(pixels).convert("LA").save(tmp_path / "la.png")
    grey = load_picture(tmp_path / "la.png")[0, 0]
    assert torch.allclose(grey[:, 0], torch.tensor([76 / 255, 1, 1 - 0.2 + 0.2 * 76 / 255]))


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    assert torch.equal(load_picture(tmp_path / "p.png")[0, 0], torch.eye(3))
    image.save(tmp_path / "t.png", transparency=1)
    assert torch.equal(load_picture(tmp_path / "t.png")[0, 0, 1], torch.ones(3))


def test_grey_black_and_white_cmyk(tmp_path):
    grey = np.array([[0, 128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "l.png")
    assert torch.allclose(load_picture(tmp_path / "l.png")[0, 0, :, 2], torch.tensor([0, 128 / 255, 1]))
    Image.fromarray(grey).convert("1", dither=Image.Dither.NONE).save(tmp_path / "1.png")
    assert load_picture(tmp_path / "1.png")[0, 0, :, 0].tolist() == [0, 1, 1]
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    assert torch.allclose(load_picture(tmp_path / "c.jpg")[0, 0, 0], torch.tensor([1.0, 0, 0]), atol=0.05)


def test_sixteen_bits_and_floats(tmp_path):
    deep = np.array([[0, 32768, 65535]], np.uint16)
    expected = torch.tensor([0, 32768 / 65535, 1])
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert torch.allclose(load_picture(tmp_path / name)[0, 0, :, 1], expected)
    Image.fromarray(deep.astype(np.float32) / 65535).save(tmp_path / "f.tif")
    assert torch.allclose(load_picture(tmp_path / "f.tif")[0, 0, :, 1], expected)
    for bad in (np.nan, np.inf, 7.0, -1.5):
        Image.fromarray(np.full((2, 2), bad, np.float32)).save(tmp_path / "bad.tif")
        with pytest.raises(PictureError, match="picture: values"):
            load_picture(tmp_path / "bad.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_rotation_is_applied(tmp_path, rgb, orientation):
    upright = Image.fromarray(RGB)
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the transpositions that a camera leaves to the reader, undone
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_picture(tmp_path / "a.png"), rgb)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_files_are_a_picture_or_one_error(tmp_path, kind):
    """Truncated anywhere, bytes changed anywhere: 120 cases a format."""
    buffer = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    data, rng = buffer.getvalue(), random.Random(0)
    refused = 0
    for case in range(120):
        damaged = bytearray(data)
        if case % 2:
            del damaged[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(min(len(data), 200 if case % 4 else len(data)))] = rng.randrange(256)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            assert load_picture(path).shape[-1] == 3
            frames, _ = load_frames(path)
            check_frames(frames)
        except PictureError as error:
            assert "damaged" in str(error)
            refused += 1
    assert refused >= 40


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"MZ\x00",
        b"cposix\nsystem\n(S'x'\ntR.",
        b"<svg/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for load in (load_picture, load_frames, load_mask):
        with pytest.raises(PictureError, match=r"a.png: not a picture that can be read"):
            load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"# a page\nof text\n", "it is text"),
        (b"MZ\0\1", "begins with 4d 5a 00 01"),
    ],
)
def test_what_it_is_instead_is_said_in_words(tmp_path, content, said):
    """Not "cannot identify image file <_io.BufferedReader name=...>"."""
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=said) as caught:
        load_picture(path)
    assert "BufferedReader" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    for load in (load_picture, load_frames, load_mask):
        with pytest.raises(PictureError, match="no such file"):
            load(tmp_path / "nothing.png")
    with pytest.raises(PictureError, match="no such file"):
        load_picture(tmp_path)
    with pytest.raises(PictureError, match="no such file"):
        load_frames(tmp_path / "nothing.mp4")
    with pytest.raises(PictureError, match="no pictures"):
        load_frames(tmp_path)


@pytest.mark.parametrize("size", [(9000, 9000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(*size, b"\x00" * 100_000))
    for load in (load_picture, load_frames, load_mask):
        with pytest.raises(PictureError, match=r"bomb\.png"):
            load(path)


# --- writing ---


@pytest.mark.parametrize(
    ("name", "frames", "reason"),
    [
        ("a.png", torch.full((1, 2, 2, 3), float("nan")), "finite"),
        ("a.png", torch.zeros(1, 0, 2, 3), "nothing empty"),
        ("a.png", torch.zeros(2, 2), "expected"),
        ("a.jpg", torch.zeros(2, 2, 2, 3), "2 frames cannot go into '.jpg'"),
        ("a.xyz", torch.zeros(1, 2, 2, 3), "no way to write"),
        ("a", torch.zeros(1, 2, 2, 3), "no way to write"),
        ("a.pdf", torch.zeros(1, 2, 2, 3), "no way to write"),
    ],
)
def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path, name, frames, reason):
    with pytest.raises(PictureError, match=reason):
        save_picture(tmp_path / name, frames)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.png"
    save_picture(path, rgb)
    before = path.read_bytes()

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("evlm.files.pictures.os.fsync", fail)
    with pytest.raises(PictureError, match="disk full"):
        save_picture(path, 1 - rgb)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["a.png"]


def test_masks(tmp_path):
    mask = torch.tensor([[0.0, 1.0, 128 / 255]])
    save_mask(tmp_path / "m.png", mask)
    assert torch.allclose(load_mask(tmp_path / "m.png"), mask[None])
    assert Image.open(tmp_path / "m.png").mode == "L"
    save_mask(tmp_path / "b.png", mask[None] > 0.9)
    assert load_mask(tmp_path / "b.png").tolist() == [[[0, 1, 0]]]
    with pytest.raises(PictureError, match=r"expected \[H, W\]"):
        save_mask(tmp_path / "c.png", mask.expand(2, -1, -1))
    with pytest.raises(PictureError, match="finite"):
        save_mask(tmp_path / "c.png", mask + 2)


def test_to_pil_and_back(rgb):
    assert torch.equal(from_pil(to_pil(rgb[0])), rgb)
    with pytest.raises(PictureError):
        to_pil(rgb)


def test_check_frames_keeps_what_is_good(rgb):
    assert check_frames(rgb).data_ptr() == rgb.data_ptr()
