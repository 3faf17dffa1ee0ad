"""The container of an .spz, gzip (versions 1 to 3) or zstd (4), unpacked no further than it promised."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS
from .loaded import checked_count

MAGIC = b"NGSP"
RIGHT_UP_BACK = 4  # Niantic's number of the axes in a file that says nothing
_AXES_RECORD = 0xADBE0003
_MAX_EXTENSIONS = 64 * 1024
_MOST_DEFLATED = 1032  # bytes that one byte of deflate can become
_MOST_PACKED = 100  # times its bytes that a file may become; real scenes become two to four times
_ANYWAY = 64 << 20  # bytes of Gaussians that are unpacked however small the file is
_DAMAGED = "it is damaged or was cut off; copy or download it again"


@dataclass(frozen=True)
class SpzHeader:
    """fixed_bits: of a position below the point."""

    version: int
    count: int
    degree: int
    fixed_bits: int
    flags: int

    @property
    def antialiased(self) -> bool:
        return bool(self.flags & 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each attribute of all Gaussians: position, opacity, colour, scale, rotation, harmonics."""
        position = 6 if self.version == 1 else 9
        rotation = 4 if self.version >= 3 else 3
        each = (position, 1, 3, 3, rotation, 3 * (COEFFICIENTS[self.degree] - 1))
        return tuple(self.count * size for size in each)


@dataclass(frozen=True, eq=False)
class SpzStreams:
    """uint8, one behind the other. axes: Niantic's number of the file's axes."""

    header: SpzHeader
    axes: int
    notes: tuple[str, ...]
    positions: np.ndarray
    opacities: np.ndarray
    colours: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    harmonics: np.ndarray


def read_streams(data: bytes, name: str) -> SpzStreams:
    """Raises SceneError: no .spz, damaged, or version 4 where Python cannot unpack zstd."""
    if data[:4] == MAGIC:
        header, parts, extensions = _unpack_zstd(data, name)
    elif data[:2] == b"\x1f\x8b":
        header, parts, extensions = _unpack_gzip(data, name)
    else:
        raise SceneError(f"{name}: begins with {data[:4]!r}; an .spz begins with gzip's mark or with NGSP")
    axes, notes = _extensions(extensions, name) if header.flags & 2 else (RIGHT_UP_BACK, ())
    return SpzStreams(header, axes, notes, *(np.frombuffer(part, np.uint8) for part in parts))


def _checked_header(version: int, count: int, degree: int, bits: int, flags: int, name: str) -> SpzHeader:
    checked_count(name, count)
    if degree >= len(COEFFICIENTS):
        raise SceneError(
            f"{name}: has harmonics of degree {degree}, at most {len(COEFFICIENTS) - 1} are read; "
            "save it with fewer"
        )
    if bits > 24:
        raise SceneError(f"{name}: positions with {bits} bits below the point, at most 24: it is damaged")
    return SpzHeader(version, count, degree, bits, flags)


def _check_unpacked(header: SpzHeader, size: int, name: str) -> None:
    """Raises SceneError for a file of `size` bytes that would take far more memory than any real scene."""
    needed = sum(header.sizes)
    if needed > max(_ANYWAY, _MOST_PACKED * size):
        raise SceneError(
            f"{name}: {size:,} bytes that become {header.count:,} Gaussians, {needed:,} bytes: more than "
            f"{_MOST_PACKED} times as many are not unpacked; save it as a .ply where it was made"
        )


def _unpack_gzip(data: bytes, name: str) -> tuple[SpzHeader, list[bytes], bytes]:
    stream = zlib.decompressobj(wbits=31)
    try:
        start = stream.decompress(data, 16)
        if len(start) < 16 or start[:4] != MAGIC:
            raise SceneError(f"{name}: holds {start[:4]!r} under its gzip, an .spz has NGSP there")
        version, count, degree, bits, flags = struct.unpack("<4xIIBBBx", start)
        if version not in (1, 2, 3):
            raise SceneError(f"{name}: is .spz version {version} in gzip, expected 1, 2 or 3")
        header = _checked_header(version, count, degree, bits, flags, name)
        needed = sum(header.sizes)
        if needed > _MOST_DEFLATED * len(data):
            raise SceneError(
                f"{name}: promises {count} Gaussians, {needed} bytes, and {len(data)} bytes of gzip cannot "
                f"hold them: {_DAMAGED}"
            )
        _check_unpacked(header, len(data), name)
        body = _inflate(stream, needed)
        rest = _inflate(stream, _MAX_EXTENSIONS)
    except zlib.error as error:
        raise SceneError(f"{name}: its gzip cannot be unpacked ({error}): {_DAMAGED}") from error
    if len(body) < needed:
        raise SceneError(f"{name}: promises {count} Gaussians, {needed} bytes, has {len(body)}: {_DAMAGED}")
    if not stream.eof:
        what = "goes on behind its Gaussians" if stream.unconsumed_tail else "ends within its gzip"
        raise SceneError(f"{name}: {what}: {_DAMAGED}")
    parts, at = [], 0
    for size in header.sizes:
        parts.append(body[at : at + size])
        at += size
    return header, parts, rest


def _inflate(stream: Any, most: int) -> bytes:
    """At most that many bytes more."""
    out = io.BytesIO()
    while out.tell() < most and not stream.eof:
        piece = stream.decompress(stream.unconsumed_tail, most - out.tell())
        if not piece:
            break
        out.write(piece)
    if not stream.eof and out.tell() == most:  # the end may stand right here; what comes is at most one byte
        tail = stream.unconsumed_tail
        probe = stream.copy()
        if not probe.decompress(tail, 1) and probe.eof:
            stream.decompress(tail, 1)
    return out.getvalue()


def _unpack_zstd(data: bytes, name: str) -> tuple[SpzHeader, list[bytes], bytes]:
    if len(data) < 32:
        raise SceneError(f"{name}: {len(data)} bytes, an .spz of version 4 has 32 in its header: {_DAMAGED}")
    version, count, degree, bits, flags, streams, at = struct.unpack_from("<4xIIBBBBI", data)
    if version != 4:
        raise SceneError(f"{name}: is .spz version {version}; 1 to 4 are read")
    header = _checked_header(version, count, degree, bits, flags, name)
    sizes = [size for size in header.sizes if size]
    if at < 32 or at + 16 * streams > len(data) or streams != len(sizes):
        raise SceneError(
            f"{name}: its table of {streams} streams at byte {at} does not fit {len(data)} bytes and "
            f"{len(sizes)} attributes: {_DAMAGED}"
        )
    table = struct.unpack_from(f"<{2 * streams}Q", data, at)
    extensions = data[32:at]
    at += 16 * streams
    if list(table[1::2]) != sizes or sum(table[::2]) != len(data) - at:
        raise SceneError(f"{name}: its table does not say the sizes of {count} Gaussians: {_DAMAGED}")
    _check_unpacked(header, len(data), name)
    unpack = _zstd(name)
    parts = []
    for packed, size in zip(table[::2], sizes, strict=True):
        parts.append(unpack(data[at : at + packed], size))
        at += packed
        if len(parts[-1]) != size:
            raise SceneError(f"{name}: a stream has not its {size} bytes: {_DAMAGED}")
    if not header.degree:
        parts.append(b"")
    return header, parts, extensions


def _zstd(name: str) -> Callable[[bytes, int], bytes]:
    """(packed, most bytes) -> unpacked. Raises SceneError: no zstd in this Python."""
    try:
        module = import_module("compression.zstd")
    except ImportError:
        try:
            module = import_module("zstandard")
        except ImportError:
            raise SceneError(
                f"{name}: is .spz version 4, packed with zstd, which this Python cannot unpack: pip install "
                "zstandard, or save it as version 3 (`npx @playcanvas/splat-transform in.spz --spz-version 3 "
                "out.spz`)"
            ) from None

    def unpack(packed: bytes, most: int) -> bytes:
        try:
            if module.__name__ == "zstandard":
                return bytes(module.ZstdDecompressor().stream_reader(io.BytesIO(packed)).read(most + 1))
            return bytes(module.ZstdDecompressor().decompress(packed, most + 1))
        except module.ZstdError as error:
            raise SceneError(f"{name}: a stream cannot be unpacked ({error}): {_DAMAGED}") from error

    return unpack


def _extensions(data: bytes, name: str) -> tuple[int, tuple[str, ...]]:
    """(number of the axes, notes) of the records (type, length, value) that a file may have besides."""
    axes, others, at = RIGHT_UP_BACK, 0, 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        value = data[at + 8 : at + 8 + length]
        if len(value) < length:
            break
        at += 8 + length
        if kind != _AXES_RECORD or length != 4:
            others += 1
            continue
        axes = struct.unpack("<I", value)[0] or RIGHT_UP_BACK
        if axes > 8:
            raise SceneError(
                f"{name}: says axes of kind {axes}, 1 to 8 are read; save it with axes right, up, back"
            )
    return axes, (f"{others} extensions of the .spz are not kept",) if others else ()
