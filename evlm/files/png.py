"""PNG as Pillow does not write it, 16 bits in every channel; and the chunks that say what its numbers mean.

The format: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Chunk = tuple[bytes, bytes]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What the numbers mean, and the size of a pixel; a profile (iCCP) travels on its own.
MEANING = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs")
_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # channels -> colour type
_BEFORE_CHUNKS = 8 + 12 + 13  # the signature, and IHDR with its 13 bytes
_HELD = 1 << 20  # bytes of a chunk that are taken; none of these has more than 32


def read_header(file: IO[bytes]) -> tuple[int, list[Chunk]]:
    """(bits a channel, the chunks of MEANING) of a PNG; (0, []) of anything else. Reads up to the pixels."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return 0, []
    bits = 0
    chunks: list[Chunk] = []
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"IHDR" or (kind in MEANING and length <= _HELD):
            data = file.read(length)
            if kind == b"IHDR":
                bits = data[8] if len(data) > 8 else 0
            elif kind not in [name for name, _ in chunks]:
                chunks.append((kind, data))
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return bits, chunks


def write_png(file: IO[bytes], values: np.ndarray, chunks: Sequence[Chunk] = ()) -> None:
    """A PNG of 8 bits by Pillow, of 16 by ourselves, with these chunks beside it.

    values: [H, W, C] uint8 or uint16 with C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    """
    import numpy as np

    if values.dtype == np.uint16:
        _write_16(file, values, chunks)
        return
    from PIL import Image

    packed = BytesIO()
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.save(packed, "PNG", compress_level=4)
    whole = packed.getbuffer()
    file.write(whole[:_BEFORE_CHUNKS])
    for kind, data in chunks:
        _chunk(file, kind, data)
    file.write(whole[_BEFORE_CHUNKS:])


def _write_16(file: IO[bytes], values: np.ndarray, chunks: Sequence[Chunk]) -> None:
    import numpy as np

    height, width, channels = values.shape
    file.write(SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _TYPES[channels], 0, 0, 0))
    for kind, data in chunks:
        _chunk(file, kind, data)
    rows = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(height, -1)
    packer, pending = zlib.compressobj(4), b""
    above = np.zeros_like(rows[:1])
    for first in range(0, height, 256):  # filter 2, "up": what changed since the row above
        band = rows[first : first + 256]
        lines = np.empty((len(band), rows.shape[1] + 1), np.uint8)
        lines[:, 0] = 2
        lines[:, 1:] = band - np.concatenate([above, band[:-1]])  # modulo 256
        above = band[-1:]
        pending += packer.compress(lines.tobytes())
        if len(pending) > 1 << 20:
            _chunk(file, b"IDAT", pending)
            pending = b""
    _chunk(file, b"IDAT", pending + packer.flush())
    _chunk(file, b"IEND", b"")


def profile_chunk(profile: bytes) -> Chunk:
    """An ICC profile as iCCP."""
    return b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)


def density_chunk(dpi: tuple[float, float]) -> Chunk:
    """Dots per inch, across and down, as pHYs."""
    across, down = (round(each / 0.0254) for each in dpi)
    return b"pHYs", struct.pack(">IIB", across, down, 1)


def _chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
