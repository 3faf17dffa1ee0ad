"""Which frame a scene lies in: nerfstudio turns COLMAP's before it writes transforms.json, and scales it
before it trains; a .ply may come from before, between or after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from ..points import Points
from .checked import Matrix, mapping, matrix, number, read_json
from .views import share_seen, thinned

_CLEARLY = 1.2  # times as well must pictures be filled in another frame than in the file's own
_LOOKED_AT = 16
_SPREAD = 0.2  # of a picture's sides: how far from their middle the points of a scene lie on average


@dataclass(frozen=True)
class Frame:
    """x in the file -> scale * (rotation [3, 3] x + shift [3]) in this frame. name: of it, in words."""

    name: str
    rotation: Matrix
    shift: Matrix
    scale: float = 1.0

    def camera(self, camera: Camera) -> Camera:
        rotation = camera.rotation @ torch.from_numpy(self.rotation.T.copy())
        centre = self.scale * (torch.from_numpy(self.rotation) @ camera.centre + torch.from_numpy(self.shift))
        view = torch.eye(4, dtype=torch.float64)
        view[:3, :3], view[:3, 3] = rotation, -rotation @ centre
        return replace(camera, view=view)

    def points(self, points: Points) -> Points:
        moved = (points.positions.double().numpy() @ self.rotation.T + self.shift) * self.scale
        return replace(points, positions=torch.from_numpy(moved).float())


def other_frames(applied: Matrix | None, parser: Path) -> list[Frame]:
    """applied: [3, 4] of transforms.json. parser: nerfstudio's dataparser_transforms.json, which may not be
    there. Raises SceneError: one that is no rotation and translation."""
    found = []
    if applied is not None:
        rotation = _rotation(applied[:, :3], "applied_transform")
        found.append(Frame("COLMAP's own, before applied_transform", rotation.T, -rotation.T @ applied[:, 3]))
    if parser.is_file():
        values = mapping(read_json(parser), str(parser))
        turn = matrix(values.get("transform"), f"{parser}: transform", 3, 4)
        scale = number(values.get("scale"), f"{parser}: scale")
        if scale <= 0:
            raise SceneError(f"{parser}: scale is {scale:g}, expected more than 0")
        rotation = _rotation(turn[:, :3], f"{parser}: transform")
        found.append(Frame(f"nerfstudio's training, by {parser.name}", rotation, turn[:, 3], scale))
    return found


def best_frame(cameras: Sequence[Camera], gaussians: Gaussians, frames: Sequence[Frame]) -> Frame | None:
    """The frame in which the Gaussians fill the cameras' pictures clearly better than in their file's, or
    None."""
    means = thinned(gaussians.means.detach().cpu()[gaussians.finite().cpu()])
    few = cameras[:: max(1, len(cameras) // _LOOKED_AT)]

    def seen(several: Sequence[Camera]) -> float:
        return sum(_filled(camera, means) for camera in several) / len(few)

    own = seen(few)
    scored = [(seen([frame.camera(camera) for camera in few]), n) for n, frame in enumerate(frames)]
    best, which = max(scored, default=(0.0, 0))
    return frames[which] if best > own * _CLEARLY else None


def _filled(camera: Camera, points: Tensor) -> float:
    """What part of points [N, 3] is in a picture, less where they are a heap in it: so are scenes of other
    units. 0..1."""
    share = share_seen(camera, points)
    if not share:
        return 0.0
    pixels, depth = camera.project(points)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    seen = pixels[(pixels >= 0).all(1) & (pixels < size).all(1) & (depth > 0)] / size
    return share * min(1.0, float((seen - seen.mean(0)).norm(dim=1).mean()) / _SPREAD)


def _rotation(value: Matrix, said: str) -> Matrix:
    if np.abs(value @ value.T - np.eye(3)).max() > 1e-3 or np.linalg.det(value) < 0:
        raise SceneError(f"{said} is no rotation and translation")
    return value
