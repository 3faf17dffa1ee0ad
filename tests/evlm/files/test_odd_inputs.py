"""What a path may be, and what is said of what cannot be read; through `edit` as a person types it."""

from __future__ import annotations

import os
import stat
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from png_by_hand import chunk, png, read_png
from scripted import EditCommand
from still_kinds import deep, photograph, with_alpha

JPEG_XL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
DNG = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0" + bytes(4)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(photograph()).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.heic", HEIC, "pip install pillow-heif"),
        ("a.jpg", HEIC, "pip install pillow-heif"),
        ("a.jxl", JPEG_XL, "pip install pillow-jxl-plugin"),
        ("a.png", b"\xff\x0a" + bytes(64), "pip install pillow-jxl-plugin"),
        ("a.psd", b"8BPS\0\x01" + bytes(64), "a Photoshop document; export it as PNG or TIFF"),
        ("a.exr", b"\x76\x2f\x31\x01" + bytes(64), "OpenEXR"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a drawing (SVG"),
        ("a.pdf", b"%PDF-1.7\n", "a PDF document"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "JPEG 2000"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), "a camera's raw file"),
        ("a.dng", DNG, "a camera's raw file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_read_is_named_by_its_content(
    edit: EditCommand,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    said: str,
) -> None:
    """(C16)"""
    (tmp_path / name).write_bytes(content)
    assert edit(tmp_path / name) == 2
    shown = "".join(capsys.readouterr().err.split())  # lines may be broken anywhere
    assert "".join(said.split()) in shown and name in shown and "Traceback" not in shown


def test_a_dash_reads_one_picture_from_standard_input(
    edit: EditCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(C16)"""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(png(deep()))))
    assert edit("-") == 0
    values, _ = read_png(edit.edited)
    assert values.dtype == np.uint16 and np.array_equal(values[0], deep()[0])


def test_a_dash_with_nothing_behind_it(
    edit: EditCommand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C16)"""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO()))
    assert edit("-") == 2
    assert "nothing came on standard input" in capsys.readouterr().err


def test_a_tilde_is_the_home(
    edit: EditCommand, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it comes out of a file of arguments, or on Windows: no shell has replaced it. (C16)"""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert edit("~/picture.png", "--reference", "~/picture.png") == 0


def test_a_folder_as_reference_is_its_pictures(edit: EditCommand, picture: Path, tmp_path: Path) -> None:
    """In the natural order of their names, hidden files left out. (C16)"""
    folder = tmp_path / "references"
    folder.mkdir()
    for size, name in ((9, "10.png"), (8, "2.png")):
        Image.new("RGB", (size, 4)).save(folder / name)
    (folder / "._2.png").write_bytes(b"what a Mac leaves behind")
    (folder / "notes.txt").write_text("x")
    assert edit(picture, "--reference", str(folder), "--reference", str(picture)) == 0
    assert [each.frames.shape[2] for each in edit.requests[0].references] == [8, 9, 44]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_permissions_of_the_umask(
    edit: EditCommand, picture: Path, umask: int, mode: int
) -> None:
    """(C19)"""
    before = os.umask(umask)
    try:
        assert edit(picture) == 0
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in edit.out.iterdir()} == {mode}


DAMAGED = {
    "truncated.png": png(photograph())[:1200],
    "deep.png": png(deep())[:3000],
    "empty.jpg": b"",
    "text.png": b"this is no picture",
    "zlib.png": png(with_alpha(photograph())).replace(b"IDAT\x78", b"IDAT\x00"),
    "bomb.png": png(photograph()).replace((44).to_bytes(4, "big"), (2**30).to_bytes(4, "big"), 1),
    "profile.png": png(photograph(), chunk(b"iCCP", b"p\0\0damaged")),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_or_a_picture(
    edit: EditCommand, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """(C3, C16)"""
    (tmp_path / name).write_bytes(DAMAGED[name])
    code = edit(tmp_path / name)
    shown = capsys.readouterr().err
    if code == 0:
        assert name == "profile.png"
    else:
        assert code == 2 and name in shown and "Traceback" not in shown and not edit.out.exists()
