"""Stills of every kind through `edit` and back from the disk: outside the mask the file's own numbers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from png_by_hand import read_png
from scripted import PAINT, EditCommand
from still_kinds import KINDS, Kind

from evlm.__main__ import main
from evlm.models.zoo import choose
from evlm.pipeline import Pipeline

ALPHA = {2: 1, 4: 3, 5: 3}  # of how many channels which is the opacity


def read_back(path: Path) -> tuple[np.ndarray, bytes | None]:
    """([H, W, C], profile) of a result, by readers that the engine does not use for it."""
    if path.suffix == ".png":
        values, _ = read_png(path)
        with Image.open(path) as image:
            return values, image.info.get("icc_profile")
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        values = tiff.pages[0].asarray()
        return values[..., None] if values.ndim == 2 else values, tiff.pages[0].tags.valueof(34675)


def displayed(values: np.ndarray, profile: bytes | None) -> np.ndarray:
    """[H, W, 3] uint8 sRGB of decoded numbers, without their alpha."""
    full = {"uint8": 255, "uint16": 65535}.get(str(values.dtype), 1)
    colours = {2: 1, 4: 3, 5: 3}.get(values.shape[-1], values.shape[-1])
    eight = (values[..., :colours] / full * 255).round().astype(np.uint8)
    image = Image.fromarray(eight[..., 0] if colours == 1 else eight)
    if profile is None:
        return np.asarray(image.convert("RGB"))
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    return np.asarray(
        ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    )


def check_inside(values: np.ndarray, profile: bytes | None, inside: np.ndarray) -> None:
    """Where it is opaque, the paint in the file's colours."""
    alpha = ALPHA.get(values.shape[-1])
    if alpha is not None:
        inside = inside & (values[..., alpha] == {"uint8": 255, "uint16": 65535}[str(values.dtype)])
    green = np.array(PAINT) * 255
    if values.shape[-1] < 3:  # grey with a profile stays grey: as light as the paint (IEC 61966-2-1)
        light = ((np.array(PAINT) + 0.055) / 1.055) ** 2.4 @ (0.2225, 0.7169, 0.0606)
        green = np.full(3, 255 * (1.055 * light ** (1 / 2.4) - 0.055))
    shown = displayed(values, profile)[inside].astype(int)
    assert np.abs(shown - green).max(initial=0) <= 3
    assert len(shown) or values.shape[0] == 1 or values.shape[1] == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_outside_the_mask_the_file_on_disk_has_the_numbers_of_the_input(
    kind: Kind, edit: EditCommand, tmp_path: Path
) -> None:
    """(C1, C2, C3)"""
    expected = kind.make(tmp_path / kind.name)
    assert edit(tmp_path / kind.name) == 0
    values, profile, inside = check_outside(kind, expected, edit.out)
    assert inside.any()
    if "CMYK" not in kind.title:
        check_inside(values, profile, inside)


def check_outside(kind: Kind, expected: np.ndarray, out: Path) -> tuple[np.ndarray, bytes | None, np.ndarray]:
    """([H, W, C], profile, where it was painted) of the results in a folder, equal elsewhere in all channels
    and everywhere in alpha."""
    values, profile = read_back(next(out.glob("edited.*")))
    inside = np.asarray(Image.open(out / "mask.png").convert("L")) > 0
    assert inside.shape == expected.shape[:2]
    if expected.shape[-1] < 3 <= values.shape[-1]:  # grey, painted in colour
        expected = np.concatenate([expected[..., :1]] * 3 + [expected[..., 1:]], -1)
    assert values.dtype == expected.dtype and values.shape == expected.shape
    assert np.array_equal(values[~inside], expected[~inside])
    assert profile == kind.profile
    alpha = None if "CMYK" in kind.title else ALPHA.get(values.shape[-1])
    if alpha is not None:
        assert np.array_equal(values[..., alpha], expected[..., alpha])
    return values, profile, inside


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.load(choose(["bundled"]), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_the_same_by_the_bundled_models(
    kind: Kind, bundled: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know nothing of photographs: what they plan and paint is not asked for. (C1, C2, C3)"""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: bundled)
    expected = kind.make(tmp_path / kind.name)
    words = ["--prompt", "make it so", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(["edit", "--image", str(tmp_path / kind.name), *words]) == 0
    check_outside(kind, expected, tmp_path / "out")
