"""TIFF in the forms that Pillow cuts or refuses, read and written by tifffile.

TIFF 6.0: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

from __future__ import annotations

import logging
from typing import IO, TYPE_CHECKING, Any

from ..errors import PictureError
from .samples import CHANNELS, Colour, Samples, upright

if TYPE_CHECKING:
    import numpy as np

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_DNG_VERSION, _SUBFILE_TYPE, _ORIENTATION, _INK_SET = 50706, 254, 274, 332
_COLOURS: dict[int, Colour] = {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}  # PhotometricInterpretation
_ASSOCIATED, _UNASSOCIATED = 1, 2  # ExtraSamples
_MAX_CHANNELS = 16


def read_tiff(file: IO[bytes], notes: list[str]) -> tuple[Samples, bytes | None] | None:
    """(the first picture of a TIFF at its own depth, its profile); None where Pillow reads all of it.

    Raises PictureError for a camera's raw file, for channels that are no picture, and for what is too large.
    """
    try:
        import tifffile
    except ImportError:
        return None
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong, an error of ours says
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        _refuse_raw(page)
        if _pillow_reads_all(page):
            return None
        _check(page)
        values = _values(page)
        if values is None:
            return None
        values = upright(values, int(page.tags.valueof(_ORIENTATION, 1)))
        colour = _COLOURS[int(page.photometric)]
        samples = _samples(values, colour, [int(each) for each in page.extrasamples], notes)
        return samples, page.tags.valueof("InterColorProfile")


def tiff_reader_is_missing(file: IO[bytes]) -> bool:
    """Whether a file is a TIFF, and tifffile is not installed."""
    file.seek(0)
    if file.read(4) not in MAGIC:
        return False
    try:
        import tifffile  # noqa: F401
    except ImportError:
        return True
    return False


def _refuse_raw(page: Any) -> None:
    if _DNG_VERSION in page.tags or int(page.tags.valueof(_SUBFILE_TYPE, 0)) & 1:
        raise PictureError("a camera's raw file, or one that begins with a preview; develop it to TIFF first")


def _pillow_reads_all(page: Any) -> bool:
    """Pillow keeps 8 bits a channel, in one, three or four channels; and more bits in one channel only."""
    if int(page.photometric) not in _COLOURS:  # a palette, YCbCr of a JPEG, Lab: 8 bits
        return int(page.bitspersample) <= 8
    extra = [int(each) for each in page.extrasamples]
    known = CHANNELS[_COLOURS[int(page.photometric)]]
    plain = not extra or (extra == [_UNASSOCIATED] and known == 3)
    return int(page.bitspersample) <= 8 and plain and page.samplesperpixel == known + len(extra)


def _check(page: Any) -> None:
    from .pictures import MAX_PIXELS

    width, height = int(page.imagewidth), int(page.imagelength)
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} pixels: at most {MAX_PIXELS:,} are read; scale it down first")
    if int(page.photometric) not in _COLOURS:
        raise PictureError(f"{page.bitspersample} bits in colours of kind {int(page.photometric)}; "
                           "save it as RGB first")  # fmt: skip
    count, known = int(page.samplesperpixel), CHANNELS[_COLOURS[int(page.photometric)]]
    beyond = count - known
    unnamed = beyond > len(page.extrasamples)
    if not known <= count <= _MAX_CHANNELS or unnamed or int(page.imagedepth) != 1:
        raise PictureError(f"{count} channels: expected grey, RGB or CMYK, with or without alpha")
    if int(page.tags.valueof(_INK_SET, 1)) != 1:
        raise PictureError("inks other than cyan, magenta, yellow and black; save it as CMYK or RGB first")


def _values(page: Any) -> np.ndarray | None:
    """[H, W, C], or None where a codec is lacking (then the caller tries another reader)."""
    import numpy as np

    try:
        values = np.asarray(page.asarray(maxworkers=1))
    except ValueError as error:
        if "imagecodecs" in str(error):
            return None
        raise
    height, width, count = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    if int(page.planarconfig) == 2 and count > 1:
        values = np.moveaxis(values.reshape(count, height, width), 0, -1)
    values = values.reshape(height, width, count)
    kind = values.dtype.newbyteorder("=")
    if kind.kind == "f":
        if int(page.photometric) == 5:
            raise PictureError("CMYK of floating point; save it with 8 or 16 bits first")
        return values.astype(np.float32)
    if kind.kind != "u" or kind.itemsize not in (1, 2, 4):
        raise PictureError(f"samples of type {kind}: expected 8, 16 or 32 bits without a sign, or floats")
    values = values.astype(kind)
    if int(page.photometric) == 0:  # white is 0
        values[..., 0] = (2 ** int(page.bitspersample) - 1) - values[..., 0]
    return values


def _samples(values: np.ndarray, colour: Colour, extra: list[int], notes: list[str]) -> Samples:
    import numpy as np

    known = CHANNELS[colour]
    kinds = [known + at for at, kind in enumerate(extra) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    alpha = kinds[0] if kinds else None
    if alpha is None or extra[alpha - known] == _UNASSOCIATED:
        return Samples(values, colour, alpha)
    notes.append("the colours were multiplied by alpha in the file; they are written divided by it")
    full = Samples(values, colour, alpha).full
    share = np.maximum(values[..., alpha : alpha + 1].astype(np.float64) / full, 1e-9)
    divided = np.minimum(values[..., :known] / share, full)
    out = values.copy()
    out[..., :known] = divided if values.dtype == np.float32 else divided.round()
    return Samples(out, colour, alpha)


def write_tiff(
    file: IO[bytes], samples: Samples, profile: bytes | None, dpi: tuple[float, float] | None
) -> None:
    """Samples as a TIFF, losslessly deflated. Raises PictureError where tifffile is not installed."""
    try:
        import tifffile
    except ImportError:
        raise PictureError("writing this picture needs the package tifffile: pip install tifffile") from None
    import numpy as np

    beyond = samples.values.shape[-1] - CHANNELS[samples.colour]
    extra = [_UNASSOCIATED if CHANNELS[samples.colour] + at == samples.alpha else 0 for at in range(beyond)]
    name = {"L": "minisblack", "RGB": "rgb", "CMYK": "separated"}[samples.colour]
    values = samples.values if samples.values.shape[-1] > 1 else samples.values[..., 0]
    more: dict[str, Any] = {"resolution": dpi, "resolutionunit": "INCH"} if dpi else {}
    tifffile.imwrite(
        file,
        np.ascontiguousarray(values),
        photometric=name,
        planarconfig="contig" if samples.values.shape[-1] > 1 else None,
        extrasamples=extra or None,
        compression="zlib",
        iccprofile=profile,
        metadata=None,
        software=False,
        **more,
    )
