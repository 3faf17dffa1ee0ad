"""What a scene is fitted to: cameras with a photograph for each, and the points to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import host, scene_folders

if TYPE_CHECKING:
    from ..evlm.scene import Camera, Gaussians, Points, SplatScene

Photographs = tuple[Callable[[], Tensor], ...]


@dataclass(frozen=True)
class Seen:
    """What is fitted to. own: whether the cameras are the scene's. points: of the cameras' file, or None."""

    cameras: tuple[Camera, ...]
    photographs: Photographs
    own: bool
    points: Points | None = None
    notes: tuple[str, ...] = ()


def look(cameras: str, images: Tensor | None, scene: SplatScene | None, size: int) -> Seen:
    """Cameras, and a photograph for each. Raises SceneError."""
    from ..evlm.errors import SceneError
    from ..evlm.files.pictures import natural
    from ..evlm.scene.poses import load_cameras

    if not cameras.strip():
        if scene is None or not scene.cameras:
            raise SceneError(
                "no cameras: name their file or folder in `cameras`, or connect a scene that has some"
            )
        if images is None and scene.photographs is None:
            raise SceneError("no pictures: connect `images`, one for each of the scene's cameras")
        if images is None:
            return Seen(scene.cameras, scene.photographs or (), True)
        return Seen(*_paired(scene.cameras, images, size), True)
    found = load_cameras(
        scene_folders.cameras(cameras.strip()), None if scene is None else scene.gaussians, size=size
    ).within(size)
    scene_folders.check_photographs(found.photographs)
    if images is not None:
        named = sorted(found.cameras, key=lambda camera: natural(camera.name))
        return Seen(*_paired(named, images, size), False, found.points, found.notes)
    if found.photographs is None:
        raise SceneError(
            f"{cameras!r:.80}: no photographs lie beside the cameras; put them there, or connect `images`"
        )
    return Seen(found.cameras, found.photographs, False, found.points, found.notes)


def _paired(cameras: Sequence[Camera], images: Tensor, size: int) -> tuple[tuple[Camera, ...], Photographs]:
    """Cameras of the size of the pictures [V, H, W, 3], one each. Raises SceneError."""
    from ..evlm.edit.crop import resize
    from ..evlm.errors import SceneError

    if len(images) != len(cameras):
        raise SceneError(f"images: {len(images)} pictures for {len(cameras)} cameras; give one for each")
    height, width = images.shape[1:3]
    scale = min(1.0, size / max(height, width))
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = []
    for camera in cameras:
        if abs(height - camera.height * width / camera.width) > max(1, height / 100):
            raise SceneError(
                f"images: {width} x {height} pixels, the camera {camera.name!r:.60} has {camera.width} x "
                f"{camera.height}: give pictures of the cameras' shape"
            )
        fitted.append(camera.resized(wide, high))

    def picture(at: int) -> Callable[[], Tensor]:
        return lambda: resize(images[at : at + 1], high, wide)[0].clamp(0, 1)

    return tuple(fitted), tuple(picture(at) for at in range(len(images)))


def begin(points: str, seen: Seen, most: int, degree: int, seed: int) -> Gaussians:
    """A Gaussian for each point. Raises SceneError."""
    from ..evlm.errors import SceneError
    from ..evlm.scene import Points
    from ..evlm.scene.files import load_points
    from ..evlm.scene.fit import from_points

    found = load_points(scene_folders.points(points.strip())) if points.strip() else seen.points
    if found is None:
        raise SceneError(
            "the cameras bring no points to begin with: name a .ply of points in `points`, or connect a scene"
        )
    if len(found) > most:
        some = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:most].sort().values
        host.tell([f"{most:,} of {len(found):,} points are begun with (max_gaussians)"])
        found = Points(found.positions[some], found.colours[some], found.notes)
    return from_points(found, degree, seed=seed)
