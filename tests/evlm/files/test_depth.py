"""Depth maps as cameras and programs write them, through `edit --reference-depth`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from png_by_hand import png
from scripted import EditCommand

METRES = np.linspace(0.8, 7.2, 24 * 32).reshape(24, 32)
NEAR_BRIGHT = (7.2 - METRES) / 6.4


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (32, 24), (10, 200, 30)).save(path)
    return path


def seen(edit: EditCommand, picture: Path, depth: Path) -> np.ndarray:
    """[24, 32]: the depth map that the reasoner is shown."""
    assert edit(picture, "--reference-depth", str(depth)) == 0
    frames = edit.requests[0].references[0].frames
    assert frames.shape == (1, 24, 32, 3) and bool((frames == frames[..., :1]).all())
    return frames[0, :, :, 0].numpy()


def test_millimetres_in_16_bits(
    edit: EditCommand, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C8)"""
    millimetres = (METRES * 1000).round().astype(np.uint16)
    (tmp_path / "d.png").write_bytes(png(millimetres[..., None]))
    assert np.abs(seen(edit, picture, tmp_path / "d.png") - NEAR_BRIGHT).max() < 1e-3
    assert "distances of 800 to 7200" in capsys.readouterr().err


def test_metres_in_floats_with_pixels_without_a_reading(
    edit: EditCommand, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C8)"""
    metres = METRES.astype(np.float32)
    metres[5:9, 10:14] = np.nan
    metres[0, 0] = np.inf
    metres[20, 20] = 0
    Image.fromarray(metres).save(tmp_path / "d.tif")
    drawn = seen(edit, picture, tmp_path / "d.tif")
    known = np.isfinite(metres) & (metres > 0)
    low, high = metres[known].min(), metres[known].max()
    assert np.abs(drawn - (high - metres) / (high - low))[known].max() < 1e-6
    assert np.isfinite(drawn).all() and np.abs(drawn - NEAR_BRIGHT)[~known].max() < 0.3
    said = " ".join(capsys.readouterr().err.split())
    assert "2.3% of the pixels have no reading" in said and "distances of" in said


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats"])
def test_a_drawn_map_is_taken_as_it_is(edit: EditCommand, picture: Path, tmp_path: Path, kind: str) -> None:
    """Near is bright in it already, and it spans its range. (C8)"""
    path = tmp_path / ("d.tif" if kind == "floats" else "d.png")
    drawn = NEAR_BRIGHT.astype(np.float32)
    if kind == "floats":
        Image.fromarray(drawn).save(path)
    else:
        full, depth = (255, np.uint8) if kind == "8 bits" else (65535, np.uint16)
        path.write_bytes(png((drawn * full).round().astype(depth)[..., None]))
    assert np.abs(seen(edit, picture, path) - drawn).max() <= 0.5 / 255


def test_a_map_without_any_reading_is_refused(
    edit: EditCommand, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C8)"""
    Image.fromarray(np.full((24, 32), np.nan, np.float32)).save(tmp_path / "d.tif")
    assert edit(picture, "--reference-depth", str(tmp_path / "d.tif")) == 2
    assert "without any reading" in " ".join(capsys.readouterr().err.split())


def test_a_wall_is_grey(edit: EditCommand, picture: Path, tmp_path: Path) -> None:
    """All readings equal. (C8)"""
    (tmp_path / "d.png").write_bytes(png(np.full((24, 32, 1), 2500, np.uint16)))
    assert (seen(edit, picture, tmp_path / "d.png") == 0.5).all()
