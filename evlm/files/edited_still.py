"""An edited still onto the disk: inside the mask the paint, outside it the numbers of the file it came from.

What was painted is sRGB; it is written in the colours, the depth and under the alpha of the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import PictureError
from ..ranges import clamped
from . import colour as profiles
from .disk import unwritten
from .pictures import check_frames, write_atomically
from .png import density_chunk, profile_chunk, write_png
from .samples import CHANNELS, Samples
from .still import Still, read_samples
from .tiff import write_tiff

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".png", ".tif", ".tiff")  # lossless, with a profile, alpha and 16 bits
_GREY = 1.5 / 255  # channels that differ by less are grey


@dataclass(frozen=True)
class SavedStill:
    """Where an edited still was written, and what of the original could not be kept, in words."""

    path: Path
    notes: tuple[str, ...] = ()


def edited_suffix(still: Still) -> str:
    """ ".png", or ".tif" for what a PNG cannot hold: CMYK, floats, 32 bits, channels beyond alpha."""
    samples = still.samples
    extra = samples.values.shape[-1] - CHANNELS[samples.colour]
    plain = extra == 0 or (extra == 1 and samples.alpha is not None)
    fits = str(samples.values.dtype) in ("uint8", "uint16") and samples.colour != "CMYK" and plain
    return ".png" if fits else ".tif"


def save_edited(
    path: str | os.PathLike[str], edited: Tensor, mask: Tensor | None, still: Still
) -> SavedStill:
    """Writes an edited still, reads it back, and compares, before it has its name.

    Args:
        path: to .png or .tif; a PNG cannot hold every still (`edited_suffix`).
        edited: [1, H, W, 3] in 0..1, sRGB, made from `still.frames`.
        mask: [1, H, W] in 0..1, or None for the whole frame.
        still: what `load_still` read.

    Where the mask is 0, and where `edited` equals `still.frames`, the file's own numbers are written, in all
    channels. Elsewhere the painted colour in the file's colours and depth; alpha stays as it was.

    Raises:
        PictureError: shapes that do not fit, a suffix that would lose something, a file that cannot be
            written or does not read back the same. Then nothing was written.
    """
    path = Path(path)
    notes: list[str] = []
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PictureError(f"{path}: {path.suffix!r} would change what is outside the mask; use .png or .tif")
    if suffix == ".png" and edited_suffix(still) != ".png":
        raise PictureError(f"{path}: a PNG cannot hold this picture's channels; use .tif")
    samples = _compose(*_changed(edited, mask, still), still, notes)
    profile = still.profile
    exif = still.exif if suffix == ".png" else b""
    if still.exif and not exif:
        notes.append("EXIF data is left out of a TIFF")

    def write(file: IO[bytes]) -> None:
        if suffix == ".png":
            _write_png(file, samples, replace(still, exif=exif))
        else:
            write_tiff(file, samples, profile, still.dpi)
        _compare(file, samples, profile)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise unwritten(path, error) from error
    return SavedStill(path, tuple(notes))


def _changed(edited: Tensor, mask: Tensor | None, still: Still) -> tuple[Tensor, np.ndarray]:
    """(the painted frame [H, W, 3], where it counts: bool [H, W])."""
    edited = check_frames(edited, "edited")
    if edited.shape != still.frames.shape:
        raise PictureError(
            f"edited frames of shape {tuple(edited.shape)} for a still of shape {tuple(still.frames.shape)}"
        )
    changed = (edited != still.frames).any(-1)[0]
    if mask is not None:
        if mask.shape != edited.shape[:3]:
            raise PictureError(f"mask of shape {tuple(mask.shape)}, expected {tuple(edited.shape[:3])}")
        changed &= clamped(mask.float(), "mask")[0] > 0
    return edited[0], changed.numpy()


def _compose(paint: Tensor, changed: np.ndarray, still: Still, notes: list[str]) -> Samples:
    """The still's numbers with the paint where it counts."""
    samples = still.samples
    if not changed.any():
        return samples
    opacity = samples.opacity()
    if opacity is not None:
        paint = _under(paint, torch.from_numpy(opacity))
        unseen = float((opacity[changed] == 0).mean())
        if unseen > 0:
            notes.append(f"{unseen:.0%} of what was painted is transparent in the original, and stays so")
    inside = paint[torch.from_numpy(changed)]
    coloured = float((inside.amax(-1) - inside.amin(-1)).max()) > _GREY
    if samples.colour == "L" and coloured:
        if still.profile is None:
            samples = _widened(samples)
            notes.append("the original is grey and the edit is not: written in RGB")
        else:
            notes.append("the original is grey with a profile of its own: the edit is written grey too")
    values = samples.values.copy()
    window = _window(changed)
    painted = _numbers(paint[window], samples, still.profile)
    inner = values[window]
    inner[changed[window], : painted.shape[-1]] = painted[changed[window]]
    return Samples(values, samples.colour, samples.alpha)


def _window(changed: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns in which anything is True."""
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _under(paint: Tensor, opacity: Tensor) -> Tensor:
    """The colours that over white, at this opacity [H, W], look like the paint [H, W, 3], where any do."""
    alpha = opacity[..., None]
    return torch.where(alpha > 0, (paint - (1 - alpha)) / alpha.clamp(min=1e-6), paint).clamp(0, 1)


def _widened(samples: Samples) -> Samples:
    import numpy as np

    grey = samples.values[..., :1]
    values = np.concatenate([grey, grey, grey, samples.values[..., 1:]], -1)
    return Samples(values, "RGB", None if samples.alpha is None else samples.alpha + 2)


def _numbers(paint: Tensor, samples: Samples, profile: bytes | None) -> np.ndarray:
    """The paint [H, W, 3] in the colours and the depth of the samples: [H, W, 1, 3 or 4].

    Through a profile 8 bits go, which is what a colour management module of Pillow's takes.
    """
    import numpy as np
    from PIL import Image

    kind, full = samples.values.dtype, samples.full
    managed = None if profile is None or profiles.is_srgb(profile, samples.colour) else profile
    if managed or samples.colour == "CMYK":
        image: Any = Image.fromarray((paint * 255).round().to(torch.uint8).contiguous().numpy())
        image = profiles.from_srgb(image, managed, samples.colour) if managed else image.convert("CMYK")
        colours = np.asarray(image, np.float64).reshape(*paint.shape[:2], -1) / 255
    else:
        colours = paint.numpy().astype(np.float64)
        if samples.colour == "L":
            colours = (colours @ np.array([0.299, 0.587, 0.114]))[..., None]  # as Pillow makes grey
    return (colours if kind == np.float32 else (colours * full).round()).astype(kind)


def _write_png(file: IO[bytes], samples: Samples, still: Still) -> None:
    chunks = [(kind, data) for kind, data in still.chunks if not (kind == b"sRGB" and still.profile)]
    if still.dpi and b"pHYs" not in dict(chunks):
        chunks.append(density_chunk(still.dpi))
    if still.profile:
        chunks.append(profile_chunk(still.profile))
    if still.exif:
        chunks.append((b"eXIf", still.exif.removeprefix(b"Exif\0\0")))
    write_png(file, samples.values, chunks)


def _compare(file: IO[bytes], samples: Samples, profile: bytes | None) -> None:
    """Raises PictureError unless the file reads back as what was meant."""
    import numpy as np

    back, its_profile = read_samples(file)
    same = (
        back.values.dtype == samples.values.dtype
        and np.array_equal(back.values, samples.values)
        and (back.colour, back.alpha) == (samples.colour, samples.alpha)
    )
    if not same or its_profile != profile:
        what = "its pixels differ" if not same else "its colour profile differs"
        raise PictureError(f"what was written does not read back the same: {what}; nothing was kept")
