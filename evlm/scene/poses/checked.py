"""Untrusted files of cameras: read with a limit, and every value that is taken from them checked by name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import SceneError

MOST_BYTES = 1 << 31  # of a COLMAP file: points of a few thousand photographs
MOST_JSON = 1 << 27
MOST_CAMERAS = 100_000
MOST_PIXELS = 100_000  # a side of a photograph

Matrix = NDArray[np.float64]


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file whole. Raises SceneError: it cannot be read, or is larger than `most` bytes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise SceneError(f"{path}: {size:,} bytes; at most {most:,} are read of such a file")
            return file.read(most)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A text file, UTF-8. Raises SceneError."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceneError(f"{path}: byte {error.start} is no UTF-8 text; the file is damaged") from error


def read_json(path: Path) -> Any:
    """Raises SceneError: no file, or no JSON."""
    try:
        return json.loads(read_text(path, MOST_JSON))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SceneError):
            raise
        raise SceneError(f"{path}: is no JSON ({error}); it is damaged or of another kind") from error


def number(value: Any, said: str) -> float:
    """A finite number. said: what it is, for the message. Raises SceneError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
    raise SceneError(f"{said} is {value!r:.60}, expected a finite number")


def side(value: Any, said: str) -> int:
    """A side of a picture, in pixels. Raises SceneError."""
    found = number(value, said)
    if found != int(found) or not 1 <= found <= MOST_PIXELS:
        raise SceneError(f"{said} is {value!r:.60}, expected a whole number of pixels, 1 to {MOST_PIXELS}")
    return int(found)


def text(value: Any, said: str) -> str:
    """Raises SceneError where it is no text."""
    if not isinstance(value, str) or not value:
        raise SceneError(f"{said} is {value!r:.60}, expected a text")
    return value


def mapping(value: Any, said: str) -> dict[str, Any]:
    """Raises SceneError where it is no JSON object."""
    if not isinstance(value, dict):
        raise SceneError(f"{said} is {type(value).__name__}, expected an object with named values")
    return value


def rows(value: Any, said: str) -> list[Any]:
    """A list that is not empty. Raises SceneError."""
    if not isinstance(value, list) or not value:
        raise SceneError(f"{said} is {value!r:.60}, expected a list with at least one entry")
    if len(value) > MOST_CAMERAS:
        raise SceneError(f"{said} has {len(value):,} entries; at most {MOST_CAMERAS:,} are read")
    return value


def matrix(value: Any, said: str, height: int, width: int) -> Matrix:
    """[height, width] finite numbers; further rows are allowed where one more is all that there is (the last
    of a 4 x 4). Raises SceneError."""
    lines = rows(value, said)
    if len(lines) not in (height, height + 1) or any(
        not isinstance(x, list) or len(x) != width for x in lines
    ):
        raise SceneError(f"{said} is {value!r:.60}, expected {height} rows of {width} numbers")
    return np.array([[number(each, said) for each in line] for line in lines[:height]])


def rotation_of(wxyz: Sequence[float], said: str) -> Matrix:
    """[3, 3] of a quaternion of any length. Raises SceneError: no length, not finite."""
    length = math.hypot(*wxyz)
    if not math.isfinite(length) or length < 1e-6:
        raise SceneError(f"{said}: the quaternion {tuple(wxyz)} is no rotation")
    w, x, y, z = (each / length for each in wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_pose(rotation: Matrix, centre: Matrix, said: str) -> Tensor:
    """[4, 4] float64: the view of a camera at `centre` [3] whose right, down and forward axes are the columns
    of `rotation` [3, 3]; the rounding of a file is taken out of them. Raises SceneError: no rotation."""
    if not (np.isfinite(rotation).all() and np.isfinite(centre).all()):
        raise SceneError(f"{said}: its pose holds numbers that are not finite")
    left, sizes, right = np.linalg.svd(rotation)
    if np.abs(sizes - 1).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise SceneError(
            f"{said}: its pose is no rotation (its axes' lengths are {', '.join(f'{s:.3g}' for s in sizes)}, "
            f"determinant {np.linalg.det(rotation):.3g}); a mirrored or scaled pose belongs to another format"
        )
    view = np.eye(4)
    view[:3, :3] = (left @ right).T
    view[:3, 3] = -view[:3, :3] @ centre
    return torch.from_numpy(view)


def lens(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    """[3, 3] float64 intrinsics, pixels."""
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
