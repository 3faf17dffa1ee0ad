"""PlayCanvas' compressed .ply: chunks of 256 Gaussians, each with the ranges its numbers are rounded within.

A Gaussian has four uint32: position and log scale, each 11-10-11 bits between its chunk's least and most,
rotation as the number of its largest component and the other three in 10 bits, colour and opacity in 8 bits
each. Harmonics above the constant one are a byte each, -4..4.
"""

from __future__ import annotations

from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS, SH_C0, Gaussians
from .loaded import SMALLEST_SCALE, LoadedGaussians, checked_count, gathered, harmonics_of, logits_of
from .ply import rest_names
from .ply_body import read_body
from .ply_header import PlyElement, PlyHeader

CHUNK = 256
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_POSITION = ("min_x", "min_y", "min_z", "max_x", "max_y", "max_z")
_SCALE = ("min_scale_x", "min_scale_y", "min_scale_z", "max_scale_x", "max_scale_y", "max_scale_z")
_COLOUR = ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b")
_BITS_3 = ((21, 11), (11, 10), (0, 11))  # (shift, bits) of x, y, z
_BITS_4 = ((24, 8), (16, 8), (8, 8), (0, 8))
_BITS_ROTATION = ((20, 10), (10, 10), (0, 10))


def is_compressed(header: PlyHeader) -> bool:
    vertex = header.element("vertex")
    return vertex is not None and set(_PACKED) <= vertex.names() and header.element("chunk") is not None


def read_compressed(file: IO[bytes], header: PlyHeader, size: int, name: str) -> LoadedGaussians:
    """The Gaussians of a compressed .ply whose header was read. Raises SceneError: it is damaged."""
    vertex, chunk, sh = (header.element(each) for each in ("vertex", "chunk", "sh"))
    assert vertex is not None and chunk is not None
    count = checked_count(name, vertex.count)
    degree = _checked(header, vertex, chunk, sh, name)
    wanted = ("chunk", "vertex", "sh") if sh is not None else ("chunk", "vertex")
    tables = read_body(file, header, wanted, size, name).tables
    rows, chunks = tables["vertex"], tables["chunk"]

    of_row = np.arange(count) // CHUNK
    colours = _unpacked(rows["packed_color"], _BITS_4)
    opacity = colours[:, 3]
    colours = colours[:, :3]
    if set(_COLOUR) <= set(chunks.dtype.names or ()):
        colours = _between(chunks, _COLOUR, of_row, colours)
    harmonics = np.empty((count, COEFFICIENTS[degree], 3), np.float32)
    harmonics[:, 0] = harmonics_of(colours)
    if sh is not None:
        byte = np.stack([tables["sh"][each] for each in rest_names(degree)], 1)
        share = np.where(byte == 0, 0, np.where(byte == 255, 1, (byte + 0.5) / 256))
        rest = ((share - 0.5) * 8).astype(np.float32)
        harmonics[:, 1:] = rest.reshape(count, 3, -1).transpose(0, 2, 1)
    gaussians, _, notes = gathered(
        name,
        _between(chunks, _POSITION, of_row, _unpacked(rows["packed_position"], _BITS_3)),
        _between(chunks, _SCALE, of_row, _unpacked(rows["packed_scale"], _BITS_3)),
        _rotation(rows["packed_rotation"]),
        logits_of(opacity),
        harmonics,
    )
    return LoadedGaussians(gaussians, "compressed.ply", None, notes)


def _checked(
    header: PlyHeader, vertex: PlyElement, chunk: PlyElement, sh: PlyElement | None, name: str
) -> int:
    """The degree of its harmonics. Raises SceneError: an element of another form than the format has."""
    if header.ascii:
        raise SceneError(f"{name}: a compressed .ply in ascii; expected binary_little_endian")
    ranges = dict(chunk.properties)
    lacking = [each for each in (*_POSITION, *_SCALE) if ranges.get(each) != "f4"]
    if lacking:
        raise SceneError(
            f"{name}: its chunks have no float {lacking[0]}; it is no compressed .ply, or damaged"
        )
    if set(_COLOUR) & set(ranges) and any(ranges.get(each) != "f4" for each in _COLOUR):
        raise SceneError(f"{name}: its chunks have only some of {', '.join(_COLOUR)}")
    packed = dict(vertex.properties)
    lacking = [each for each in _PACKED if packed[each] != "u4"]
    if lacking:
        raise SceneError(f"{name}: {lacking[0]} is {packed[lacking[0]]}, expected uint")
    expected = -(-vertex.count // CHUNK)
    if chunk.count != expected:
        raise SceneError(
            f"{name}: {chunk.count} chunks for {vertex.count} Gaussians, expected {expected} of {CHUNK}"
        )
    if sh is None:
        return 0
    degrees = {3 * (k - 1): degree for degree, k in enumerate(COEFFICIENTS) if degree}
    degree = degrees.get(len(sh.properties))
    if degree is None or sh.properties != tuple((each, "u1") for each in rest_names(degree)):
        raise SceneError(
            f"{name}: 'sh' has {len(sh.properties)} properties, expected uchar f_rest_0 on: 9, 24, 45"
        )
    if sh.count != vertex.count:
        raise SceneError(f"{name}: harmonics of {sh.count} Gaussians, and {vertex.count} Gaussians")
    return degree


def _unpacked(packed: np.ndarray, fields: tuple[tuple[int, int], ...]) -> np.ndarray:
    """uint32 [N] -> float64 [N, len(fields)] in 0..1."""
    words = packed.astype(np.uint32)
    return np.stack([((words >> shift) & (2**bits - 1)) / (2**bits - 1) for shift, bits in fields], 1)


def _between(chunks: np.ndarray, names: tuple[str, ...], of_row: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Where between its chunk's least and most each share 0..1 [N, 3] lies."""
    table = np.stack([chunks[each].astype(np.float64) for each in names], 1)[of_row]
    with np.errstate(all="ignore"):
        return (table[:, :3] * (1 - share) + table[:, 3:] * share).astype(np.float32)


def _rotation(packed: np.ndarray) -> np.ndarray:
    """uint32 [N] -> w x y z [N, 4]."""
    others = (_unpacked(packed, _BITS_ROTATION) - 0.5) * np.sqrt(2)
    largest = (packed.astype(np.uint32) >> 30).astype(np.int64)
    quats = np.empty((len(packed), 4))
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    np.put_along_axis(quats, places, others, 1)
    rest = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    np.put_along_axis(quats, largest[:, None], rest[:, None], 1)
    return quats.astype(np.float32)


def write_compressed(file: IO[bytes], gaussians: Gaussians) -> tuple[str, ...]:
    """Writes them, near ones in one chunk (so in another order). Returns what was lost, in words."""
    order = _curve(gaussians.means.numpy())
    padded = np.concatenate([order, np.repeat(order[-1:], -len(order) % CHUNK)])
    chunks = len(padded) // CHUNK

    def of(values: np.ndarray) -> np.ndarray:
        return values[padded].reshape(chunks, CHUNK, -1).astype(np.float32)

    ranges: list[np.ndarray] = []
    packed: list[np.ndarray] = []
    colours = (0.5 + SH_C0 * gaussians.sh[:, 0].double()).numpy()
    for values in (gaussians.means.numpy(), gaussians.log_scales.numpy(), colours):
        least_most, share = _shares(of(np.clip(values, SMALLEST_SCALE, 20) if len(ranges) == 1 else values))
        ranges.append(least_most)
        packed.append(share.reshape(-1, 3)[: len(order)])
    alpha = gaussians.logits.double().sigmoid().numpy()[order, None]
    words = [
        _packed(packed[0], _BITS_3),
        _packed_rotation(gaussians.quats.double().numpy()[order]),
        _packed(packed[1], _BITS_3),
        _packed(np.concatenate([packed[2], alpha], 1), _BITS_4),
    ]
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {chunks}"]
    lines += [f"property float {each}" for each in (*_POSITION, *_SCALE, *_COLOUR)]
    lines += [f"element vertex {len(order)}"] + [f"property uint {each}" for each in _PACKED]
    if gaussians.degree:
        lines += [f"element sh {len(order)}"]
        lines += [f"property uchar {each}" for each in rest_names(gaussians.degree)]
    file.write("\n".join([*lines, "end_header", ""]).encode("ascii"))
    file.write(np.concatenate(ranges, 1).astype("<f4").tobytes())
    file.write(np.stack(words, 1).astype("<u4").tobytes())
    if gaussians.degree:
        rest = gaussians.sh[:, 1:].numpy()[order].transpose(0, 2, 1).reshape(len(order), -1)
        file.write(np.clip(np.floor((rest / 8 + 0.5) * 256), 0, 255).astype(np.uint8).tobytes())
    return ("a compressed .ply rounds every number and has its Gaussians in another order",)


def _shares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [chunks, 256, 3] -> (least and most [chunks, 6], where between them [chunks, 256, 3])."""
    least, most = values.min(1), values.max(1)
    width = (most.astype(np.float64) - least)[:, None]
    share = (values.astype(np.float64) - least[:, None]) / np.where(width > 0, width, 1)
    return np.concatenate([least, most], 1), share


def _packed(share: np.ndarray, fields: tuple[tuple[int, int], ...]) -> np.ndarray:
    words = np.zeros(len(share), np.uint32)
    for at, (shift, bits) in enumerate(fields):
        most = 2**bits - 1
        number = np.clip(np.floor(share[:, at] * most + 0.5), 0, most).astype(np.uint32)
        words |= number << np.uint32(shift)
    return words


def _packed_rotation(quats: np.ndarray) -> np.ndarray:
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    quats = np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -quats, quats)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    share = np.take_along_axis(quats, others, 1) * np.sqrt(0.5) + 0.5
    return _packed(share, _BITS_ROTATION) | (largest.astype(np.uint32) << np.uint32(30))


def _curve(means: np.ndarray) -> np.ndarray:
    """An order in which neighbours in space are near each other: Morton's, 21 bits an axis."""
    low = means.min(0).astype(np.float64)
    width = (means.max(0) - low).max()
    cells = ((means - low) / (width or 1) * (2**21 - 1)).astype(np.uint64)
    code = np.zeros(len(means), np.uint64)
    for bit in range(21):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")
