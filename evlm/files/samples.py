"""The numbers of a still as its file has them, all channels at their own depth; and what the models see.

Pillow reads every format; but of more than one channel of 16 bits it keeps 8. Those are read again by PyAV
(FFmpeg) and held to the high bytes that Pillow read; TIFF in its many forms is read by tifffile (`tiff`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from ..errors import PictureError
from . import colour as profiles

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Colour = Literal["L", "RGB", "CMYK"]
CHANNELS: dict[Colour, int] = {"L": 1, "RGB": 3, "CMYK": 4}
_WIDENED = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB",
            "HSV": "RGB"}  # fmt: skip
_AV_LAYOUTS = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}


@dataclass(frozen=True)
class Samples:
    """values: [H, W, C], upright; uint8, uint16, uint32 or float32, of which 255, 65535, 65535 or 2**32 - 1
    (whichever holds them) and 1 are full. colour: what the first 1, 3 or 4 channels are. alpha: which of the
    others is the opacity; None: it is all opaque."""

    values: np.ndarray
    colour: Colour
    alpha: int | None = None

    @property
    def full(self) -> int:
        """The number that means all there is of a channel."""
        kind = str(self.values.dtype)
        if kind == "uint32":
            return 65535 if int(self.values.max()) <= 65535 else 2**32 - 1
        return {"uint8": 255, "uint16": 65535}.get(kind, 1)

    def colours(self) -> np.ndarray:
        """[H, W, 1, 3 or 4]: the values without alpha and what else there is."""
        return self.values[..., : CHANNELS[self.colour]]

    def opacity(self) -> np.ndarray | None:
        """[H, W] float32 in 0..1; None where all is opaque."""
        if self.alpha is None:
            return None
        return _clipped(self.values[..., self.alpha], self.full)

    def eight(self) -> Image:
        """The colours at 8 bits a channel, as Pillow holds them."""
        import numpy as np
        from PIL import Image

        values = self.colours()
        if values.dtype != np.uint8:
            values = (_clipped(values, self.full) * 255).round().astype(np.uint8)
        if self.colour == "CMYK":
            return Image.frombuffer("CMYK", values.shape[1::-1], values.tobytes(), "raw", "CMYK", 0, 1)
        return Image.fromarray(np.ascontiguousarray(values[..., 0] if self.colour == "L" else values))


def of_image(image: Image) -> Samples:
    """What Pillow reads of an open picture, upright. One channel of 16 bits or floats stays so."""
    import numpy as np
    from PIL import ImageOps

    if image.mode == "LAB":
        image = profiles.lab_to_srgb(image)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        return Samples(np.array(image, dtype=np.float32)[..., None], "L")
    if image.mode.startswith("I"):
        return _of_integers(np.array(image), image.info.get("transparency"))
    if "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        image = image.convert("RGBA")
    image = image.convert(_WIDENED.get(image.mode, image.mode))
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise PictureError(f"colours of the mode {image.mode}: expected grey, RGB, CMYK, or a palette")
    values = np.array(image)
    values = values[..., None] if values.ndim == 2 else values
    if image.mode == "CMYK":
        return Samples(values, "CMYK")
    return Samples(
        values,
        "L" if image.mode[0] == "L" else "RGB",
        values.shape[-1] - 1 if image.mode[-1] == "A" else None,
    )


def _of_integers(values: np.ndarray, transparent: object) -> Samples:
    """One channel of 16 or 32 bits, with the one value that is transparent, if any."""
    import numpy as np

    if int(values.min()) < 0:
        raise PictureError(f"values {values.min()}..{values.max()}: expected numbers from 0 up")
    small = int(values.max()) <= 65535
    values = values.astype(np.uint16 if small else np.uint32)[..., None]
    if not isinstance(transparent, int):
        return Samples(values, "L")
    opacity = np.where(values == transparent, 0, 65535).astype(values.dtype)
    return Samples(np.concatenate([values, opacity], -1), "L", 1)


def deepened(file: IO[bytes], form: str, shallow: Samples, orientation: int) -> Samples | None:
    """The same picture at 16 bits a channel, as FFmpeg reads it; None where it cannot, or where it differs.

    form: FFmpeg's name: "png_pipe", "ppm_pipe" or "tiff_pipe". shallow: what Pillow read, upright;
    its 8 bits are the high bytes. orientation: EXIF's number.
    """
    import numpy as np

    try:
        import av
    except ImportError:
        return None
    file.seek(0)
    try:
        with av.open(file, "r", format=form) as container:
            frame = next(container.decode(video=0))
        name = frame.format.name  # the planes are read as they lie, in the order of bytes that the name says
        channels = _AV_LAYOUTS.get(name[:-2])
        if channels is None:
            return None
        rows = np.frombuffer(bytes(frame.planes[0]), ">u2" if name[-2:] == "be" else "<u2")
        rows = rows.reshape(frame.height, -1)[:, : frame.width * channels]
    except (av.FFmpegError, StopIteration, ValueError, OSError):
        return None
    values = upright(rows.reshape(frame.height, frame.width, channels), orientation).astype(np.uint16)
    colours = 1 if channels < 3 else 3
    held = shallow.values[..., :colours]  # of alpha Pillow reads a 16-bit tRNS wrong
    if held.dtype != np.uint8 or held.shape != values[..., :colours].shape:
        return None
    high = (values[..., :colours] >> 8).astype(np.int16)
    if int(np.abs(high - held).max()) > 1:  # 1: numbers that a file counts up to 1023 are scaled
        return None
    return Samples(values, "L" if colours == 1 else "RGB", channels - 1 if channels > colours else None)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] turned and mirrored as EXIF's orientation (1 to 8; others change nothing) asks for."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def view(samples: Samples, profile: bytes | None, notes: list[str] | None = None) -> Tensor:
    """What the models see: float32 [1, H, W, 3] in 0..1, sRGB, over white where it is not opaque.

    profile: an ICC profile that `colour.usable` accepts. notes: takes what is worth a word. Raises
    PictureError for floats that are no picture.
    """
    import numpy as np

    from .pictures import check_frames

    if samples.values.dtype == np.float32:
        frames = torch.from_numpy(np.ascontiguousarray(samples.colours()))[None]
        frames = check_frames(frames.expand(-1, -1, -1, 3) if samples.colour == "L" else frames[..., :3],
                              "picture", notes)  # fmt: skip
    else:
        frames = torch.from_numpy(_clipped(samples.colours(), samples.full))[None]
        frames = frames.repeat(1, 1, 1, 3) if samples.colour == "L" else frames
    if profile is not None and not profiles.is_srgb(profile, samples.colour):
        frames = _tensor(profiles.to_srgb(samples.eight(), profile))
    elif samples.colour == "CMYK":
        frames = _tensor(samples.eight().convert("RGB"))
    opacity = samples.opacity()
    if opacity is not None:
        alpha = torch.from_numpy(opacity)[None, :, :, None]
        frames = frames * alpha + (1 - alpha)
    return frames.contiguous()


def whole(samples: Samples, profile: bytes | None, alpha: bool) -> Tensor:
    """[H, W, 3] in sRGB as many numbers a channel as the file has, uint8 or uint16, floats as they are.

    profile: of the file, whatever it is. alpha: [H, W, 4]; else over white where it is not opaque. What
    cannot be seen at all is white in either: what a file has there means nothing. Raises as `view`.
    """
    import numpy as np

    usable = profile if profile and profiles.usable(profile, samples.colour) else None
    picture = view(replace(samples, alpha=None) if alpha else samples, usable)[0]
    if alpha:
        opacity = samples.opacity()
        there = torch.ones(picture.shape[:2]) if opacity is None else torch.from_numpy(opacity.copy())
        picture[there == 0] = 1
        picture = torch.cat([picture, there[..., None]], -1)
    kind = samples.values.dtype
    if kind not in (np.uint8, np.uint16):
        return picture
    return torch.from_numpy((picture.numpy() * np.iinfo(kind).max).round().astype(kind))


def _tensor(image: Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _clipped(values: np.ndarray, full: int) -> np.ndarray:
    import numpy as np

    scaled = values.astype(np.float32)
    scaled /= full
    return cast("np.ndarray", scaled) if values.dtype != np.float32 else np.nan_to_num(scaled).clip(0, 1)
