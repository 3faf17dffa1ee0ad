"""Clips of any length, window by window: no more than one window of frames is held."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PictureError
from .animations import animation_shots, folder_shots
from .pictures import check_size, opened, picture_files
from .selection import Picked, Selection, Shot, as_float, over_white, spread
from .video_file import is_video, video_stream

_FOLDER_RATE = Fraction(8)  # of a folder of pictures, which says none


@dataclass(frozen=True)
class ClipWindow:
    """Some frames of a clip. first: number of the first among those that are taken. frames: float32 [n, H,
    W, 3] in 0..1, upright, at the file's depth. alpha: [n, H, W], None where all is opaque. durations:
    seconds that each is shown. new: so many of the last were not in the window before."""

    first: int
    frames: Tensor
    alpha: Tensor | None
    durations: tuple[Fraction, ...]
    new: int


@dataclass
class ClipFile:
    """A clip on the disk: what is known before it is decoded.

    count: how many frames are taken, at most (`counted` says how many really are). total: how many the file
    has. height, width: as they come out. bits: of a channel. begin: the file's second of the first frame that
    is taken. rate: frames a second as the file says it. notes: grows while frames are read.
    """

    path: Path
    selection: Selection
    count: int
    total: int
    height: int
    width: int
    alpha: bool = False
    bits: int = 8
    begin: Fraction = Fraction(0)
    rate: Fraction | None = None
    sound: bool = False
    notes: list[str] = field(default_factory=list)

    def windows(self, window: int, overlap: int = 0, begin: int = 0) -> Iterator[ClipWindow]:
        """The frames from number `begin` on, `window` at once, of which `overlap` are the last of the window
        before. The last window may be shorter. Raises PictureError."""
        if not 0 <= overlap < window:
            raise PictureError(f"overlap {overlap}: expected 0 to {window - 1}, below the window")
        held: deque[Picked] = deque()
        first, new = begin, 0
        for picked in self.frames(begin):
            if len(held) == window:
                yield _window(first, list(held), new)
                first, new = first + window - overlap, 0
                while len(held) > overlap:
                    held.popleft()
            held.append(picked)
            new += 1
        if new:
            yield _window(first, list(held), new)

    def frames(self, begin: int = 0) -> Iterator[Picked]:
        """The frames from number `begin` on, one after the other, as [H, W, 3 or 4]. Raises PictureError."""
        with _shots(self.path, self.selection, self.notes) as shots:
            yield from self.selection.take(shots, str(self.path), begin)

    def counted(self) -> int:
        """How many frames are really taken: all are decoded for it, and `count` is right from then on. Raises
        PictureError."""
        self.count = sum(1 for _ in self.frames())
        return self.count

    def some(self, most: int) -> tuple[Tensor, Fraction | None]:
        """(at most `most` of the frames, spread evenly, [n, H, W, 3] over white, their rate). Raises
        PictureError."""
        wanted, kept = set(spread(self.count, most)), []
        seconds = Fraction(0)
        for number, picked in enumerate(self.frames()):
            seconds += picked.duration
            if number in wanted:
                kept.append(picked.pixels)
        rate = len(kept) / seconds if seconds > 0 else None
        return over_white(as_float(kept)), rate


def open_clip(path: str | os.PathLike[str], selection: Selection | None = None) -> ClipFile:
    """A video, an animation or a folder of pictures, as `read_clip` knows them, of any length.

    selection: which frames are taken; `at_most` has no meaning here. The first frame is decoded. Raises
    PictureError.
    """
    path = Path(path).expanduser()
    selection = selection or Selection()
    notes: list[str] = []
    with _shots(path, selection, notes) as shots:
        facts = shots.facts
        picked = next(selection.take(shots, str(path)))
    height, width, channels = picked.pixels.shape
    return ClipFile(
        path,
        selection,
        selection.count(facts.total, facts.seconds),
        facts.total,
        height,
        width,
        channels == 4,
        8 if picked.pixels.dtype == torch.uint8 else 16,
        shots.begin() + picked.start,
        facts.rate,
        facts.sound,
        notes,
    )


def iter_clip(
    path: str | os.PathLike[str], window: int, overlap: int = 0, selection: Selection | None = None
) -> Iterator[ClipWindow]:
    """The windows of a clip, as `ClipFile.windows`. Raises PictureError."""
    return open_clip(path, selection).windows(window, overlap)


@dataclass(frozen=True)
class _Facts:
    """Of a file; fields as ClipFile's."""

    total: int
    seconds: Fraction | None = None
    rate: Fraction | None = None
    sound: bool = False


@dataclass
class _Shots:
    """begin: the file's second of the first shot, when that was read."""

    facts: _Facts
    shots: Iterator[Shot]
    begin: Callable[[], Fraction] = Fraction

    def __iter__(self) -> Iterator[Shot]:
        return self.shots


@contextmanager
def _shots(path: Path, selection: Selection, notes: list[str]) -> Iterator[_Shots]:
    """Every frame of a clip that is open. notes: what was done to those that were read is added."""
    if path.is_dir():
        paths = picture_files(path)
        rate = selection.fps or _FOLDER_RATE
        if selection.fps is None:
            _add(notes, [f"nothing says how fast the pictures follow each other; {rate} a second are taken"])
        yield _Shots(_Facts(len(paths), len(paths) / rate, rate=rate), folder_shots(paths, 1 / rate))
        return
    if path.is_file() and is_video(path):
        with video_stream(path) as video:
            facts = _Facts(video.count, video.seconds, video.rate, video.sound)
            try:
                yield _Shots(facts, video.shots(), video.begin)
            finally:
                if video.reading.first is not None:
                    _add(notes, video.notes())
        return
    with opened(path) as image:
        check_size(image)
        said: list[str] = []
        count, shots = animation_shots(image, said)
        _add(notes, said)
        yield _Shots(_Facts(count), shots)


def _add(notes: list[str], more: list[str]) -> None:
    notes += [note for note in more if note not in notes]


def _window(first: int, held: list[Picked], new: int) -> ClipWindow:
    values = as_float([each.pixels for each in held])
    alpha = values[..., 3] if values.shape[-1] == 4 else None
    return ClipWindow(first, values[..., :3], alpha, tuple(each.duration for each in held), new)
