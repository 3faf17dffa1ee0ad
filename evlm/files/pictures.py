"""Pictures in and out of files: untrusted bytes in, checked float tensors out. Clips are in `clips`.

Frames are float32 [F, H, W, 3] in 0..1 on the CPU (F = 1 for a picture); masks are float32 [F, H, W] in 0..1.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000  # of one picture: 8000 x 8000; 768 MB as float
_WRITES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
PICTURE_SUFFIXES = (*_WRITES, ".tif", ".tiff", ".avif")
# Pillow would also start Ghostscript for an EPS, and worse. MPO is what many phones write as .jpg.
_READS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def load_picture(path: str | os.PathLike[str]) -> Tensor:
    """One picture as [1, H, W, 3]: EXIF rotation applied, alpha over white, grey, palette and 16-bit widened.

    Of an animation, the first frame. Raises PictureError if it is missing, damaged, truncated or too large.
    """
    with opened(path) as image:
        return from_pil(image)


def save_picture(path: str | os.PathLike[str], frames: Tensor, fps: float | None = None) -> None:
    """Writes frames [F, H, W, 3] or [H, W, 3] atomically; several frames need .gif, .webp or .png (APNG).

    fps: of an animation; 8 where it is not given. Raises PictureError.
    """
    frames = check_frames(frames[None] if frames.ndim == 3 else frames, "frames to save")
    path = Path(path)
    if len(frames) > 1:
        from .clips import save_animation

        save_animation(path, frames, fps)
        return
    suffix = path.suffix.lower()
    options: dict[str, object] = (
        {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix[:3] == ".jp" else {}
    )
    write_image(path, to_pil(frames[0]), options)


def load_mask(path: str | os.PathLike[str]) -> Tensor:
    """A mask picture as [1, H, W] in 0..1: its brightness, whatever its mode. Raises PictureError."""
    return load_picture(path).mean(-1)


def save_mask(path: str | os.PathLike[str], mask: Tensor) -> None:
    """Writes a mask [H, W] or [1, H, W] in 0..1 as a grey 8-bit PNG, atomically. Raises PictureError."""
    mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if mask.ndim != 2:
        raise PictureError(f"mask of shape {tuple(mask.shape)}: expected [H, W] or [1, H, W]")
    grey = check_frames(mask.float()[None, :, :, None].expand(-1, -1, -1, 3), "mask")[0, :, :, 0]
    write_image(Path(path), to_pil(grey[..., None].expand(-1, -1, 3)).convert("L"), {})


def check_frames(frames: Tensor, name: str = "frames") -> Tensor:
    """The same frames as float32 on the CPU, or a PictureError that says why not.

    frames: floating point, [F, H, W, 3], nothing empty, all finite and within 0..1 (by 1e-4, then clamped).
    """
    if not isinstance(frames, Tensor):
        raise PictureError(f"{name}: expected a tensor [F, H, W, 3], got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise PictureError(f"{name}: shape {tuple(frames.shape)}, expected [F, H, W, 3] with nothing empty")
    if not frames.is_floating_point():
        raise PictureError(
            f"{name}: dtype {frames.dtype}, expected float in 0..1; divide 8-bit values by 255"
        )
    frames = frames.detach().to("cpu", torch.float32)
    low, high = (float(value) for value in frames.aminmax())  # NaN in, NaN out
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise PictureError(f"{name}: values {low:g}..{high:g}, expected finite numbers in 0..1")
    return frames if low >= 0 and high <= 1 else frames.clamp(0, 1)


def to_pil(frame: Tensor) -> Image:
    """One frame [H, W, 3] in 0..1 as an 8-bit RGB picture."""
    from PIL import Image

    frame = check_frames(frame[None] if isinstance(frame, Tensor) else frame, "frame")[0]
    return Image.fromarray((frame * 255).round().to(torch.uint8).contiguous().numpy())


def from_pil(image: Image) -> Tensor:
    """Any PIL picture as [1, H, W, 3] in 0..1: EXIF rotation applied, alpha over white; or PictureError."""
    import numpy as np
    from PIL import ImageOps

    check_size(image)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):  # one deep channel
            grey = torch.from_numpy(np.array(image, dtype=np.float32)) / (1 if image.mode == "F" else 65535)
            return check_frames(grey[None, :, :, None].repeat(1, 1, 1, 3), "picture")
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA") if image.mode != "La" else image.convert("LA").convert("RGBA")
            pixels = np.asarray(image, dtype=np.float32) / 255
            alpha = pixels[..., 3:]
            pixels = pixels[..., :3] * alpha + (1 - alpha)
        else:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except PictureError:
        raise
    except Exception as error:  # decoders raise a zoo of errors on damaged bytes
        raise PictureError(
            f"the picture cannot be decoded ({error}); the file is damaged or truncated"
        ) from error
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]


# --- reading ---


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image]:
    """A picture file, open; whatever a decoder raises while it is used becomes a PictureError."""
    from PIL import Image

    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path}: no such file")
    try:
        Image.init()
        image = Image.open(path, formats=[kind for kind in _READS if kind in Image.OPEN])
    except Exception as error:
        raise PictureError(f"{path}: not a picture that can be read ({error})") from error
    with image:
        try:
            yield image
        except PictureError as error:
            raise PictureError(f"{path}: {error}") from error.__cause__
        except Exception as error:  # decoders raise a zoo of errors on damaged bytes
            raise PictureError(
                f"{path}: cannot be decoded ({error}); the file is damaged or truncated"
            ) from error


def check_size(image: Image) -> None:
    """Raises PictureError for more than MAX_PIXELS."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} pixels: at most {MAX_PIXELS:,} are read; scale it down first")


# --- writing ---


def write_image(path: Path, image: Image, options: dict[str, object]) -> None:
    """Writes an 8-bit picture atomically, in the format that the suffix names. Raises PictureError."""
    kind = _WRITES.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path}: no way to write a picture as {path.suffix!r}; use {', '.join(_WRITES)}")
    try:
        write_atomically(path, lambda file: image.save(file, kind, **options))
    except OSError as error:
        raise PictureError(f"{path}: cannot be written ({error})") from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], flush: bool = True) -> None:
    """Calls write(file) on a temporary file beside path, flushes it to disk, and renames it into place.

    flush: False leaves it to the caller to bring it to the disk (of many files, all at once).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 would hide the picture from other users
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
