"""Videos, animations and folders of frames: untrusted bytes in, checked float tensors out, and back.

Frames are float32 [F, H, W, 3] in 0..1 on the CPU, all of one size.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError
from .pictures import (
    PICTURE_SUFFIXES,
    check_frames,
    check_size,
    from_pil,
    load_picture,
    opened,
    to_pil,
    write_image,
)

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TOTAL_PIXELS = 256_000_000  # of all frames of a video: 3 GB as float
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # the second picture of a TIFF or MPO is no second frame


def load_frames(path: str | os.PathLike[str]) -> tuple[Tensor, float | None]:
    """All frames [F, H, W, 3] and the frames per second (None where unknown).

    path: an animation (gif, webp, apng), a video file (needs the `av` package), a folder of pictures of one
    size (in the natural order of their names), or a single picture. Raises PictureError.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path), None
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _load_video(path)
    with opened(path) as image:
        return _load_animation(image, path)


def save_animation(path: str | os.PathLike[str], frames: Tensor, fps: float | None = None) -> None:
    """Writes frames [F, H, W, 3] in 0..1 as an animated .gif, .webp or .png (APNG), atomically.

    fps: 8 where it is not given. Raises PictureError.
    """
    path, images = Path(path), [to_pil(frame) for frame in check_frames(frames, "frames to save")]
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".webp", ".png"):
        raise PictureError(f"{path}: {len(images)} frames cannot go into {suffix!r}; use .gif, .webp or .png")
    if fps is not None and not 0 < fps <= 1000:
        raise PictureError(f"fps {fps!r}: expected a number above 0 and at most 1000")
    options: dict[str, object] = {
        "save_all": True,
        "append_images": images[1:],
        "duration": round(1000 / (fps or 8)),
        "loop": 0,
    }
    if suffix == ".webp":
        options["lossless"] = True
    write_image(path, images[0], options)


# --- reading ---


def _check_total(frames: int, height: int, width: int) -> None:
    if frames * height * width > MAX_TOTAL_PIXELS:
        raise PictureError(
            f"{frames} frames of {width} x {height}: at most {MAX_TOTAL_PIXELS:,} pixels in all are read; "
            "take fewer frames or scale them down first"
        )


def _load_animation(image: Image, path: Path) -> tuple[Tensor, float | None]:
    count = int(getattr(image, "n_frames", 1)) if image.format in _ANIMATED else 1
    check_size(image)
    _check_total(count, image.height, image.width)
    frames, milliseconds = [], 0.0
    for index in range(count):
        image.seek(index)
        frames.append(from_pil(image))
        milliseconds += float(image.info.get("duration") or 0)
    fps = 1000 * count / milliseconds if count > 1 and milliseconds > 0 else None
    return _stack(frames, path), fps


def _load_folder(folder: Path) -> Tensor:
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    if not paths:
        raise PictureError(f"{folder}: no pictures ({', '.join(PICTURE_SUFFIXES)}) in this folder")

    def natural(path: Path) -> list[tuple[int, str]]:
        return [(int(digits or -1), other) for digits, other in re.findall(r"([0-9]+)|([^0-9]+)", path.name)]

    frames: list[Tensor] = []
    for path in sorted(paths, key=natural):
        frames.append(load_picture(path))
        _check_total(len(frames), *frames[0].shape[1:3])
    return _stack(frames, folder)


def _load_video(path: Path) -> tuple[Tensor, float | None]:
    try:
        import av
    except ImportError:
        raise PictureError(f"{path}: reading a video file needs the package av: pip install av") from None
    frames: list[Tensor] = []
    if not path.is_file():
        raise PictureError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise PictureError(f"{path}: it has no video in it")
            stream = container.streams.video[0]
            rate = float(stream.average_rate) if stream.average_rate else None
            for frame in container.decode(stream):
                _check_total(len(frames) + 1, frame.height, frame.width)
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24"))[None].float() / 255)
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"{path}: not a video that can be read ({error})") from error
    if not frames:
        raise PictureError(f"{path}: it has no frames")
    return _stack(frames, path), rate


def _stack(frames: list[Tensor], path: Path) -> Tensor:
    sizes = {tuple(frame.shape[1:3]) for frame in frames}
    if len(sizes) > 1:
        raise PictureError(
            f"{path}: frames of different sizes {sorted(sizes)[:3]} (height, width); expected one size"
        )
    return torch.cat(frames)
