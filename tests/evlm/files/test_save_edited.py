"""Saving an edited still: what stays bit for bit, what is said, what is refused."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from icc_profiles import adobe_rgb, display_p3, grey
from PIL import Image, features
from png_by_hand import chunk, png, read_png
from scripted import EditCommand
from still_kinds import deep, exif, iccp, photograph, with_alpha
from torch import Tensor

from evlm.errors import PictureError


def middle(frames: Tensor) -> Tensor:
    mask = torch.zeros(frames.shape[:3])
    mask[:, 10:20, 10:30] = 1
    return mask


def told(edit: EditCommand) -> str:
    """The notes that the record of an edit keeps."""
    return " | ".join(json.loads((edit.out / "trace.json").read_text(encoding="utf-8"))["notes"])


def test_what_an_edit_left_alone_inside_the_mask_keeps_its_numbers(tmp_path: Path) -> None:
    """Also through a profile, which rounds; also where the paint fades in. (C2, C3)"""
    from evlm import load_still, save_edited

    for name, values in (("8.png", photograph()), ("16.png", deep())):
        (tmp_path / name).write_bytes(png(values, iccp(display_p3())))
        still = load_still(tmp_path / name)
        edited = still.frames.clone()
        edited[0, 12:14, 12:20] = 0.5
        save_edited(tmp_path / "out.png", edited, None, still)
        written, _ = read_png(tmp_path / "out.png")
        changed = (written != values).any(-1)
        assert changed[12:14, 12:20].any() and changed.sum() <= 16


def test_sixteen_bits_are_painted_in_sixteen(tmp_path: Path) -> None:
    """A ramp finer than 8 bits. (C3)"""
    from evlm import load_still, save_edited

    (tmp_path / "a.png").write_bytes(png(deep()))
    still = load_still(tmp_path / "a.png")
    ramp = torch.linspace(0.2, 0.21, 200).reshape(1, 10, 20, 1).expand(-1, -1, -1, 3)
    edited = still.frames.clone()
    edited[:, 10:20, 10:30] = ramp
    save_edited(tmp_path / "out.png", edited, middle(edited), still)
    written, _ = read_png(tmp_path / "out.png")
    assert len(np.unique(written[10:20, 10:30, 0])) == 200
    assert np.abs(written[10:20, 10:30] / 65535 - ramp[0].numpy()).max() < 1e-5


def test_under_alpha_the_paint_looks_over_white_as_it_was_painted(tmp_path: Path) -> None:
    """(C1)"""
    from evlm import load_still, save_edited

    values = with_alpha(photograph())
    values[..., 3] = np.linspace(0, 255, 44).round().astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(values))
    still = load_still(tmp_path / "a.png")
    edited = still.frames.clone()
    edited[:, 10:20, 10:30] = torch.tensor([0.97, 0.96, 0.95])
    saved = save_edited(tmp_path / "out.png", edited, middle(edited), still)
    written, _ = read_png(tmp_path / "out.png")
    assert np.array_equal(written[..., 3], values[..., 3]) and not saved.notes
    alpha = written[..., 3:] / 255
    over_white = written[..., :3] / 255 * alpha + 1 - alpha
    assert np.abs(over_white - edited[0].numpy())[10:20, 10:30].max() < 1 / 255


def test_what_is_painted_under_full_transparency_is_said(edit: EditCommand, tmp_path: Path) -> None:
    """(C1)"""
    values = with_alpha(photograph())
    values[..., 3] = 0
    (tmp_path / "a.png").write_bytes(png(values))
    assert edit(tmp_path / "a.png") == 0
    assert "100% of what was painted is transparent" in told(edit)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_the_file_says_besides_is_kept(edit: EditCommand, tmp_path: Path, bits: int) -> None:
    """Dots per inch, gamma, the camera; the orientation is done and gone. (C2, C3)"""
    pieces = [
        chunk(b"gAMA", struct.pack(">I", 100_000)),
        chunk(b"pHYs", struct.pack(">IIB", 11811, 5906, 1)),
        chunk(b"eXIf", exif(6).tobytes()[6:]),
    ]
    (tmp_path / "a.png").write_bytes(png(deep() if bits == 16 else photograph(), *pieces))
    assert edit(tmp_path / "a.png") == 0
    _, chunks = read_png(edit.edited)
    assert chunks[b"gAMA"] == struct.pack(">I", 100_000)
    assert chunks[b"pHYs"] == struct.pack(">IIB", 11811, 5906, 1)
    with Image.open(edit.edited) as image:
        assert image.getexif()[0x010F] == "maker" and 0x0112 not in image.getexif()
    assert "a gamma of 1: it is kept" in told(edit)


def test_dots_per_inch_of_a_jpeg_are_kept(edit: EditCommand, tmp_path: Path) -> None:
    """(C2)"""
    Image.fromarray(photograph()).save(tmp_path / "a.jpg", dpi=(300, 300), icc_profile=adobe_rgb())
    assert edit(tmp_path / "a.jpg") == 0
    with Image.open(edit.edited) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_mask_is_its_numbers_whatever_its_profile(tmp_path: Path) -> None:
    """A profile says how light a grey looks; a mask of 128 is half all the same. (C2)"""
    from evlm import load_mask

    values = np.array([[[0], [64], [128], [255]]], np.uint8)
    (tmp_path / "m.png").write_bytes(png(values, iccp(grey())))
    assert torch.equal(load_mask(tmp_path / "m.png") * 255, torch.tensor([[[0.0, 64, 128, 255]]]))


def pages(path: Path) -> None:
    first = Image.fromarray(photograph())
    first.save(path, "TIFF", save_all=True, append_images=[first, first])


def second_picture(path: Path) -> None:
    first = Image.fromarray(photograph())
    first.save(path, "MPO", save_all=True, append_images=[first])


def damaged_profile(path: Path) -> None:
    Image.fromarray(photograph()).save(path, "JPEG", icc_profile=b"no profile" * 30)


def hdr(path: Path) -> None:
    path.write_bytes(png(deep(), chunk(b"cICP", b"\x09\x10\0\x01")))


def hdr_avif(path: Path) -> None:
    """As phones take them: the colour box says PQ."""
    buffer = BytesIO()
    Image.fromarray(photograph()).save(buffer, "AVIF")
    content = bytearray(buffer.getvalue())
    at = content.index(b"colrnclx") + 10
    content[at : at + 2] = (16).to_bytes(2, "big")
    path.write_bytes(content)


def too_bright(path: Path) -> None:
    Image.fromarray((photograph()[..., 0] / 200).astype(np.float32)).save(path, "TIFF")


def grey_16(path: Path) -> None:
    path.write_bytes(png(deep()[..., :1]))


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (pages, "the file holds 3 pages; the first is taken"),
        (second_picture, "the file holds 2 pictures; the first is taken"),
        (damaged_profile, "the colour profile does not fit the picture; it is left out"),
        (hdr, "an HDR picture (PQ or HLG): its numbers are kept"),
        pytest.param(
            hdr_avif,
            "an HDR picture (PQ or HLG): its values are taken as they are",
            marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow below 11.3 has no AVIF"),
        ),
        (too_bright, "are clamped to 0..1"),
        (grey_16, "the original is grey and the edit is not: written in RGB"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_kept_is_said(edit: EditCommand, tmp_path: Path, make: object, note: str) -> None:
    """(C3, C21)"""
    make(tmp_path / "picture")  # type: ignore[operator]
    assert edit(tmp_path / "picture") == 0
    assert note in told(edit)


def test_floats_outside_0_to_1_are_kept_outside_the_mask(edit: EditCommand, tmp_path: Path) -> None:
    """(C3, C21)"""
    import tifffile

    values = (photograph()[..., 0] / 200).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert edit(tmp_path / "a.tif") == 0
    written = tifffile.imread(edit.edited)
    assert np.array_equal(written[0, :, 0], values[0]) and values[0].max() > 1


def test_alpha_that_was_multiplied_in_is_divided_out(edit: EditCommand, tmp_path: Path) -> None:
    """A TIFF of 16 bits with associated alpha. (C1, C3)"""
    import tifffile

    values = with_alpha(deep()).astype(np.int64)
    values[..., :3] = values[..., :3] * values[..., 3:] // 65535
    tifffile.imwrite(
        tmp_path / "a.tif", values.astype(np.uint16), photometric="rgb", extrasamples=["assocalpha"]
    )
    assert edit(tmp_path / "a.tif") == 0
    written, _ = read_png(edit.edited)
    opaque = written[-1]  # the last row
    assert np.array_equal(opaque, with_alpha(deep())[-1]) and "multiplied by alpha" in told(edit)


def test_lab_becomes_rgb(edit: EditCommand, tmp_path: Path) -> None:
    """(C2)"""
    from PIL import ImageCms

    lab = ImageCms.profileToProfile(
        Image.fromarray(photograph()),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    lab.save(tmp_path / "a.tif")
    assert edit(tmp_path / "a.tif") == 0
    written, _ = read_png(edit.edited)
    assert np.abs(written[0].astype(int) - photograph()[0]).mean() < 3
    assert "Lab" in told(edit)


@pytest.mark.parametrize(
    ("name", "shape", "mask_shape", "reason"),
    [
        ("out.jpg", (1, 30, 44, 3), (1, 30, 44), "would change what is outside the mask; use .png or .tif"),
        ("out", (1, 30, 44, 3), (1, 30, 44), "would change what is outside the mask"),
        ("out.png", (1, 30, 43, 3), (1, 30, 44), "edited frames of shape"),
        ("out.png", (2, 30, 44, 3), (1, 30, 44), "edited frames of shape"),
        ("out.png", (1, 30, 44, 3), (1, 44, 30), "mask of shape"),
        ("file/out.png", (1, 30, 44, 3), (1, 30, 44), "cannot be written"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, shape: tuple[int, ...], mask_shape: tuple[int, ...], reason: str
) -> None:
    from evlm import load_still, save_edited

    (tmp_path / "file").write_bytes(png(photograph()))
    still = load_still(tmp_path / "file")
    with pytest.raises(PictureError, match=reason):
        save_edited(tmp_path / name, torch.zeros(shape), torch.ones(mask_shape), still)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_png_is_refused_for_what_it_cannot_hold(tmp_path: Path) -> None:
    from evlm import load_still, save_edited

    Image.fromarray(photograph()).convert("CMYK").save(tmp_path / "a.jpg")
    still = load_still(tmp_path / "a.jpg")
    with pytest.raises(PictureError, match=r"cannot hold this picture's channels; use \.tif"):
        save_edited(tmp_path / "out.png", still.frames, None, still)


def test_a_file_that_does_not_read_back_the_same_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evlm import load_still, save_edited
    from evlm.files import png as writer

    (tmp_path / "a.png").write_bytes(png(deep()))
    still = load_still(tmp_path / "a.png")
    chunk_of = writer._chunk

    def flip(file: object, kind: bytes, data: bytes) -> None:
        chunk_of(file, kind, data[:20] + bytes([data[20] ^ 64]) + data[21:] if kind == b"IDAT" else data)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_chunk", flip)
    with pytest.raises(PictureError):
        save_edited(tmp_path / "out.png", still.frames, None, still)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("package", "name"), [("av", "a.png"), ("tifffile", "a.tif")])
def test_without_an_optional_package_it_says_so(
    edit: EditCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    name: str,
) -> None:
    """(C3)"""
    import sys

    import tifffile

    if name == "a.png":
        (tmp_path / name).write_bytes(png(deep()))
    else:
        tifffile.imwrite(tmp_path / name, (deep() / 65535).astype(np.float32), photometric="rgb")
    monkeypatch.setitem(sys.modules, package, None)
    code = edit(tmp_path / name)
    if package == "av":
        assert code == 0 and "16 bits a channel are read as 8; with the package av" in told(edit)
        assert np.array_equal(read_png(edit.edited)[0][0], deep()[0] >> 8)
    else:
        assert code == 2 and "tifffile" in capsys.readouterr().err
