"""What a file of cameras gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ..camera import Camera
from ..points import Points
from .photographs import ClipFrame, Photograph


class LoadedCameras(NamedTuple):
    """cameras: pinholes, in the order of their files. photographs: for each a function that reads its picture
    [H, W, 3] in 0..1 of the camera's size, undistorted; None where there are none. points: what the program
    triangulated, or None. notes: what was guessed or changed, in words."""

    cameras: tuple[Camera, ...]
    photographs: tuple[Callable[[], Tensor], ...] | None = None
    points: Points | None = None
    notes: tuple[str, ...] = ()

    def within(self, longest: int) -> LoadedCameras:
        """With pictures whose longer side is at most `longest` pixels: what an editor is given."""
        cameras = tuple(camera.within(longest) for camera in self.cameras)
        pictures = self.photographs
        if pictures is not None:
            pictures = tuple(
                replace(picture, camera=camera) if isinstance(picture, (Photograph, ClipFrame)) else picture
                for picture, camera in zip(pictures, cameras, strict=True)
            )
        return self._replace(cameras=cameras, photographs=pictures)

    def only(self, which: Sequence[int]) -> LoadedCameras:
        """The cameras with these numbers, in that order."""
        pictures = self.photographs
        return self._replace(
            cameras=tuple(self.cameras[number] for number in which),
            photographs=None if pictures is None else tuple(pictures[number] for number in which),
        )
