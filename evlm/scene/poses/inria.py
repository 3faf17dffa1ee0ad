"""cameras.json, as 3D Gaussian Splatting's training writes it: camera to world in OpenCV's axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..camera import Camera
from .checked import from_pose, lens, mapping, matrix, number, rows, side, text


def is_inria(value: Any) -> bool:
    """Whether a JSON file's content is such a list."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "rotation" in value[0]


def read_inria(value: Any, path: Path) -> list[Camera]:
    """value: the content of `path`. Raises SceneError."""
    cameras = []
    for at, entry in enumerate(rows(value, str(path))):
        said = f"{path}: camera {at}"
        given = mapping(entry, said)
        width, height = (side(given.get(name), f"{said}: {name}") for name in ("width", "height"))
        place = rows(given.get("position"), f"{said}: position")
        centre = matrix([place], f"{said}: position", 1, 3)[0]
        rotation = matrix(given.get("rotation"), f"{said}: rotation", 3, 3)
        fx, fy = (number(given.get(name), f"{said}: {name}") for name in ("fx", "fy"))
        cameras.append(
            Camera(
                from_pose(rotation, np.asarray(centre), said),
                lens(fx, fy, width / 2, height / 2),
                width,
                height,
                name=text(given.get("img_name"), f"{said}: img_name"),
            )
        )
    return cameras
