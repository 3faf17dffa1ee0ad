"""Clips: videos, animations and folders of frames, by their content; frames and times in, and back.

Frames are float32 [F, H, W, 3] in 0..1 on the CPU, all of one size, upright.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from ..errors import PictureError
from .animation_writer import save_animation
from .animations import read_animation, read_folder
from .pictures import opened
from .selection import Selection, frame_rate
from .video_file import is_video, read_video

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
                  ".wmv", ".asf", ".flv", ".3gp", ".3g2", ".ogv", ".ogg", ".mxf", ".vob")  # fmt: skip
MAX_TOTAL_PIXELS = 256_000_000  # of all frames that are taken: 3 GB as float
__all__ = ["VIDEO_SUFFIXES", "Clip", "Selection", "load_frames", "read_clip", "save_animation"]


@dataclass(frozen=True)
class Clip:
    """Frames, and when each is shown.

    frames: float32 [F, H, W, 3] in 0..1; F = 1 for a picture. durations: seconds that each frame is shown, as
    fractions; None where the file says none (one picture, a folder). rate: frames a second, on average.
    sound: the file has some; it is not read. notes: what was done to the frames, or lost, in words.
    """

    frames: Tensor
    durations: tuple[Fraction, ...] | None = None
    rate: Fraction | None = None
    sound: bool = False
    notes: tuple[str, ...] = ()

    @property
    def times(self) -> tuple[Fraction, ...] | None:
        """Seconds from the beginning of the first frame to that of each."""
        return None if self.durations is None else tuple(accumulate(self.durations[:-1], initial=Fraction(0)))

    @property
    def fps(self) -> float | None:
        """The rate as a plain number that a request accepts, at most 1000."""
        return None if self.rate is None else min(float(self.rate), 1000.0)


def read_clip(path: str | os.PathLike[str], selection: Selection | None = None) -> Clip:
    """A video file, an animation (gif, webp, apng, avif), a folder of pictures or a single picture.

    The content decides, whatever the name says. Videos need the package `av`; their frames come upright, with
    square pixels, at their own times. selection: which frames; without one, all. What would not fit into
    memory is refused before it is decoded. Raises PictureError.
    """
    path = Path(path).expanduser()
    selection = replace(selection or Selection(), most_pixels=MAX_TOTAL_PIXELS)
    if path.is_dir():
        taken = read_folder(path, selection)
        if selection.fps is None:
            return Clip(taken.frames)
        durations = tuple(1 / selection.fps for _ in taken.frames)  # a folder has no times: this is its rate
        return Clip(taken.frames, durations, selection.fps)
    with ExitStack() as stack:
        try:
            image = stack.enter_context(opened(path))
        except PictureError:
            if not path.is_file() or not (path.suffix.lower() in VIDEO_SUFFIXES or is_video(path)):
                raise
            image = None
        if image is not None:
            animation = read_animation(image, path, selection)
            frames, durations = animation.taken
            notes = tuple(animation.notes)
            if not animation.timed:
                return Clip(frames, notes=notes)
            return Clip(frames, durations, frame_rate(durations), False, notes)
    video = read_video(path, selection)
    frames, durations = video.taken
    rate = frame_rate(durations)
    if (
        selection.at_most and len(durations) > 1
    ):  # by their distances: the last one stands for no pause behind it
        rate = frame_rate(durations[:-1])
    if rate and video.rate and abs(rate - video.rate) * 50 < rate:
        rate = video.rate  # the container's times may be rounded, to milliseconds or worse
    return Clip(frames, durations, rate, video.sound, tuple(video.notes))


def load_frames(path: str | os.PathLike[str]) -> tuple[Tensor, float | None]:
    """All frames [F, H, W, 3] and the frames per second (None where unknown), as `read_clip` reads them.

    Raises PictureError.
    """
    clip = read_clip(path)
    return clip.frames, clip.fps
