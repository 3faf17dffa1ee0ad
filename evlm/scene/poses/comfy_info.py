"""ComfyUI's camera info (LOAD3D_CAMERA): three.js, right-handed, y up, looking down its own -z.

The viewer's world and that of Gaussians differ by half a turn about x: (x, y, z) there is (x, -y, -z) here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ...errors import SceneError
from ..camera import Camera, looking_at, pinhole
from .checked import Matrix, from_pose, mapping, number, rotation_of, side

_TURN = np.diag([1.0, -1.0, -1.0])
DEFAULT_FOV = 35.0  # degrees, what ComfyUI takes where a viewer gives none


def is_comfy_info(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("position"), dict)


def from_comfy_info(info: Any, width: int, height: int, said: str = "camera info") -> Camera:
    """info: {position, target, quaternion, fov, zoom, cameraType}; all but position may be missing.

    fov: degrees, over the picture's shorter side, as ComfyUI's Render Splat has it. With a quaternion the
    target counts for nothing. Raises SceneError: values that do not fit, an orthographic camera.
    """
    values = mapping(info, said)
    width, height = side(width, "width"), side(height, "height")
    if str(values.get("cameraType", "")).lower().startswith("ortho"):
        raise SceneError(f"{said}: is orthographic; scenes are edited through perspective cameras, set it so")
    eye = _point(values.get("position"), f"{said}: position")
    fov = number(values.get("fov") or DEFAULT_FOV, f"{said}: fov")
    zoom = number(values.get("zoom") or 1.0, f"{said}: zoom")
    if not 0 < fov < 180 or zoom <= 0:
        raise SceneError(f"{said}: fov {fov:g} and zoom {zoom:g}, expected 0 to 180 degrees and more than 0")
    focal = min(width, height) / 2 / math.tan(math.radians(fov) / 2) * zoom
    if values.get("quaternion"):
        turned = mapping(values["quaternion"], f"{said}: quaternion")
        q = [number(turned.get(axis, axis == "w"), f"{said}: quaternion {axis}") for axis in "wxyz"]
        view = from_pose(_TURN @ rotation_of(q, said) @ _TURN, _TURN @ eye, said)
    else:
        target = _point(values.get("target", {}), f"{said}: target")
        way = target - eye
        steep = np.hypot(way[0], way[2]) <= 1e-6 * abs(way[1])  # straight up or down: as the viewer at yaw 0
        up = np.array([0.0, 0.0, -np.sign(way[1])] if steep else [0.0, -1.0, 0.0])
        view = looking_at(*(torch.from_numpy(each) for each in (_TURN @ eye, _TURN @ target, up)))
    return Camera(view, pinhole(focal, width, height), width, height, name="camera")


def _point(value: Any, said: str) -> Matrix:
    values = mapping(value, said)
    return np.array([number(values.get(axis, 0.0), f"{said} {axis}") for axis in "xyz"])
