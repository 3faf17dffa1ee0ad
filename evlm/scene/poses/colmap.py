"""COLMAP's sparse models: cameras, images and points3D, as .bin or .txt. Read from its documentation of the
format (colmap.github.io/format.html), not with its code."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...errors import SceneError
from ..camera import Camera
from ..points import Points
from .checked import MOST_CAMERAS, from_pose, lens, read_bytes, read_text, rotation_of, side

# model: (its number in .bin, parameters). What the parameters are, `_lens` says.
MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
}
_NUMBERS = {number: name for name, (number, _) in MODELS.items()}
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_LONGEST_NAME = 4096


@dataclass(frozen=True)
class _Lens:
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


def is_colmap(folder: Path) -> bool:
    return any(
        (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file()
        for suffix in (".bin", ".txt")
    )


def read_colmap(folder: Path) -> tuple[list[Camera], Points | None]:
    """(cameras with their lenses, sorted by the photographs' names; points or None).

    Raises SceneError: files that are missing or damaged, a camera model that is not read.
    """
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    paths = [folder / f"{name}{suffix}" for name in ("cameras", "images", "points3D")]
    lenses = dict((_lenses_bin if binary else _lenses_txt)(paths[0]))
    cameras = []
    for name, quaternion, translation, camera_id in (_images_bin if binary else _images_txt)(paths[1]):
        said = f"{paths[1]}: image {name!r:.80}"
        if camera_id not in lenses:
            raise SceneError(f"{said} is of camera {camera_id}, which {paths[0].name} does not have")
        cameras.append(_camera(lenses[camera_id], name, quaternion, translation, said))
    if not cameras:
        raise SceneError(f"{paths[1]}: no image is registered; the reconstruction is empty")
    points = (_points_bin if binary else _points_txt)(paths[2]) if paths[2].is_file() else None
    return sorted(cameras, key=lambda camera: camera.name), points


def _camera(
    lens_of: _Lens, name: str, quaternion: tuple[float, ...], translation: tuple[float, ...], said: str
) -> Camera:
    if not np.isfinite(translation).all():
        raise SceneError(f"{said}: its translation {translation} is not finite")
    rotation = rotation_of(quaternion, said)
    focal, centre, distortion, fisheye = _lens(lens_of)
    return Camera(
        from_pose(rotation.T, -rotation.T @ np.array(translation), said),
        lens(*focal, *centre),
        lens_of.width,
        lens_of.height,
        distortion=distortion,
        fisheye=fisheye,
        name=name,
    )


def _lens(of: _Lens) -> tuple[tuple[float, float], tuple[float, float], tuple[float, ...], bool]:
    """(focal lengths, centre, distortion in OpenCV's order, whether a fisheye)."""
    focal = (of.parameters[0], of.parameters[0 if of.model in _ONE_FOCAL else 1])
    rest = of.parameters[1 if of.model in _ONE_FOCAL else 2 :]
    centre, bent = (rest[0], rest[1]), rest[2:]
    if bent:
        bent = (*bent, 0.0, 0.0, 0.0)[: max(4, len(bent))]
    return focal, centre, bent, "FISHEYE" in of.model


def _lens_of(model: str, width: float, height: float, parameters: tuple[float, ...], said: str) -> _Lens:
    if not np.isfinite(parameters).all():
        raise SceneError(f"{said}: its parameters {parameters} are not all finite")
    return _Lens(model, side(width, f"{said}: its width"), side(height, f"{said}: its height"), parameters)


# --- .bin: little-endian, without padding ---


class _Cursor:
    """Bytes of a file from front to back. Raises SceneError where it ends too soon."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, read_bytes(path), 0

    def take(self, form: str) -> tuple[int | float, ...]:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise SceneError(
                f"{self.path}: ends after {len(self.data)} bytes, in the middle of an entry; copy it again"
            )
        values: tuple[int | float, ...] = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return values

    def count(self, smallest: int, what: str) -> int:
        """The number of entries that follow, each of at least `smallest` bytes."""
        count = int(self.take("<Q")[0])
        self.holds(count * smallest, f"{count:,} {what}")
        return count

    def holds(self, size: int, what: str) -> None:
        if size > len(self.data) - self.at:
            raise SceneError(
                f"{self.path}: promises {what} in the {len(self.data) - self.at} bytes that are left; it is "
                "damaged or no file of COLMAP's"
            )

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + _LONGEST_NAME)
        if end < 0:
            raise SceneError(f"{self.path}: a name at byte {self.at} has no end; the file is damaged")
        raw, self.at = self.data[self.at : end], end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SceneError(f"{self.path}: the name {raw!r:.60} is no UTF-8 text") from error


def _lenses_bin(path: Path) -> Iterator[tuple[int, _Lens]]:
    cursor = _Cursor(path)
    for _ in range(cursor.count(24 + 3 * 8, "cameras")):
        camera_id, number, width, height = cursor.take("<iiQQ")
        said = f"{path}: camera {camera_id}"
        model = _NUMBERS.get(int(number))
        if model is None:
            raise SceneError(f"{said}: model {number} is not read; {_REMEDY}")
        parameters = cursor.take(f"<{MODELS[model][1]}d")
        yield int(camera_id), _lens_of(model, width, height, parameters, said)


def _images_bin(path: Path) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...], int]]:
    cursor = _Cursor(path)
    for _ in range(_few(cursor.count(4 + 7 * 8 + 4 + 1 + 8, "images"), path)):
        _, *pose, camera_id = cursor.take("<I7dI")
        name = cursor.name()
        points = int(cursor.take("<Q")[0])
        cursor.holds(points * 24, f"{points:,} points of {name!r:.60}")
        cursor.at += points * 24
        yield name, tuple(pose[:4]), tuple(pose[4:]), int(camera_id)


def _points_bin(path: Path) -> Points | None:
    cursor = _Cursor(path)
    found = []
    for _ in range(cursor.count(51, "points")):
        _, x, y, z, red, green, blue, _, seen = cursor.take("<Q3d3BdQ")
        cursor.holds(int(seen) * 8, f"a point seen in {seen:,} images")
        cursor.at += int(seen) * 8
        found.append((x, y, z, red, green, blue))
    return _points(np.array(found, np.float64).reshape(-1, 6), path)


# --- .txt: an entry a line, an image two; lines that begin with # are remarks ---


def _lenses_txt(path: Path) -> Iterator[tuple[int, _Lens]]:
    for said, line in _lines(path):
        parts = line.split()
        if len(parts) < 2 or parts[1] not in MODELS:
            raise SceneError(f"{said}: camera model {' '.join(parts[1:2])!r:.40} is not read; {_REMEDY}")
        width, height, *parameters = _floats(parts[2:], 2 + MODELS[parts[1]][1], said)
        yield _whole(parts[0], said), _lens_of(parts[1], width, height, tuple(parameters), said)


def _images_txt(path: Path) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...], int]]:
    lines = enumerate(read_text(path).splitlines(), 1)
    found = 0
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        said = f"{path}: line {number}"
        parts = line.split(maxsplit=9)
        if len(parts) < 10:
            raise SceneError(f"{said}: {len(parts)} values, expected an id, a pose of 7, a camera and a name")
        next(lines, None)  # its points; the line may be empty
        pose = _floats(parts[1:8], 7, said)
        found = _few(found + 1, path)
        yield parts[9].strip(), tuple(pose[:4]), tuple(pose[4:]), _whole(parts[8], said)


def _points_txt(path: Path) -> Points | None:
    found = [_floats(line.split(maxsplit=7)[1:7], 6, said) for said, line in _lines(path)]
    return _points(np.array(found, np.float64).reshape(-1, 6), path)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(where it stands, for messages; the line)."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}: line {number}", line


def _floats(parts: list[str], count: int, said: str) -> list[float]:
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise SceneError(f"{said}: {' '.join(parts)!r:.80}, expected {count} finite numbers")
    return values


def _whole(part: str, said: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", part):
        raise SceneError(f"{said}: {part!r:.40}, expected the number of a camera")
    return int(part)


def _few(count: int, path: Path) -> int:
    if count > MOST_CAMERAS:
        raise SceneError(f"{path}: more than {MOST_CAMERAS:,} images; at most so many are read")
    return count


def _points(rows: np.ndarray, path: Path) -> Points | None:
    with np.errstate(over="ignore"):
        places, colours = rows[:, :3].astype(np.float32), rows[:, 3:].astype(np.float32) / 255
    good = np.isfinite(places).all(1)
    if not good.any():
        return None
    left = int((~good).sum())
    notes = (f"{path}: {left} points have numbers that are not finite; left out",) if left else ()
    return Points(
        torch.from_numpy(places[good]), torch.from_numpy(colours[good]).clamp(0, 1).contiguous(), notes
    )


_REMEDY = f"of {', '.join(MODELS)}; `colmap image_undistorter` turns any into PINHOLE"
