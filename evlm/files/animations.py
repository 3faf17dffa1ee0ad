"""Animated GIF, WebP, PNG (APNG) and AVIF, and folders of pictures, frame by frame with their own times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..errors import PictureError
from .pictures import check_size, from_pil, load_picture, opened, opened_file, picture_files
from .selection import Selection, Shot, Taken, spread

if TYPE_CHECKING:
    from PIL.Image import Image

_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # the second picture of a TIFF or MPO is no second frame
_UNSAID = Fraction(1, 10)  # what browsers and FFmpeg show where an animation asks for no time at all
_SHORTEST_GIF = Fraction(2, 100)  # and where a GIF asks for less than this


class Animation(NamedTuple):
    """What is read from an animation; `timed`: its file says how long each frame is shown."""

    taken: Taken
    timed: bool
    notes: list[str]


def read_animation(image: Image, path: Path, selection: Selection) -> Animation:
    """The frames of a picture file that is open; of one picture, that one. Raises PictureError."""
    check_size(image)
    notes: list[str] = []
    first, count = _pages(image, notes)
    if selection.at_most is None and selection.fps is None:
        selection.check(count, image.height, image.width)
    durations = [Fraction(0)] if count == 1 else list(_durations(image, first, count))
    if selection.at_most is None:
        selection.check(count, image.height, image.width, sum(durations, Fraction(0)))
    wanted = None if selection.at_most is None else set(spread(count, selection.at_most))
    if count > 1 and _is_transparent(image, first):
        notes.append("the animation's transparency is not kept; its frames lie on white")

    shots = _shots(image, first, durations, wanted, _frame)
    return Animation(selection.collect(shots, str(path)), count > 1, notes)


def _pages(image: Image, notes: list[str]) -> tuple[int, int]:
    """(number of the first frame in the file, how many there are). notes: grows."""
    pages = int(getattr(image, "n_frames", 1))
    if image.format not in _ANIMATED:
        if pages > 1 and image.format == "TIFF":
            notes.append(f"the TIFF has {pages} pages; the first one is taken")
        pages = 1
    # The default picture of an APNG is for those who cannot show the animation; it is no frame of it.
    first = 1 if pages > 1 and image.info.get("default_image") else 0
    return first, pages - first


def animation_shots(image: Image, notes: list[str]) -> tuple[int, Iterator[Shot]]:
    """(how many frames an animation has that is open, each with its time and all that it has, as
    `samples.whole` gives it). notes: grows."""
    first, count = _pages(image, notes)
    durations, alpha = list[Fraction](), False
    times = [Fraction(1, 8)] if count == 1 else _durations(image, first, count)
    for at, duration in enumerate(times, first):  # each frame is decoded once for both
        durations.append(duration)
        alpha = alpha or _is_transparent(image, at)
    return count, _shots(image, first, durations, None, partial(_whole_frame, alpha=alpha))


def _shots(
    image: Image,
    first: int,
    durations: Sequence[Fraction],
    wanted: set[int] | None,
    pixels: Callable[[Image, int], Tensor],
) -> Iterator[Shot]:
    start = Fraction(0)
    for index, duration in enumerate(durations):
        if wanted is None or index in wanted:
            yield Shot(start, start + duration, partial(pixels, image, first + index))
        start += duration


def read_folder(folder: Path, selection: Selection) -> Taken:
    """The pictures of a folder, all of one size, in the natural order of their names.

    Hidden files are skipped. A frame is one second long: a folder says no times. Raises PictureError.
    """
    paths = picture_files(folder)
    wanted = None if selection.at_most is None else set(spread(len(paths), selection.at_most))
    shots = _folder_shots(paths, Fraction(1), _picture, wanted)
    if selection.at_most is None:
        selection.check(len(paths), *load_picture(paths[0]).shape[1:3])
    return selection.collect(shots, str(folder))


def folder_shots(paths: Sequence[Path], duration: Fraction) -> Iterator[Shot]:
    """The pictures of a folder as frames, each shown so long in seconds, with all that they have, as
    `samples.whole` gives it: with opacity where one of them may have some."""
    alpha = any(map(_says_alpha, paths))
    return _folder_shots(paths, duration, partial(_whole_picture, alpha=alpha))


def _folder_shots(
    paths: Sequence[Path],
    duration: Fraction,
    pixels: Callable[[Path], Tensor],
    wanted: set[int] | None = None,
) -> Iterator[Shot]:
    for index, path in enumerate(paths):
        if wanted is None or index in wanted:
            yield Shot(index * duration, (index + 1) * duration, partial(pixels, path))


def _durations(image: Image, first: int, count: int) -> Iterator[Fraction]:
    for index in range(first, first + count):
        image.seek(index)
        if image.format in ("WEBP", "AVIF"):
            image.load()  # only then does Pillow know how long it is shown
        yield _seconds(image)


def _seconds(image: Image) -> Fraction:
    """Pillow gives milliseconds; those of an APNG were a fraction of two numbers of 16 bits."""
    milliseconds = image.info.get("duration") or 0
    seconds = Fraction(milliseconds).limit_denominator(65_535_000) / 1000
    if image.format == "PNG":
        seconds = Fraction(float(milliseconds) / 1000).limit_denominator(65_535)
    shortest = _SHORTEST_GIF if image.format == "GIF" else Fraction(0)
    return seconds if seconds > 0 and seconds >= shortest else _UNSAID


def _frame(image: Image, index: int) -> Tensor:
    image.seek(index)
    return from_pil(image)[0]


def _picture(path: Path) -> Tensor:
    return load_picture(path)[0]


def _whole_frame(image: Image, index: int, alpha: bool) -> Tensor:
    from .samples import of_image, whole

    image.seek(index)
    return whole(of_image(image), image.info.get("icc_profile"), alpha)


def _whole_picture(path: Path, alpha: bool) -> Tensor:
    from .samples import whole
    from .still import read_samples

    with opened_file(path) as file:
        return whole(*read_samples(file), alpha)


def _says_alpha(path: Path) -> bool:
    """Whether a picture's header says that it has opacity. What cannot be read is said where it is read."""
    try:
        with opened(path) as image:
            return _may_be_transparent(image)
    except PictureError:
        return False


def _may_be_transparent(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _is_transparent(image: Image, index: int) -> bool:
    image.seek(index)
    if not _may_be_transparent(image):
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(least != 255)
