"""Our own cameras.json, beside a scene that moves: to the bit what cameras are, with their times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import SceneError
from ...files.pictures import write_atomically
from ..camera import Camera
from .checked import lens, mapping, matrix, number, read_json, rows, side, text

FORMAT = "evlm-cameras-1"
Colour = tuple[float, float, float]


def is_own(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def read_own(path: Path) -> tuple[tuple[Camera, ...], Colour]:
    """(cameras, what is behind the scene). Raises SceneError."""
    whole = mapping(read_json(path), str(path))
    if not is_own(whole):
        raise SceneError(f"{path}: is no cameras.json of a moving scene (format {whole.get('format')!r:.40})")
    said = f"{path}: background"
    behind = [number(each, said) for each in rows(whole.get("background"), said)]
    if len(behind) != 3 or not all(0 <= each <= 1 for each in behind):
        raise SceneError(f"{said} is {behind!r:.60}, expected three numbers from 0 to 1")
    entries = whole.get("cameras")
    listed = rows(entries, f"{path}: cameras") if entries else []
    cameras = tuple(_camera(each, f"{path}: camera {at}") for at, each in enumerate(listed))
    return cameras, (behind[0], behind[1], behind[2])


def write_own(path: Path, cameras: Sequence[Camera], background: Colour) -> None:
    """Raises OSError; SceneError: a camera with a distorted lens."""
    if any(any(camera.distortion) or camera.fisheye for camera in cameras):
        raise SceneError(f"{path}: a camera has a distorted lens; a scene's own cameras are pinholes")
    said = [
        {
            "name": camera.name,
            "width": camera.width,
            "height": camera.height,
            "time": camera.time,
            "view": camera.view.tolist(),
            "intrinsics": camera.intrinsics.tolist(),
        }
        for camera in cameras
    ]
    whole = {"format": FORMAT, "background": list(background), "cameras": said}
    data = (json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_atomically(path, lambda file: file.write(data))


def _camera(value: Any, said: str) -> Camera:
    entry = mapping(value, said)
    name = entry.get("name", "")
    time = entry.get("time")
    view = torch.eye(4, dtype=torch.float64)
    view[:3] = torch.from_numpy(matrix(entry.get("view"), f"{said}: view", 3, 4))
    inside = matrix(entry.get("intrinsics"), f"{said}: intrinsics", 3, 3).tolist()
    time = None if time is None else number(time, f"{said}: time")
    if time is not None and not 0 <= time <= 1:
        raise SceneError(f"{said}: time is {time:g}, expected 0 to 1")
    return Camera(
        view,
        lens(inside[0][0], inside[1][1], inside[0][2], inside[1][2]),
        side(entry.get("width"), f"{said}: width"),
        side(entry.get("height"), f"{said}: height"),
        name=text(name, f"{said}: name") if name else "",
        time=time,
    )
