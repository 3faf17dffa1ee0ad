"""Stills of every kind through `edit` and back from the disk: outside the mask the file's own numbers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from png_by_hand import read_png
from still_kinds import KINDS, Kind
from torch import Tensor

from evlm.__main__ import main
from evlm.edit import Edited, EditSettings
from evlm.edit.masked import composite
from evlm.pipeline import Pipeline
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace
from evlm.reason.reasoner import Reasoned

PAINT = (0.15, 0.55, 0.25)  # inside every gamut here


class Plans:
    """A reasoner that plans to edit the middle of any picture."""

    def reason(self, request: Any, *_: Any, **__: Any) -> Reasoned:
        height, width = request.original.shape[1:3]
        where = torch.zeros(height, width)
        where[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        plan = Plan("paint the middle green", ("middle",), BoxSpans().encode(where), "local")
        return Reasoned("", 0, 0.0, trace=Trace("", "", "", plan))


class Paints:
    """An editor that paints the mask green, with a hard edge."""

    defaults = EditSettings(steps=1)

    def edit(self, frames: Tensor, _: str, mask: Any = None, **__: Any) -> Edited:
        return Edited(composite(frames, torch.tensor(PAINT).expand_as(frames), mask, feather=0), frames)


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `evlm edit` on a file and gives (exit code, the folder with the results)."""
    monkeypatch.setattr(Pipeline, "load", lambda *_, **__: Pipeline(Plans(), None, None, Paints()))

    def run(path: Path, *more: str) -> tuple[int, Path]:
        out = tmp_path / "out"
        return main(["edit", "--image", str(path), "--prompt", "x", *more, "--out", str(out)]), out

    return run


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


def check_inside(values: np.ndarray, expected: np.ndarray, profile: bytes | None, inside: np.ndarray) -> None:
    """Alpha as it was; where it is opaque, the paint, in the file's colours."""
    alpha = {2: 1, 4: 3, 5: 3}.get(values.shape[-1])
    if alpha is not None:
        assert np.array_equal(values[..., alpha], expected[..., alpha])
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
    kind: Kind, edit: Any, tmp_path: Path
) -> None:
    """(C1, C2, C3)"""
    path = tmp_path / kind.name
    expected = kind.make(path)
    code, out = edit(path)
    assert code == 0
    values, profile = read_back(next(out.glob("edited.*")))
    inside = np.asarray(Image.open(out / "mask.png").convert("L")) > 0
    assert inside.shape == expected.shape[:2] and inside.any()
    if expected.shape[-1] < 3 <= values.shape[-1]:  # grey, painted in colour
        expected = np.concatenate([expected[..., :1]] * 3 + [expected[..., 1:]], -1)
    assert values.dtype == expected.dtype and values.shape == expected.shape
    assert np.array_equal(values[~inside], expected[~inside])
    assert profile == kind.profile
    if "CMYK" not in kind.title:
        check_inside(values, expected, profile, inside)
