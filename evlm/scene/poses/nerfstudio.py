"""transforms.json: nerfstudio's and instant-ngp's, and the blender scenes' of NeRF and D-NeRF.

A `transform_matrix` is camera to world in OpenGL's axes (x right, y up, looking down -z).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SceneError
from ..camera import Camera
from .checked import Matrix, from_pose, lens, mapping, matrix, number, read_json, rows, side, text
from .photographs import find, found_or_none, size_of

_FLIP = np.diag([1.0, -1.0, -1.0])  # OpenGL's y and z are OpenCV's, negated
_VALUES = (  # that a frame has, or the file for all of its frames
    "transform_matrix", "time", "w", "h", "fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "cx", "cy",
    "k1", "k2", "k3", "k4", "p1", "p2", "camera_model", "is_fisheye",
)  # fmt: skip
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL")


def read_transforms(path: Path, images: Path | None) -> tuple[list[Camera], list[str], str | None]:
    """(cameras with their lenses, their photographs' names, the name of a .ply of points or None).

    images: where the photographs lie, whatever folder the file names; None: beside the file. A blender scene
    has its pictures' size from them. What `applied_transform` did is in the poses already, and in that .ply.
    Raises SceneError.
    """
    whole = mapping(read_json(path), str(path))
    cameras, names = [], []
    folder = path.parent if images is None else images
    shared = {name: whole[name] for name in _VALUES if name in whole}
    for at, entry in enumerate(rows(whole.get("frames"), f"{path}: frames")):
        said = f"{path}: frame {at}"
        frame = mapping(entry, said)
        name = text(frame.get("file_path"), f"{said}: file_path").removeprefix("./")
        if images is not None and found_or_none(images, name) is None:
            name = name.rpartition("/")[2]
        cameras.append(_camera({**shared, **frame}, name, folder, f"{said} ({name:.60})"))
        names.append(name)
    points = whole.get("ply_file_path")
    return cameras, names, None if points is None else text(points, f"{path}: ply_file_path")


def applied_transform(path: Path) -> Matrix | None:
    """[3, 4], by which nerfstudio turned the COLMAP model that the file was made from. Raises SceneError."""
    value = mapping(read_json(path), str(path)).get("applied_transform")
    return None if value is None else matrix(value, f"{path}: applied_transform", 3, 4)


def _camera(values: dict[str, Any], name: str, folder: Path, said: str) -> Camera:
    pose = matrix(values.get("transform_matrix"), f"{said}: transform_matrix", 3, 4)
    width, height = _size(values, name, folder, said)
    fx, fy = _focal(values, width, height, said)
    cx = number(values.get("cx", width / 2), f"{said}: cx")
    cy = number(values.get("cy", height / 2), f"{said}: cy")
    distortion, fisheye = _distortion(values, said)
    time = values.get("time")
    return Camera(
        from_pose(pose[:, :3] @ _FLIP, pose[:, 3], said),
        lens(fx, fy, cx, cy),
        width,
        height,
        distortion=distortion,
        fisheye=fisheye,
        name=name,
        time=None if time is None else number(time, f"{said}: time"),
    )


def _size(values: dict[str, Any], name: str, folder: Path, said: str) -> tuple[int, int]:
    if "w" in values and "h" in values:
        return side(values["w"], f"{said}: w"), side(values["h"], f"{said}: h")
    path = find(folder, name)
    if path is None:
        raise SceneError(f"{said}: has no w and h, and there is no photograph {name!r:.80} to have them from")
    return size_of(path)


def _focal(values: dict[str, Any], width: int, height: int, said: str) -> tuple[float, float]:
    """By fl_x and fl_y, or by the angles camera_angle_x and camera_angle_y, in radians."""
    found: list[float | None] = []
    for focal, angle, length in (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height)):
        if focal in values:
            found.append(number(values[focal], f"{said}: {focal}"))
        elif angle in values:
            wide = number(values[angle], f"{said}: {angle}")
            if not 0 < wide < math.pi:
                raise SceneError(f"{said}: {angle} is {wide:g}, expected radians between 0 and {math.pi:.2f}")
            found.append(length / 2 / math.tan(wide / 2))
        else:
            found.append(None)
    fx = found[0] if found[0] is not None else found[1]
    fy = found[1] if found[1] is not None else found[0]
    if fx is None or fy is None:
        raise SceneError(f"{said}: has neither fl_x nor camera_angle_x, so no focal length")
    return fx, fy


def _distortion(values: dict[str, Any], said: str) -> tuple[tuple[float, ...], bool]:
    k1, k2, k3, k4, p1, p2 = (
        number(values.get(name, 0), f"{said}: {name}") for name in ("k1", "k2", "k3", "k4", "p1", "p2")
    )
    model = values.get("camera_model", "OPENCV")
    fisheye = model == "OPENCV_FISHEYE" or values.get("is_fisheye") is True
    if fisheye:
        return (k1, k2, k3, k4), True
    if model not in _PINHOLES:
        raise SceneError(
            f"{said}: camera_model {model!r:.40} is not read; of {', '.join(_PINHOLES)}, OPENCV_FISHEYE"
        )
    if k4:
        raise SceneError(f"{said}: k4 is {k4:g}; a fourth radial term is read of a fisheye alone")
    return ((k1, k2, p1, p2, k3) if any((k1, k2, p1, p2, k3)) else ()), False
