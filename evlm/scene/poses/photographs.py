"""Photographs of cameras: found inside their folder, read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import PictureError, RecordError, SceneError
from ...files.pictures import check_size, from_pil, opened
from ...files.safe_paths import inside
from ..camera import Camera
from .lens import undistort, undistorted

SUFFIXES = (".png", ".jpg", ".jpeg", ".JPG", ".JPEG", ".PNG", ".webp")  # tried where a name has none
_ORIENTATION = 0x0112  # cameras are of the pixels as they lie in the file, whatever Exif says
_NAMED = 3


@dataclass(frozen=True)
class Photograph:
    """Reads one photograph. source: the camera that took it, with its lens and the file's size; camera: the
    pinhole as which it is given."""

    path: Path
    source: Camera
    camera: Camera

    def __call__(self) -> Tensor:
        """[H, W, 3] float32 in 0..1, of `camera`'s size. Raises SceneError."""
        try:
            with opened(self.path) as image:
                check_size(image)
                image.getexif().pop(_ORIENTATION, None)
                picture = from_pil(image)[0]
        except PictureError as error:
            raise SceneError(str(error)) from error
        height, width = picture.shape[:2]
        if (width, height) != (self.source.width, self.source.height):
            raise SceneError(
                f"{self.path}: is now {width} x {height} pixels, and was {self.source.width} x "
                f"{self.source.height} when the cameras were loaded; load them again"
            )
        if self.source.distortion or self.source.fisheye:
            picture = undistort(picture, self.source, undistorted(self.source))
        size = (self.camera.height, self.camera.width)
        if picture.shape[:2] != size:
            planes = picture.permute(2, 0, 1)[None]
            picture = functional.interpolate(planes, size=size, mode="area")[0].permute(1, 2, 0)
        return picture.clamp(0, 1).to(torch.float32)


@dataclass(frozen=True)
class ClipFrame:
    """One frame of a clip, which `clip_frames.decoded` reads together with the others. source, camera: as
    Photograph's. number: in the clip."""

    path: Path
    number: int
    source: Camera
    camera: Camera

    def __call__(self) -> Tensor:
        raise SceneError(f"{self.path}: its frames are read together: clip_frames.decoded first")


@dataclass(frozen=True)
class HeldFrame:
    """A frame of a clip that was read. pixels: uint8 [H, W, 3]."""

    path: Path
    pixels: Tensor

    def __call__(self) -> Tensor:
        return self.pixels.float() / 255


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a photograph as it lies in its file. Raises SceneError."""
    try:
        with opened(path) as image:
            check_size(image)
            return image.size
    except PictureError as error:
        raise SceneError(str(error)) from error


def find(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, also where the name has no suffix; None where there is none. Raises
    SceneError: a name that leads out of the folder."""
    try:
        path = inside(folder, name)
        if path.is_file():
            return path
        if Path(name).suffix.lower() not in map(str.lower, SUFFIXES):
            tried = (inside(folder, name + suffix) for suffix in SUFFIXES)
            return next((path for path in tried if path.is_file()), None)
    except RecordError as error:
        raise SceneError(f"photograph {error}") from error
    except (OSError, ValueError) as error:  # a name that is too long, or holds what no name may
        raise SceneError(f"photograph {name!r:.80}: {error}") from error
    return None


def found_or_none(folder: Path, name: str) -> Path | None:
    """`find`, with None for a name that leads out of the folder."""
    try:
        return find(folder, name)
    except SceneError:
        return None


def attach(
    cameras: Sequence[Camera], names: Sequence[str], folders: Sequence[Path], asked: bool
) -> tuple[tuple[Camera, ...], tuple[Photograph, ...] | None, tuple[str, ...]]:
    """(pinholes, their photographs or None, notes).

    cameras: as their file has them, lens and size. names: of the photographs, relative to one of `folders`,
    of which the first that holds any is taken. asked: whether somebody named the folder, so that to find
    nothing is an error. Photographs that are the cameras' pictures scaled down are taken as such.

    Raises SceneError: photographs that are missing, of another shape than their camera's, or no pictures.
    """
    for folder in folders:
        paths = [find(folder, name) for name in names]
        if any(paths):
            return _attached(cameras, names, paths, folder)
    if asked:
        raise SceneError(
            f"{folders[0]}: none of the {len(names)} photographs is there ({_some(names)}); name the folder "
            "that holds them"
        )
    return (
        tuple(undistorted(camera) for camera in cameras),
        None,
        ("no photographs were found beside the cameras; the scene's own renderings take their place",),
    )


def _attached(
    cameras: Sequence[Camera], names: Sequence[str], paths: Sequence[Path | None], folder: Path
) -> tuple[tuple[Camera, ...], tuple[Photograph, ...], tuple[str, ...]]:
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    if missing:
        raise SceneError(
            f"{folder}: {len(missing)} of {len(names)} photographs are missing ({_some(missing)}); put them "
            "there, or take the cameras without photographs"
        )
    photographs, scales = [], set()
    for camera, path in zip(cameras, paths, strict=True):
        assert path is not None
        width, height = size_of(path)
        if abs(height - camera.height * width / camera.width) > 1:
            turned = "; it was turned after the cameras were found" if _alike(camera, height, width) else ""
            raise SceneError(
                f"{path}: {width} x {height} pixels, its camera {camera.name!r} has {camera.width} x "
                f"{camera.height}{turned}: take the photographs that the cameras were made from"
            )
        scales.add(round(camera.width / width, 2))
        source = camera if width == camera.width else camera.resized(width, height)
        photographs.append(Photograph(path, source, undistorted(source)))
    notes = []
    if scales != {1.0}:
        said = ", ".join(f"{scale:g}" for scale in sorted(scales))
        notes.append(f"the photographs are smaller than their cameras say, by {said}; cameras are scaled")
    if any(each.source.distortion or each.source.fisheye for each in photographs):
        notes.append("the photographs are undistorted as they are read")
    return tuple(each.camera for each in photographs), tuple(photographs), tuple(notes)


def _alike(camera: Camera, width: int, height: int) -> bool:
    return abs(height - camera.height * width / camera.width) <= 1


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"{name:.60}" for name in names[:_NAMED]) + more
