"""Niantic's .spz: every attribute of all Gaussians in a row of bytes, versions 1 to 4; version 3 is written.

Axes are right-up-back in the file and right-down-front in a .ply (and here), so y and z are turned over, as
Niantic's own converter does.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS, Gaussians
from .loaded import LoadedGaussians, gathered, logits_of
from .spz_streams import MAGIC, RIGHT_UP_BACK, SpzStreams, read_streams

_COLOUR_SCALE = 0.15
_FIXED_BITS = 12  # of a position below the point, where it fits
_RIGHT_DOWN_FRONT = 6
# Which axes the harmonics above the constant one are odd in.
_ODD = ("y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")
# Numbers of the components besides the largest, by its number.
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


@dataclass(frozen=True, eq=False)
class _Turn:
    """From a file's axes to a .ply's and back: signs of x y z [3], of a rotation's x y z [3], of each
    harmonic above the constant one [15]."""

    axes: np.ndarray
    quat: np.ndarray
    sh: np.ndarray


def _turn(axes: int) -> _Turn:
    """axes: 1 to 8, of which each bit below says whether x is right, y is up, z is front."""
    differ = (axes - 1) ^ (_RIGHT_DOWN_FRONT - 1)
    signs = np.array([-1.0 if differ >> bit & 1 else 1.0 for bit in range(3)], np.float32)
    named = dict(zip("xyz", signs.tolist(), strict=True))
    sh = np.array([math.prod(named[axis] for axis in odd) for odd in _ODD], np.float32)
    return _Turn(signs, signs.prod() * signs, sh)


def read_spz(file: IO[bytes], size: int, name: str) -> LoadedGaussians:
    """Raises SceneError: it is no .spz, damaged, or of a kind that is not read."""
    streams = read_streams(file.read(), name)
    header, turn = streams.header, _turn(streams.axes)
    count = header.count
    sh = np.empty((count, COEFFICIENTS[header.degree], 3), np.float32)
    sh[:, 0] = (streams.colours.reshape(count, 3) / np.float64(255) - 0.5) / _COLOUR_SCALE
    if header.degree:
        rest = (streams.harmonics.reshape(count, -1, 3).astype(np.float32) - 128) / 128
        sh[:, 1:] = rest * turn.sh[: rest.shape[1], None]
    quats = _smallest_three(streams.rotations) if header.version >= 3 else _first_three(streams.rotations)
    quats[:, 1:] *= turn.quat
    gaussians, _, notes = gathered(
        name,
        _positions(streams) * turn.axes,
        streams.scales.reshape(count, 3) / np.float32(16) - 10,
        quats,
        logits_of(streams.opacities / np.float64(255)),
        sh,
    )
    if header.antialiased:
        notes = (*notes, "it was trained with anti-aliasing; render it so")
    return LoadedGaussians(gaussians, "spz", None, (*notes, *streams.notes))


def _positions(streams: SpzStreams) -> np.ndarray:
    count = streams.header.count
    if streams.header.version == 1:
        return np.frombuffer(streams.positions.tobytes(), "<f2").astype(np.float32).reshape(count, 3)
    byte = streams.positions.reshape(count, 3, 3).astype(np.int32)
    fixed = byte[..., 0] | byte[..., 1] << 8 | byte[..., 2] << 16
    fixed -= (fixed & 0x800000) << 1
    return (fixed * 0.5**streams.header.fixed_bits).astype(np.float32)


def _first_three(rotations: np.ndarray) -> np.ndarray:
    """Bytes of x y z -> w x y z [N, 4], w >= 0."""
    three = rotations.reshape(-1, 3) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (three**2).sum(1)))
    return np.concatenate([w[:, None], three], 1).astype(np.float32)


def _smallest_three(rotations: np.ndarray) -> np.ndarray:
    """uint32 (2 bits: which of x y z w is largest; the others as sign and 9 bits) -> w x y z [N, 4]."""
    words = np.frombuffer(rotations.tobytes(), "<u4").astype(np.int64)
    largest = words >> 30
    fields = np.stack([(words >> shift) & 1023 for shift in (20, 10, 0)], 1)
    others = np.where(fields & 512, -1, 1) * (fields & 511) / 511 * np.sqrt(0.5)
    quats = np.empty((len(words), 4))
    np.put_along_axis(quats, _OTHERS[largest], others, 1)
    rest = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    np.put_along_axis(quats, largest[:, None], rest[:, None], 1)
    return quats[:, [3, 0, 1, 2]].astype(np.float32)


def write_spz(file: IO[bytes], gaussians: Gaussians, name: str) -> tuple[str, ...]:
    """Writes version 3, rows in their order. Returns what was lost, in words. name: for errors.

    Raises SceneError: positions that 24 bits cannot hold.
    """
    turn = _turn(RIGHT_UP_BACK)
    means = gaussians.means.double().numpy() * turn.axes
    far = float(np.abs(means).max())
    bits = next((each for each in range(_FIXED_BITS, -1, -1) if far * 2**each <= 2**23 - 1), None)
    if bits is None:
        raise SceneError(
            f"{name}: a Gaussian lies {far:.3g} from the origin, a .spz holds at most {2**23 - 1}"
        )
    notes = [f"a .spz rounds every number; positions to 1/{2**bits}"]
    fixed = np.round(means * 2**bits).astype(np.int32)
    positions = np.stack([fixed & 255, (fixed >> 8) & 255, (fixed >> 16) & 255], -1)
    quats = gaussians.quats.double().numpy() * np.array([1, *turn.quat])
    parts = [
        positions,
        gaussians.logits.double().sigmoid().numpy() * 255,
        gaussians.sh[:, 0].double().numpy() * (_COLOUR_SCALE * 255) + 127.5,
        (gaussians.log_scales.double().numpy() + 10) * 16,
        _packed_rotation(quats),
    ]
    if gaussians.degree:
        rest = gaussians.sh[:, 1:].double().numpy()
        parts.append(rest * turn.sh[: rest.shape[1], None] * 128 + 128)
    data = MAGIC + struct.pack("<IIBBBB", 3, len(gaussians), gaussians.degree, bits, 0, 0)
    data += b"".join(np.clip(np.round(part), 0, 255).astype(np.uint8).tobytes() for part in parts)
    file.write(gzip.compress(data, mtime=0))
    return tuple(notes)


def _packed_rotation(quats: np.ndarray) -> np.ndarray:
    """w x y z [N, 4] -> bytes [N, 4]."""
    quats = quats[:, [1, 2, 3, 0]] / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    quats = np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -quats, quats)
    others = np.take_along_axis(quats, _OTHERS[largest], 1)
    sizes = np.minimum(np.floor(np.abs(others) / np.sqrt(0.5) * 511 + 0.5), 511).astype(np.uint32)
    fields = sizes | (others < 0).astype(np.uint32) << np.uint32(9)
    words = largest.astype(np.uint32) << np.uint32(30)
    for at, shift in enumerate((20, 10, 0)):
        words |= fields[:, at] << np.uint32(shift)
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)
