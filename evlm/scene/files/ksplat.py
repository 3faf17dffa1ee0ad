"""mkkellogg's .ksplat, read alone: sections of Gaussians, from level 1 on in half floats and buckets."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS
from .loaded import LoadedGaussians, checked_count, gathered, harmonics_of, logits_of, logs_of

_HEADER, _SECTION_HEADER = 4096, 1024
_FLOATS = ("<f4", "<f2", "<f2")  # of scales and rotations, by level
_CENTRES = ("<f4", "<u2", "<u2")
_HARMONICS = ("<f4", "<f2", "u1")
_FULL_RANGE = 32767
# Numbers of a file (band after band, in each red, then green, then blue) in the order of coefficients.
_BANDS = ((0, 3), (9, 5), (24, 7))  # (first number, coefficients a channel)


@dataclass(frozen=True)
class _Section:
    """Where a section's rows lie, and how its positions are rounded."""

    count: int
    degree: int
    at: int  # of its buckets
    rows: int  # of its first row
    bucket: int  # Gaussians in a full one
    buckets: int
    full: int
    partial: int
    step: float
    range: int


def read_ksplat(file: IO[bytes], size: int, name: str) -> LoadedGaussians:
    """Raises SceneError: no .ksplat, damaged, or of a level that is not known."""
    data = file.read()
    if len(data) < _HEADER + _SECTION_HEADER:
        raise SceneError(
            f"{name}: {len(data)} bytes, a .ksplat has {_HEADER + _SECTION_HEADER} of headers alone"
        )
    major, minor, sections, count, level = struct.unpack_from("<BB2xI8xIH", data)
    if (major, level > 2) != (0, False) or minor < 1:
        raise SceneError(
            f"{name}: version {major}.{minor} with compression {level}; version 0.1 with 0, 1 or 2 is read"
        )
    low, high = struct.unpack_from("<ff", data, 36)
    checked_count(name, count)
    table = _sections(data, sections, level, name)
    if sum(each.count for each in table) != count:
        raise SceneError(
            f"{name}: promises {count} Gaussians, its sections hold {sum(each.count for each in table)}: it "
            "is damaged"
        )
    degree = max(each.degree for each in table)
    parts = [
        _section(data, each, level, degree, (low or -1.5, high or 1.5), name) for each in table if each.count
    ]
    gaussians, _, notes = gathered(name, *(np.concatenate(each) for each in zip(*parts, strict=True)))
    return LoadedGaussians(gaussians, "ksplat", None, notes)


def _row(level: int, degree: int) -> np.dtype:
    fields = [
        ("centre", _CENTRES[level], 3),
        ("scale", _FLOATS[level], 3),
        ("quat", _FLOATS[level], 4),
        ("colour", "u1", 4),
        ("sh", _HARMONICS[level], 3 * (COEFFICIENTS[degree] - 1)),
    ]
    return np.dtype(fields)


def _sections(data: bytes, sections: int, level: int, name: str) -> list[_Section]:
    """Where everything lies, all of it within the file."""
    at = _HEADER + sections * _SECTION_HEADER
    if not sections or at > len(data):
        raise SceneError(f"{name}: {sections} sections, which {len(data)} bytes cannot hold: it is damaged")
    table = []
    for number in range(sections):
        start = _HEADER + number * _SECTION_HEADER
        count, room, bucket, buckets = struct.unpack_from("<IIII", data, start)
        block, each_bucket, scale_range = struct.unpack_from("<fHxxI", data, start + 16)
        full, partial, degree = struct.unpack_from("<IIH", data, start + 32)
        if degree > 3:
            raise SceneError(f"{name}: harmonics of degree {degree}, 0 to 3 are read")
        stored = 4 * partial + each_bucket * buckets
        rows = at + stored
        end = rows + room * _row(level, degree).itemsize
        if count > room or end > len(data):
            raise SceneError(
                f"{name}: section {number + 1} promises {count} Gaussians of {room} up to byte {end}, of "
                f"{len(data)}: it was cut off or is damaged"
            )
        if level and count and (each_bucket < 12 or full + partial > buckets):
            raise SceneError(
                f"{name}: section {number + 1} has {full} + {partial} of {buckets} buckets: damaged"
            )
        scale_range = scale_range or (_FULL_RANGE if level else 1)
        step = block / 2 / scale_range
        table.append(_Section(count, degree, at, rows, bucket, buckets, full, partial, step, scale_range))
        at = end
    return table


def _section(
    data: bytes, section: _Section, level: int, degree: int, sh_range: tuple[float, float], name: str
) -> tuple[np.ndarray, ...]:
    """means, log_scales, quats, logits, sh of a section; sh padded to `degree`."""
    count = section.count
    rows = np.frombuffer(data, _row(level, section.degree), count, section.rows)
    with np.errstate(all="ignore"):
        means = rows["centre"].astype(np.float64)
        if level:
            centres = np.frombuffer(data, "<f4", 3 * section.buckets, section.at + 4 * section.partial)
            means = (means - section.range) * section.step + centres.reshape(-1, 3)[
                _buckets(data, section, name)
            ]
        means = means.astype(np.float32)
        scales = logs_of(rows["scale"])
    colours = rows["colour"] / 255
    sh = np.zeros((count, COEFFICIENTS[degree], 3), np.float32)
    sh[:, 0] = harmonics_of(colours[:, :3])
    with np.errstate(invalid="ignore"):
        numbers = rows["sh"].astype(np.float64)
    if level == 2:
        numbers = sh_range[0] + numbers / 255 * (sh_range[1] - sh_range[0])
    at = 1
    for first, width in _BANDS[: section.degree]:
        band = numbers[:, first : first + 3 * width].reshape(count, 3, width)
        with np.errstate(over="ignore"):
            sh[:, at : at + width] = band.transpose(0, 2, 1)
        at += width
    return means, scales, rows["quat"].astype(np.float32), logits_of(colours[:, 3]), sh


def _buckets(data: bytes, section: _Section, name: str) -> np.ndarray:
    """[count] which bucket each Gaussian lies in: full ones first, then those that are filled in part."""
    lengths = np.frombuffer(data, "<u4", section.partial, section.at).astype(np.int64)
    filled = section.full * section.bucket + int(lengths.sum())
    if filled < section.count:
        raise SceneError(f"{name}: its buckets hold {filled} Gaussians of {section.count}: it is damaged")
    rows = np.arange(section.count)
    ends = section.full * section.bucket + np.cumsum(lengths)
    partial = section.full + np.searchsorted(ends, rows, side="right")
    if not section.bucket:
        return partial
    return np.where(rows < section.full * section.bucket, rows // section.bucket, partial)
