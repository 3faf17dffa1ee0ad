"""Pictures of 16 bits, of floats or with alpha: what is copied, hashed, cut or sent of them is what a
reasoner sees, for "RGB" and "L" of Pillow's cut off all above 255 and show what is hidden under alpha."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.seams import diptych
from evlm.files.pictures import load_picture
from trainer.collect.makers import _as_png, sent
from trainer.collect.near import DISTANCE, phash
from trainer.collect.pictures import Pictures
from trainer.collect.sources.diptychs import half
from trainer.collect.sources.item import Media


def soft(side: int = 64) -> np.ndarray:
    """[side, side] uint8, a grey picture that is not flat."""
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 256, (7, 7), dtype=np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def write(file: Path) -> Path:
    """The soft picture in the depth that the file's name says."""
    grey = soft()
    values = {
        "deep": grey.astype(np.uint16) * 257,
        "float": grey.astype(np.float32) / 255,
        "alpha": np.stack([grey, grey, grey, np.where(grey > 99, 255, 0).astype(np.uint8)], -1),
    }[file.stem]
    Image.fromarray(values).save(file)
    return file


def apart(file: Path, data: bytes) -> float:
    """How far a picture that was made of a file is from what a reasoner sees of that."""
    made = torch.from_numpy(np.array(Image.open(BytesIO(data)).convert("RGB"))).float() / 255
    return float((load_picture(file)[0] - made).abs().max())


@pytest.mark.parametrize("name", ["deep.tif", "float.tif", "alpha.tif"])
def test_a_copy_looks_as_its_original(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    copied = Pictures(tmp_path, 1).copy(Media("0/a/original", "image", lambda: file, file))
    assert apart(file, (tmp_path / copied["paths"][0]).read_bytes()) < 0.51 / 255


@pytest.mark.parametrize("name", ["deep.png", "float.tif", "alpha.png"])
def test_a_maker_is_sent_what_a_reasoner_sees(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    assert apart(file, sent(file, 10**6)) < 0.51 / 255


def test_what_a_maker_drew_lies_over_white(tmp_path: Path) -> None:
    file = write(tmp_path / "alpha.png")
    assert apart(file, _as_png(file.read_bytes())) < 0.51 / 255


def test_a_picture_of_16_bits_is_near_to_itself_in_8(tmp_path: Path) -> None:
    Image.fromarray(soft()).save(tmp_path / "plain.png")
    one, other = phash(tmp_path / "plain.png"), phash(write(tmp_path / "deep.png"))
    assert one is not None and other is not None and bin(one ^ other).count("1") <= DISTANCE


def test_a_diptych_of_16_bits_is_cut(tmp_path: Path) -> None:
    grey = np.asarray(diptych("one", "tight", 256).picture.convert("L"))
    for name, values in (("plain.png", grey), ("deep.png", grey.astype(np.uint16) * 257)):
        Image.fromarray(values).save(tmp_path / name)
    for side in (0, 1):
        assert half(tmp_path / "deep.png", side)() == half(tmp_path / "plain.png", side)()
