"""Frames of clips as photographs: a camera for every frame of one, or a clip for every camera that stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import PictureError, SceneError
from ...files.clip_reader import ClipFile, open_clip
from ..camera import Camera
from .lens import undistort, undistorted
from .loaded import LoadedCameras
from .photographs import ClipFrame, HeldFrame

MOST = 1 << 30  # bytes of frames that are held, 8 bits a channel
CAMERA = re.compile(r"cam(\d+)\.(mp4|mov|mkv|webm)", re.IGNORECASE)


def attach_clip(
    cameras: Sequence[Camera], names: Sequence[str], path: Path
) -> tuple[tuple[Camera, ...], tuple[ClipFrame, ...], tuple[str, ...]]:
    """(pinholes with their times, frames, notes) of cameras, one for each frame of a clip in the order of
    their names. Raises SceneError: they are not as many."""
    clip = _opened(path)
    if clip.total != len(cameras):
        raise SceneError(
            f"{path}: {clip.total} frames for {len(cameras)} cameras; there has to be one for each, in the "
            "order of their names: cut the clip, or take the cameras of all of its frames"
        )
    order = sorted(range(len(cameras)), key=lambda at: _natural(names[at]))
    frames = [_frame(path, at, cameras[which], clip) for at, which in enumerate(order)]
    last = max(1, len(frames) - 1)
    timed = [replace(each, camera=replace(each.camera, time=at / last)) for at, each in enumerate(frames)]
    return tuple(each.camera for each in timed), tuple(timed), ()


def clips_of(folder: Path) -> list[Path]:
    """DyNeRF's cam00.mp4 and so on, in their order."""
    found = [each for each in folder.iterdir() if CAMERA.fullmatch(each.name)]
    return sorted(found, key=lambda path: _natural(path.name))


def attach_clips(
    cameras: Sequence[Camera], paths: Sequence[Path]
) -> tuple[tuple[Camera, ...], tuple[ClipFrame, ...], tuple[str, ...]]:
    """As `attach_clip`, of cameras that stand still, a clip for each: frame k of F is of time k / (F - 1).
    The first is kept for tests where there are more than two, as DyNeRF does. Raises SceneError: they are not
    as many, or of different lengths."""
    if len(paths) != len(cameras):
        raise SceneError(
            f"{paths[0].parent}: {len(paths)} clips for {len(cameras)} cameras; one may be missing"
        )
    clips = [_opened(path) for path in paths]
    lengths = sorted({clip.total for clip in clips})
    if len(lengths) > 1:
        raise SceneError(
            f"{paths[0].parent}: its clips have {lengths[0]} to {lengths[-1]} frames; all must begin and end "
            "together: cut them"
        )
    notes, first = [], 0
    if len(paths) > 2:
        notes, first = [f"{paths[0].name} is the test's camera, and left out"], 1
    frames = []
    for camera, path, clip in list(zip(cameras, paths, clips, strict=True))[first:]:
        for at in range(clip.total):
            frame = _frame(path, at, camera, clip)
            time = at / max(1, clip.total - 1)
            frames.append(
                replace(frame, camera=replace(frame.camera, time=time, name=f"{path.stem}_{at:05d}"))
            )
    return tuple(each.camera for each in frames), tuple(frames), tuple(notes)


def decoded(found: LoadedCameras) -> LoadedCameras:
    """With frames of clips read, each clip once. Raises SceneError: more than is held in memory, damaged."""
    wanted: dict[Path, dict[int, list[int]]] = {}
    photographs: list[Callable[[], Tensor]] = list(found.photographs or ())
    size = 0
    for at, each in enumerate(photographs):
        if isinstance(each, ClipFrame):
            wanted.setdefault(each.path, {}).setdefault(each.number, []).append(at)
            size += 3 * each.camera.width * each.camera.height
    if size > MOST:
        raise SceneError(
            f"{len(photographs)} frames take {size / 1e9:.1f} GB, of which {MOST / 1e9:.1f} are held: take "
            "every fourth (--frames ::4), or smaller ones (--size)"
        )
    for path, numbers in wanted.items():
        try:
            for number, picked in enumerate(_opened(path).frames()):
                for at in numbers.pop(number, ()):
                    frame = photographs[at]
                    assert isinstance(frame, ClipFrame)
                    photographs[at] = HeldFrame(path, _pixels(picked.pixels, frame))
                if not numbers:
                    break
        except PictureError as error:
            raise SceneError(str(error)) from error
        if numbers:
            raise SceneError(f"{path}: ends before frame {min(numbers)}; it is damaged, or was cut")
    return found if not wanted else found._replace(photographs=tuple(photographs))


def _pixels(pixels: Tensor, frame: ClipFrame) -> Tensor:
    most = 255 if pixels.dtype == torch.uint8 else 65535
    picture = pixels[..., :3].float() / most
    if frame.source.distortion or frame.source.fisheye:
        picture = undistort(picture, frame.source, undistorted(frame.source))
    size = (frame.camera.height, frame.camera.width)
    if tuple(picture.shape[:2]) != size:
        planes = picture.permute(2, 0, 1)[None]
        picture = functional.interpolate(planes, size=size, mode="area")[0].permute(1, 2, 0)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _opened(path: Path) -> ClipFile:
    try:
        return open_clip(path)
    except PictureError as error:
        raise SceneError(str(error)) from error


def _frame(path: Path, number: int, camera: Camera, clip: ClipFile) -> ClipFrame:
    if abs(clip.height - camera.height * clip.width / camera.width) > 1:
        raise SceneError(
            f"{path}: {clip.width} x {clip.height} pixels, its camera {camera.name!r} has {camera.width} x "
            f"{camera.height}: take the clip that the cameras were made from"
        )
    source = camera if clip.width == camera.width else camera.resized(clip.width, clip.height)
    return ClipFrame(path, number, source, undistorted(source))


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d{1,18})", name)]
