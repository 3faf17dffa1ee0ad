"""PNG written and read with zlib and struct alone, to hold every other reader and writer to."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, *extra: bytes, interlaced: bool = False) -> bytes:
    """values: [H, W, C] uint8 or uint16; extra: whole chunks that come before the pixels."""
    height, width, channels = values.shape
    kind = ">u2" if values.dtype == np.uint16 else "u1"

    def lines(part: np.ndarray) -> bytes:
        return b"".join(b"\0" + row.astype(kind).tobytes() for row in part) if part.size else b""

    if interlaced:
        data = b"".join(lines(values[y::dy, x::dx]) for x, y, dx, dy in ADAM7)
    else:
        data = lines(values)
    bits = 8 * values.dtype.itemsize
    head = struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[channels], 0, 0, interlaced)
    body = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def read_png(path: Path) -> tuple[np.ndarray, dict[bytes, bytes]]:
    """([H, W, C] uint8 or uint16, its chunks) of a PNG of 8 or 16 bits without palette or interlace."""
    data, at, chunks = path.read_bytes(), 8, dict[bytes, bytes]()
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        chunks[kind] = chunks.get(kind, b"") + body
        at += 12 + length
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert bits in (8, 16) and not interlace
    channels = {number: count for count, number in COLOUR_TYPES.items()}[colour]
    step = channels * bits // 8
    raw, stride = zlib.decompress(chunks[b"IDAT"]), width * step + 1
    above, rows = bytes(stride - 1), []
    for y in range(height):
        kind_of_filter, line = raw[y * stride], bytearray(raw[y * stride + 1 : (y + 1) * stride])
        for x in range(len(line)):
            left = line[x - step] if x >= step else 0
            up, corner = above[x], above[x - step] if x >= step else 0
            near = min((abs(up - corner), 0, left), (abs(left - corner), 1, up),
                       (abs(left + up - 2 * corner), 2, corner))  # fmt: skip
            line[x] = (line[x] + (0, left, up, (left + up) // 2, near[2])[kind_of_filter]) % 256
        above = bytes(line)
        rows.append(above)
    values = np.frombuffer(b"".join(rows), ">u2" if bits == 16 else "u1").reshape(height, width, channels)
    return values.astype(values.dtype.newbyteorder("=")), chunks
