"""A still picture from its file and back: what the models' [1, H, W, 3] cannot carry stays beside it.

    file --load_still--> Still(frames for the models; samples, profile, ... of the file) --save_edited--> file

Outside the mask the written file has the numbers that were read, in all channels and at their own depth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torch import Tensor

from ..errors import PictureError
from . import colour as profiles
from .kinds import is_hdr
from .png import Chunk, read_header
from .samples import Samples, deepened, of_image, view
from .tiff import MAGIC, read_tiff, tiff_reader_is_missing

if TYPE_CHECKING:
    from PIL.Image import Image

# Of EXIF, what is true of the edited picture too: words, camera, program, date, author, rights, shot, place.
_KEPT_EXIF = (270, 271, 272, 305, 306, 315, 33432, 34665, 34853)
_HEAD = 1 << 16  # bytes, in which an AVIF says what its numbers mean
_ORIENTATION = 274
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # the second picture of a TIFF or MPO is no second frame
_FFMPEG = {"PNG": "png_pipe", "PPM": "ppm_pipe", "TIFF": "tiff_pipe"}


@dataclass(frozen=True)
class Still:
    """One picture with all that its file says of it.

    frames: float32 [1, H, W, 3] in 0..1, sRGB, upright, over white: what the models see.
    samples: the file's own numbers, upright. kind: Pillow's name of the format, "JPEG".
    profile: the ICC profile, where there is one that fits. exif: EXIF bytes without the orientation.
    dpi: dots per inch. chunks: of a PNG, those that say what its numbers mean.
    notes: what of the file is not read, or not as one may think.
    """

    frames: Tensor
    samples: Samples
    kind: str = "PNG"
    profile: bytes | None = None
    exif: bytes = b""
    dpi: tuple[float, float] | None = None
    chunks: tuple[Chunk, ...] = ()
    notes: tuple[str, ...] = ()


def load_still(path: str | os.PathLike[str]) -> Still:
    """One picture: upright, colours as displayed, numbers as in the file; of several pictures the first.

    path: a file, or "-" for what comes on standard input. What it is, its content says, not its suffix.
    Raises PictureError where it is missing, damaged, truncated, too large or of a kind that is not read.
    """
    from .pictures import opened_file

    with opened_file(path) as file:
        return _read(file)


def is_still(path: str | os.PathLike[str]) -> bool:
    """Whether the content of a path is one picture: no animation, video or folder. Of what no reader knows
    it is not said. Raises PictureError where there is no such file."""
    from .pictures import open_image, opened_file

    if os.fspath(path) != "-" and Path(path).expanduser().is_dir():
        return False
    if os.fspath(path) == "-":  # it is read once, and of an animation the first frame is taken
        return True
    with opened_file(path) as file:
        if file.read(4) in MAGIC:
            return True
        try:
            image = open_image(file)
        except PictureError:
            return False
        return image.format not in _ANIMATED or int(getattr(image, "n_frames", 1)) == 1


def read_samples(file: IO[bytes]) -> tuple[Samples, bytes | None]:
    """(the numbers of an open picture file, its ICC profile as it is there). Raises what a decoder raises."""
    _, samples, profile, _ = _decode(file, [])
    return samples, profile


def _read(file: IO[bytes]) -> Still:
    notes: list[str] = []
    image, samples, profile, chunks = _decode(file, notes)
    kind, exif, dpi = "TIFF", b"", None
    if image is not None:
        kind, exif, dpi = str(image.format), _exif(image, notes), _dpi(image)
        _say(image, kind, notes)
        file.seek(0)
        if kind in ("AVIF", "HEIF") and is_hdr(file.read(_HEAD)):
            notes.append(
                "an HDR picture (PQ or HLG): its values are taken as they are and look flat; turn it into "
                "SDR first for true colours"
            )
    if profile is not None and not profiles.usable(profile, samples.colour):
        notes.append("the colour profile does not fit the picture; it is left out, the colours read as sRGB")
        profile = None
    _say_meaning(chunks, profile, notes)
    frames = view(samples, profile, notes)
    return Still(frames, samples, kind, profile, exif, dpi, tuple(chunks), tuple(notes))


def _decode(file: IO[bytes], notes: list[str]) -> tuple[Image | None, Samples, bytes | None, list[Chunk]]:
    """(what Pillow makes of the file, its numbers, its profile, a PNG's chunks); no Image of a TIFF that only
    tifffile reads."""
    from .pictures import check_size, open_image

    file.seek(0)
    deep = read_tiff(file, notes) if file.read(4) in MAGIC else None
    try:
        image = open_image(file)
    except PictureError as error:
        if deep is not None:
            return None, *deep, []
        if tiff_reader_is_missing(file):
            raise PictureError(f"{error}; a TIFF of this kind may need the package tifffile") from error
        raise
    check_size(image)
    bits, chunks = read_header(file)
    if deep is not None:
        return image, *deep, chunks
    orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
    if image.mode == "LAB":
        notes.append("the colours are Lab in the file; they are written in RGB")
    samples = _at_depth(file, image, of_image(image), bits, orientation, notes)
    return image, samples, image.info.get("icc_profile") or None, chunks


def _at_depth(
    file: IO[bytes],
    image: Image,
    samples: Samples,
    bits: int,
    orientation: int,
    notes: list[str],
) -> Samples:
    """What Pillow read, at 16 bits where the file has them and FFmpeg reads them."""
    kind = str(image.format)
    one_deep_channel = samples.values.dtype != "uint8"
    if kind == "PPM":
        bits = 16 if _pnm_full(file) > 255 else 8
    elif kind == "TIFF":
        bits = max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
    elif kind in ("AVIF", "HEIF"):
        bits = _av1_bits(file)
        if bits > 8:
            notes.append(f"{bits} bits a channel are read as 8")
        return samples
    if bits <= 8 or one_deep_channel:
        return samples
    deep = deepened(file, _FFMPEG[kind], samples, orientation) if kind in _FFMPEG else None
    if deep is not None:
        return deep
    remedy = "imagecodecs" if kind == "TIFF" else "av"
    notes.append(f"{bits} bits a channel are read as 8; with the package {remedy} installed all may be read")
    return samples


def _pnm_full(file: IO[bytes]) -> int:
    """The number that a PPM or PGM calls full; 255 where it cannot be told."""
    file.seek(0)
    words = re.sub(rb"#[^\n]*\n", b" ", file.read(4096)).split(maxsplit=4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() and len(words[3]) < 6 else 255


def _av1_bits(file: IO[bytes]) -> int:
    """Bits a channel by the first av1C box of an AVIF (AV1-ISOBMFF, 2.3.3); 8 where there is none."""
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(b"av1C")
    if at < 0 or at + 7 > len(head):
        return 8
    flags = head[at + 6]
    return 12 if flags & 0x60 == 0x60 else 10 if flags & 0x40 else 8


def _exif(image: Image, notes: list[str]) -> bytes:
    """What of the EXIF data stays true, as bytes; empty where there is none or it is damaged."""
    from PIL import Image as pillow

    try:
        found, kept = image.getexif(), pillow.Exif()
        for tag in _KEPT_EXIF:
            part = found.get_ifd(tag) if tag in (34665, 34853) and tag in found else found.get(tag)
            if part:
                kept[tag] = part
        return kept.tobytes() if len(kept) else b""
    except Exception as error:  # damaged in as many ways as there are cameras; the picture is not
        notes.append(f"the EXIF data cannot be read and is left out ({error})")
        return b""


def _dpi(image: Image) -> tuple[float, float] | None:
    try:
        across, down = (float(each) for each in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 <= across <= 100_000 and 1 <= down <= 100_000 else None


def _say(image: Image, kind: str, notes: list[str]) -> None:
    """What a still leaves behind of its file."""
    count = int(getattr(image, "n_frames", 1))
    if count > 1:
        what = "pages" if kind == "TIFF" else "pictures"
        notes.append(f"the file holds {count} {what}; the first is taken, the others are left out")
    if "xmp" in image.info or "XML:com.adobe.xmp" in image.info:
        notes.append("XMP data is left out")


def _say_meaning(chunks: Sequence[Chunk], profile: bytes | None, notes: list[str]) -> None:
    meaning = dict(chunks)
    transfer = meaning.get(b"cICP", b"\0\0")[1:2]
    if transfer in (b"\x10", b"\x12"):
        notes.append("an HDR picture (PQ or HLG): its numbers are kept, the models see them as sRGB")
    gamma = int.from_bytes(meaning.get(b"gAMA", b""), "big")
    if gamma and not 44_000 <= gamma <= 47_000 and profile is None and b"sRGB" not in meaning:
        notes.append(f"a gamma of {gamma / 100_000:g}: it is kept, the models see the numbers as sRGB")
