"""HyperNeRF's, Nerfies' and DyCheck's layout: dataset.json, metadata.json, scene.json, camera/, rgb/.

A camera's `orientation` is world to camera in OpenCV's axes, its `position` the centre; the scene's `center`
is taken from it and its `scale` multiplied (Park et al. 2021, nerfies/camera.py and datasets/nerfies.py). A
picture's time is its `warp_id` over the largest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import RecordError, SceneError
from ...files.safe_paths import inside
from ..camera import Camera
from .checked import from_pose, lens, mapping, matrix, number, read_json, rows, side, text

SCALES = (2, 4, 1, 8, 16)  # of rgb/: half the size is what the papers fit


def is_nerfies(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() and (folder / "metadata.json").is_file()


def read_nerfies(folder: Path) -> tuple[list[Camera], list[str]]:
    """(cameras with their lenses and times, their photographs' names within the folder); those that are for
    training where it says so. Raises SceneError: a file is missing, damaged or does not fit."""
    said = mapping(read_json(folder / "dataset.json"), f"{folder / 'dataset.json'}")
    meta = mapping(read_json(folder / "metadata.json"), f"{folder / 'metadata.json'}")
    scene = mapping(read_json(folder / "scene.json"), f"{folder / 'scene.json'}")
    middle = matrix([scene.get("center")], f"{folder / 'scene.json'}: center", 1, 3)[0]
    size = number(scene.get("scale"), f"{folder / 'scene.json'}: scale")
    every = rows(said.get("ids"), f"{folder / 'dataset.json'}: ids")
    training = said.get("train_ids") or every
    by = next((each for each in SCALES if (folder / "rgb" / f"{each}x").is_dir()), None)
    if by is None:
        raise SceneError(f"{folder}: has no pictures: rgb/2x, rgb/4x or rgb/1x is missing")
    warps = {
        name: number(
            mapping(value, f"metadata.json: {name}").get("warp_id"), f"metadata.json: {name}: warp_id"
        )
        for name, value in meta.items()
    }
    last = max(warps.values(), default=0.0) or 1.0
    cameras, names = [], []
    for each in training:
        name = text(each, f"{folder / 'dataset.json'}: an id")
        if name not in warps:
            raise SceneError(f"{folder / 'metadata.json'}: says nothing of {name!r:.60}")
        camera = _camera(folder, name, middle, size)
        cameras.append(
            replace(
                camera.resized(round(camera.width / by), round(camera.height / by)), time=warps[name] / last
            )
        )
        names.append(f"rgb/{by}x/{name}.png")
    return cameras, names


def _camera(folder: Path, name: str, middle: np.ndarray, size: float) -> Camera:
    try:
        path = inside(folder, f"camera/{name}.json")
    except RecordError as error:
        raise SceneError(f"{folder / 'dataset.json'}: {error}") from error
    values, said = mapping(read_json(path), str(path)), str(path)
    if number(values.get("skew", 0.0), f"{said}: skew"):
        raise SceneError(f"{said}: skew is {values['skew']!r:.40}; only lenses without skew are read")
    turn = matrix(values.get("orientation"), f"{said}: orientation", 3, 3)
    place = matrix([values.get("position")], f"{said}: position", 1, 3)[0]
    focal = number(values.get("focal_length"), f"{said}: focal_length")
    aspect = number(values.get("pixel_aspect_ratio", 1.0), f"{said}: pixel_aspect_ratio")
    cx, cy = matrix([values.get("principal_point")], f"{said}: principal_point", 1, 2)[0].tolist()
    wide, high = matrix([values.get("image_size")], f"{said}: image_size", 1, 2)[0].tolist()
    k1, k2, k3 = matrix([values.get("radial_distortion", [0, 0, 0])], f"{said}: radial_distortion", 1, 3)[0]
    p1, p2 = matrix([values.get("tangential_distortion", values.get("tangential", [0, 0]))],
                    f"{said}: tangential_distortion", 1, 2)[0]  # fmt: skip
    bent = tuple(float(each) for each in (k1, k2, p1, p2, k3))
    return Camera(
        from_pose(turn.T, (place - middle) * size, said),
        lens(focal, focal * aspect, cx, cy),
        side(wide, f"{said}: image_size"),
        side(high, f"{said}: image_size"),
        distortion=bent if any(bent) else (),
        name=name,
    )
