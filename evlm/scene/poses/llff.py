"""LLFF's poses_bounds.npy: a row a photograph, [3, 5] of pose and (height, width, focal), then near and far.

The pose is camera to world; its columns are the camera's down, right and backward axes, and its place.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ...errors import SceneError
from ..camera import Camera
from .checked import MOST_CAMERAS, Matrix, from_pose, lens, read_bytes, side

_MOST_BYTES = MOST_CAMERAS * 17 * 8 + 4096


def read_llff(path: Path, names: list[str]) -> list[Camera]:
    """names: of the photographs, in order; where there are none, the cameras are numbered. Raises SceneError:
    no such array, or another number of photographs than rows."""
    table = _table(path)
    if names and len(names) != len(table):
        raise SceneError(
            f"{path}: {len(table)} poses for {len(names)} photographs; they belong together in the order of "
            "their names, so neither may lack one"
        )
    cameras = []
    for at, row in enumerate(table):
        said = f"{path}: pose {at}"
        pose = row[:15].reshape(3, 5)
        height, width, focal = pose[:, 4]
        down, right, back = pose[:, 0], pose[:, 1], pose[:, 2]
        wide, high = side(float(width), f"{said}: its width"), side(float(height), f"{said}: its height")
        cameras.append(
            Camera(
                from_pose(np.stack([right, down, -back], 1), pose[:, 3], said),
                lens(float(focal), float(focal), wide / 2, high / 2),
                wide,
                high,
                name=names[at] if names else f"{at:03d}",
            )
        )
    return cameras


def _table(path: Path) -> Matrix:
    """[N, 17] float64. Only the header that numpy writes is read, nothing that is pickled."""
    data = io.BytesIO(read_bytes(path, _MOST_BYTES))
    try:
        version = np.lib.format.read_magic(data)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version}")
        shape, by_column, kind = read[version](data)
    except Exception as error:  # a header is a Python literal; what a damaged one raises is numpy's choice
        raise SceneError(f"{path}: is no .npy array ({error}); it is damaged or of another kind") from error
    if kind.kind != "f" or len(shape) != 2 or shape[1] != 17 or not 0 < shape[0] <= MOST_CAMERAS:
        raise SceneError(f"{path}: an array {shape} of {kind}, expected [N, 17] floats as LLFF writes them")
    rest = data.read()
    if len(rest) != shape[0] * 17 * kind.itemsize:
        raise SceneError(f"{path}: promises {shape[0]} poses and holds {len(rest)} bytes; copy it again")
    table = np.frombuffer(rest, kind).reshape(shape, order="F" if by_column else "C").astype(np.float64)
    if not np.isfinite(table[:, :15]).all():
        raise SceneError(f"{path}: a pose holds numbers that are not finite")
    return table
