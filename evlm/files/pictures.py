"""Pictures in and out of files: untrusted bytes in, checked float tensors out. Clips are in `clips`.

Frames are float32 [F, H, W, 3] in 0..1 on the CPU (F = 1 for a picture); masks are float32 [F, H, W] in 0..1.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError
from ..ranges import clamped
from .disk import unwritten
from .kinds import advice, kind_of, optional_reader, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000  # of one picture: 8000 x 8000; 768 MB as float
_WRITES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
WRITTEN_SUFFIXES = tuple(_WRITES)
PICTURE_SUFFIXES = (*_WRITES, ".tif", ".tiff", ".avif")
# Pillow would also start Ghostscript for an EPS, and worse. MPO is what many phones write as .jpg.
_MAX_BYTES = 1 << 29  # of standard input
_READS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def load_picture(path: str | os.PathLike[str]) -> Tensor:
    """One picture as [1, H, W, 3]: upright, its colours as sRGB, alpha over white, at the file's depth.

    path: a file, or "-" for what comes on standard input; `load_still` keeps what else the file says. Of an
    animation, the first frame. Raises PictureError if it is missing, damaged, truncated or too large.
    """
    from .still import load_still

    return load_still(path).frames


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by their suffixes, in the natural order of their names; hidden files are left
    out. Raises PictureError where there are none."""
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not paths:
        raise PictureError(f"{folder}: no pictures ({', '.join(PICTURE_SUFFIXES)}) in this folder")
    return sorted(paths, key=lambda path: natural(path.name))


def natural(name: str) -> list[tuple[int, str]]:
    """To sort names by: "2.png" before "10.png"."""
    return [(int(digits or -1), other) for digits, other in re.findall(r"([0-9]+)|([^0-9]+)", name)]


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
    """A mask picture as [1, H, W] in 0..1: the brightness of its numbers, whatever its mode and its profile.
    Raises PictureError."""
    from .samples import view
    from .still import read_samples

    with opened_file(path) as file:
        return view(read_samples(file)[0], None).mean(-1)


def save_mask(path: str | os.PathLike[str], mask: Tensor) -> None:
    """Writes a mask [H, W] or [1, H, W] in 0..1 as a grey 8-bit PNG, atomically. Raises PictureError."""
    mask = mask[0] if mask.ndim == 3 and mask.shape[0] == 1 else mask
    if mask.ndim != 2:
        raise PictureError(f"mask of shape {tuple(mask.shape)}: expected [H, W] or [1, H, W]")
    grey = check_frames(mask.float()[None, :, :, None].expand(-1, -1, -1, 3), "mask")[0, :, :, 0]
    write_image(Path(path), to_pil(grey[..., None].expand(-1, -1, 3)).convert("L"), {})


def check_frames(frames: Tensor, name: str = "frames", notes: list[str] | None = None) -> Tensor:
    """The same frames as float32 on the CPU, or a PictureError that says why not.

    frames: floating point, [F, H, W, 3], nothing empty, with values as `clamped` takes them.
    notes: as in `clamped`.
    """
    if not isinstance(frames, Tensor):
        raise PictureError(f"{name}: expected a tensor [F, H, W, 3], got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise PictureError(f"{name}: shape {tuple(frames.shape)}, expected [F, H, W, 3] with nothing empty")
    if not frames.is_floating_point():
        raise PictureError(
            f"{name}: dtype {frames.dtype}, expected float in 0..1; divide 8-bit values by 255"
        )
    return clamped(frames, name, notes)


def to_pil(frame: Tensor) -> Image:
    """One frame [H, W, 3] in 0..1 as an 8-bit RGB picture."""
    from PIL import Image

    frame = check_frames(frame[None] if isinstance(frame, Tensor) else frame, "frame")[0]
    return Image.fromarray((frame * 255).round().to(torch.uint8).contiguous().numpy())


def from_pil(image: Image) -> Tensor:
    """Any PIL picture as [1, H, W, 3] in 0..1: upright, its colours as sRGB, alpha over white; or
    PictureError."""
    from . import colour
    from .samples import of_image, view

    check_size(image)
    try:
        samples = of_image(image)
        profile = image.info.get("icc_profile")
        return view(samples, profile if profile and colour.usable(profile, samples.colour) else None)
    except PictureError:
        raise
    except Exception as error:  # decoders raise a zoo of errors on damaged bytes
        raise PictureError(
            f"the picture cannot be decoded ({error}); the file is damaged or truncated"
        ) from error


# --- reading ---


@contextmanager
def opened_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file, open; whatever a decoder raises while it is used becomes a PictureError that names it.

    path: "~" at its beginning is the user's home; "-" alone is what comes on standard input.
    """
    name, file = _source(path)
    with file:
        try:
            yield file
        except PictureError as error:
            raise PictureError(f"{name}: {error}") from error.__cause__
        except Exception as error:  # decoders raise a zoo of errors on damaged bytes
            raise PictureError(
                f"{name}: cannot be decoded ({error}); the file is damaged or truncated"
            ) from error


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image]:
    """A picture file, open; whatever a decoder raises while it is used becomes a PictureError."""
    with opened_file(path) as file, open_image(file) as image:
        yield image


def open_image(file: IO[bytes]) -> Image:
    """What Pillow makes of a file's content, not yet decoded. Raises PictureError with what would help."""
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    head = file.read(64)
    kind = kind_of(head)
    optional = optional_reader(kind)
    file.seek(0)
    try:
        Image.init()
        kinds = [*_READS, *([optional] if optional else [])]
        return Image.open(file, formats=[each for each in kinds if each in Image.OPEN])
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture that can be read ({advice(kind) or unknown(head)})") from error
    except Exception as error:
        raise PictureError(f"not a picture that can be read ({advice(kind) or error})") from error


def _source(path: str | os.PathLike[str]) -> tuple[str, IO[bytes]]:
    """(its name in messages, the open file)."""
    if os.fspath(path) == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        if not data:
            raise PictureError("-: nothing came on standard input")
        if len(data) > _MAX_BYTES:
            raise PictureError(f"-: more than {_MAX_BYTES:,} bytes came on standard input; give it as a file")
        return "-", BytesIO(data)
    path = Path(path).expanduser()
    if not path.is_file():
        what = "no such file; it is a folder" if path.is_dir() else "no such file"
        raise PictureError(f"{path}: {what}")
    try:
        return str(path), path.open("rb")
    except OSError as error:
        raise PictureError(f"{path}: cannot be opened ({error.strerror})") from error


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
        raise unwritten(path, error) from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], flush: bool = True) -> None:
    """Calls write(file) on a temporary file beside path, flushes it to disk, and renames it into place.

    The file gets the permissions that the user's umask leaves, or those of the file that it replaces.
    flush: False leaves it to the caller to bring it to the disk (of many files, all at once).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with part.open("x+b") as file:
            write(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        if path.is_file():
            os.chmod(part, stat.S_IMODE(path.stat().st_mode))
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def forget_parts(path: Path, older: float = 0) -> None:
    """Takes away what `write_atomically` and `take_place` have left of a name where they were killed, if it
    is older than so many seconds. The caller knows that nobody writes it now."""
    head = re.compile(rf"\.{re.escape(path.name[:40])}\.[0-9a-f]{{16}}\.(tmp|before)")
    for each in path.parent.iterdir():
        if not head.fullmatch(each.name):
            continue
        with suppress(OSError):  # its writer renamed it meanwhile, or it is somebody else's
            if time.time() - each.lstat().st_mtime < older:
                continue
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
