"""Colour profiles: the numbers of a picture as sRGB, which the models know, and back."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}


def usable(profile: bytes, mode: str) -> bool:
    """Whether an ICC profile can be read, and is one for pictures of this mode ("L", "RGB" or "CMYK")."""
    try:
        opened = _opened(profile)
        return opened.profile.xcolor_space == _SPACES[mode] and bool(_transform(profile, mode, True))
    except (OSError, PictureError, ValueError, TypeError):
        return False


@lru_cache(maxsize=8)
def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether the profile says what sRGB says: no colour of a lattice of 729 moves by more than 1 of 255."""
    import numpy as np
    from PIL import Image

    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    if mode == "L":
        lattice = lattice[..., :1].repeat(3, -1)
    before = Image.fromarray(lattice).convert(mode)
    after = np.asarray(to_srgb(before, profile), np.int16)
    return bool(np.abs(after - lattice).max() <= 1)


def to_srgb(image: Image, profile: bytes) -> Image:
    """An 8-bit picture of mode "L", "RGB" or "CMYK" as sRGB. Raises PictureError for a profile that fails."""
    return _apply(image, _transform(profile, image.mode, True))


def from_srgb(image: Image, profile: bytes, mode: str) -> Image:
    """An 8-bit sRGB picture in the profile's numbers. Raises PictureError for a profile that fails."""
    return _apply(image, _transform(profile, mode, False))


def lab_to_srgb(image: Image) -> Image:
    """A picture of mode "LAB" as sRGB."""
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    return _apply(image, transform)


def _apply(image: Image, transform: Any) -> Image:
    from PIL import ImageCms

    changed = ImageCms.applyTransform(image, transform)
    assert changed is not None  # None only where it works in place
    return changed


def _opened(profile: bytes) -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(BytesIO(profile))


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str, towards_srgb: bool) -> Any:
    """Relative colorimetric with black point compensation: what browsers and editors show."""
    from PIL import ImageCms

    try:
        own, srgb = _opened(profile), ImageCms.createProfile("sRGB")
        source, target = (own, srgb) if towards_srgb else (srgb, own)
        return ImageCms.buildTransform(
            source,
            target,
            mode if towards_srgb else "RGB",
            "RGB" if towards_srgb else mode,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise PictureError(f"the colour profile cannot be used ({error})") from error
