"""The one door to cameras: a folder, a file, ComfyUI's camera info, or words for an orbit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import PictureError, RecordError, SceneError
from ...files.pictures import picture_files
from ...files.safe_paths import inside
from ..camera import Camera
from ..gaussians import Gaussians
from ..points import Points
from .checked import mapping, read_json, rows
from .clip_frames import attach_clip, attach_clips, clips_of
from .colmap import is_colmap, read_colmap
from .comfy_info import from_comfy_info, is_comfy_info
from .frames import best_frame, other_frames
from .inria import is_inria, read_inria
from .lens import undistorted
from .llff import read_llff
from .loaded import LoadedCameras
from .nerfies import is_nerfies, read_nerfies
from .nerfstudio import applied_transform, read_transforms
from .orbits import from_spec, one_sided
from .own import is_own, read_own
from .photographs import attach
from .views import must_see

_COLMAP = (".", "sparse/0", "sparse", "colmap/sparse/0")
_FILES = ("transforms.json", "transforms_train.json", "poses_bounds.npy", "cameras.json")
_PICTURES = ("images", "../images", "../../images", "../../../images", ".")
_KINDS = (
    "a COLMAP model (cameras, images, points3D as .bin or .txt), transforms.json, poses_bounds.npy, "
    "cameras.json of 3D Gaussian Splatting, ComfyUI's camera info as .json, or orbit:24"
)


_ONE_SIDE = (
    "the scene lies as one that was made from a single photograph, which falls apart from the sides and from "
    "behind; cone:12 stays before it"
)


def load_cameras(
    source: str | os.PathLike[str] | dict[str, Any] | Sequence[dict[str, Any]],
    gaussians: Gaussians | None = None,
    images: str | os.PathLike[str] | None = None,
    size: int = 512,
    photographs: bool = True,
) -> LoadedCameras:
    """Reads cameras, and finds their photographs.

    source: a COLMAP model's folder, or that of a project around it; transforms.json; poses_bounds.npy;
    cameras.json; ComfyUI's camera info, as a file, an object or several; `orbit:24`, `cone:12`. gaussians:
    the scene that they are of: an orbit stands around it, and cameras of which none sees it are refused.
    images: the photographs' folder, or a clip with a frame for each camera; None: where the programs put
    them, and no error where there are none.
    size: pixels a side where the source says none. photographs: False where none are needed: cameras are
    then as large as their file says, and it is no error where some photographs are missing.

    Raises SceneError: with what was found, what was expected and what to do.
    """
    if isinstance(source, dict) or (
        not isinstance(source, (str, os.PathLike)) and isinstance(source, Sequence)
    ):
        found = LoadedCameras(_of_infos(source, size, "camera info"))
    elif isinstance(source, str) and source.partition(":")[0] in ("orbit", "cone"):
        around = gaussians is not None and source.startswith("orbit") and one_sided(gaussians)
        return LoadedCameras(from_spec(source, gaussians, size), notes=(_ONE_SIDE,) if around else ())
    else:
        path = Path(source).expanduser()
        asked = None if images is None else Path(images).expanduser()
        if asked is not None and not asked.exists():
            raise SceneError(
                f"{asked}: is no folder; name the one that holds the photographs, or a clip of them"
            )
        found = _from_path(_entry(path), asked, gaussians, size, photographs)
    if gaussians is not None:
        must_see(found.cameras, gaussians, "camera info" if isinstance(source, (dict, list)) else str(source))
    return found


def _entry(path: Path) -> Path:
    """The folder of a COLMAP model, or a file of another kind, that a path means. Raises SceneError."""
    if path.is_dir():
        for name in _COLMAP:
            if is_colmap(path / name):
                return path / name
        if is_nerfies(path):
            return path
        for name in _FILES:
            if (path / name).is_file():
                return path / name
        raise SceneError(f"{path}: holds no cameras; expected {_KINDS}")
    if not path.is_file():
        raise SceneError(f"{path}: no such file or folder; expected {_KINDS}")
    if path.suffix.lower() in (".bin", ".txt") and is_colmap(path.parent):
        return path.parent
    if path.suffix.lower() not in (".json", ".npy"):
        raise SceneError(f"{path}: is no file of cameras; expected {_KINDS}")
    return path


def _from_path(
    path: Path, images: Path | None, gaussians: Gaussians | None, size: int, wanted: bool
) -> LoadedCameras:
    """wanted: whether photographs are."""
    if path.is_dir() and is_nerfies(path):
        cameras, names = read_nerfies(path)
        return _with(cameras, names, path, images, wanted)
    if path.is_dir():
        cameras, points = read_colmap(path)
        return _with(cameras, [c.name for c in cameras], path, images, wanted, points)
    if path.suffix.lower() == ".npy":
        return _llff(path, images, wanted)
    content = read_json(path)
    if is_own(content):
        return LoadedCameras(read_own(path)[0])
    if is_inria(content):
        cameras = read_inria(content, path)
        return _with(cameras, [c.name for c in cameras], path.parent, images, wanted)
    if is_comfy_info(content) or (isinstance(content, list) and content and is_comfy_info(content[0])):
        return LoadedCameras(_of_infos(content, size, str(path)))
    if isinstance(content, dict) and "frames" in content:
        return _transforms(path, images, gaussians, wanted)
    raise SceneError(f"{path}: is JSON, but of no cameras that are known; expected {_KINDS}")


def _transforms(path: Path, images: Path | None, gaussians: Gaussians | None, wanted: bool) -> LoadedCameras:
    folder = None if images is not None and images.is_file() else images
    cameras, names, cloud = read_transforms(path, folder)
    found = _with(cameras, names, path.parent, images, wanted, _cloud(path.parent, cloud))
    frames = other_frames(applied_transform(path), path.with_name("dataparser_transforms.json"))
    frame = best_frame(found.cameras, gaussians, frames) if gaussians is not None else None
    if frame is None:
        return found
    return found._replace(
        cameras=tuple(frame.camera(camera) for camera in found.cameras),
        points=None if found.points is None else frame.points(found.points),
        notes=(*found.notes, f"the scene lies in another frame than its cameras' file: {frame.name}"),
    )


def _cloud(folder: Path, name: str | None) -> Points | None:
    """The points of a .ply that a file names, where it is there. Raises SceneError."""
    if name is None:
        return None
    try:
        path = inside(folder, name)
    except RecordError as error:
        raise SceneError(f"ply_file_path: {error}") from error
    if not path.is_file():
        return None
    from ..files import load_points

    return load_points(path)


def _llff(path: Path, images: Path | None, wanted: bool) -> LoadedCameras:
    clips = clips_of(path.parent) if images is None else []
    if clips:
        return LoadedCameras(*_of_clips(read_llff(path, []), clips))
    folder = images or path.parent / "images"
    try:
        names = [each.name for each in picture_files(folder)] if wanted and folder.is_dir() else []
    except PictureError as error:
        if images is not None:
            raise SceneError(str(error)) from error
        names = []
    cameras = read_llff(path, sorted(names))
    return _with(cameras, [camera.name for camera in cameras], path.parent, images, wanted)


def _with(
    cameras: Sequence[Camera],
    names: Sequence[str],
    home: Path,
    images: Path | None,
    wanted: bool,
    points: Points | None = None,
) -> LoadedCameras:
    said = points.notes if points is not None else ()
    if not wanted:
        return LoadedCameras(tuple(undistorted(camera) for camera in cameras), None, points, said)
    if images is not None and images.is_file():
        held, frames, notes = attach_clip(cameras, names, images)
        return LoadedCameras(held, frames, points, (*notes, *said))
    folders = [images] if images is not None else [home / name for name in _PICTURES]
    held, pictures, notes = attach(cameras, names, folders, images is not None)
    return LoadedCameras(held, pictures, points, (*notes, *said))


def _of_clips(cameras: list[Camera], clips: list[Path]) -> Any:
    held, frames, notes = attach_clips(cameras, clips)
    return held, frames, None, notes


def _of_infos(value: Any, size: int, said: str) -> tuple[Camera, ...]:
    infos = [value] if isinstance(value, dict) else rows(list(value), said)
    return tuple(
        from_comfy_info(mapping(info, f"{said} {at}"), size, size, f"{said} {at}")
        for at, info in enumerate(infos)
    )
