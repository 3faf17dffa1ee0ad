"""Frames into an animated WebP, PNG (APNG) or GIF: every frame stays a frame, each with its own time.

Pillow's and libwebp's own writers melt equal neighbours into one frame. Here they encode one picture at a
time, and the container around them is written by its specification: WebP (RFC 9649), PNG (third edition),
GIF89a. What was written is read back and compared before it takes its name.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from torch import Tensor

from ..errors import PictureError
from .disk import unwritten
from .pictures import check_frames, to_pil, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    Part = tuple[Image, int, int]  # what changed, and where it lies: left, top

SUFFIXES = (".webp", ".png", ".gif")
_UNIT = {".webp": Fraction(1, 1000), ".gif": Fraction(1, 100)}  # what times are counted in
_SHORTEST_GIF = Fraction(2, 100)  # a frame that asks for less is shown for 0.1 s by browsers and FFmpeg
_LONGEST = {".webp": 2**24 - 1, ".gif": 2**16 - 1}  # in these units


def save_animation(
    path: str | os.PathLike[str],
    frames: Tensor,
    fps: float | Fraction | None = None,
    durations: Sequence[Fraction] | None = None,
) -> list[str]:
    """Writes frames [F, H, W, 3] in 0..1 as an animated .webp (lossless), .png (APNG) or .gif (256 colours a
    frame), atomically.

    fps: 8 where neither it nor `durations`, the seconds that each frame is shown, is given. Returns what the
    format could not hold, in words: WebP counts whole milliseconds, so that a frame may come half of one
    early or late, GIF hundredths of a second. Raises PictureError, also where a read back differs.
    """
    path, frames = Path(path), check_frames(frames, "frames to save")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PictureError(f"{path}: {len(frames)} frames cannot go into {suffix!r}; use .gif, .webp or .png")
    if fps is not None and not 0 < fps <= 1000:
        raise PictureError(f"fps {fps!r}: expected a number above 0 and at most 1000")
    if durations is None:
        durations = [1 / (Fraction(fps).limit_denominator(100_000) if fps else Fraction(8))] * len(frames)
    if len(durations) != len(frames) or min(durations) < 0:
        raise PictureError(
            f"{path}: {len(durations)} durations for {len(frames)} frames; expected one each, >= 0"
        )
    if suffix == ".gif" and min(durations) < _SHORTEST_GIF:
        raise PictureError(
            f"{path}: a GIF shows no frame for less than 0.02 s ({float(min(durations)):g} s is asked "
            "for); use .webp or .png"
        )
    times = _apng_times(durations) if suffix == ".png" else _whole(durations, suffix)

    def write(file: IO[bytes]) -> None:
        {".webp": _write_webp, ".png": _write_apng, ".gif": _write_gif}[suffix](file, frames, times)
        file.flush()
        file.seek(0)
        _compare(file, path, frames, times)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise unwritten(path, error) from error
    if list(times) == list(durations):
        return []
    unit = (
        "whole milliseconds"
        if suffix == ".webp"
        else "hundredths of a second"
        if suffix == ".gif"
        else "1/65535"
    )
    return [
        f"{path.name} holds times in {unit}; the true ones differ by less than one of them and do not drift"
    ]


def _whole(durations: Sequence[Fraction], suffix: str) -> list[Fraction]:
    """Durations in whole units, at least 1, each frame's beginning rounded by itself: errors never add up."""
    unit, counts, begun, written = _UNIT[suffix], [], Fraction(0), 0
    for duration in durations:
        begun += duration
        counts.append(
            min(max(round(begun / unit) - written, 1 if suffix == ".webp" else 2), _LONGEST[suffix])
        )
        written += counts[-1]
    return [count * unit for count in counts]


def _apng_times(durations: Sequence[Fraction]) -> list[Fraction]:
    """Fractions of two numbers of 16 bits: most frame rates exactly."""
    most = 2**16 - 1
    return [
        min(Fraction(d).limit_denominator(max(1, min(most, int(most / d)))) if d else d, Fraction(most))
        for d in durations
    ]


def _parts(frames: Tensor, even: bool = False) -> Iterator[Part]:
    """Each frame as what differs from the one before; at least one pixel. even: left and top are even."""
    from PIL import ImageChops

    before: Image | None = None
    for frame in frames:
        picture = to_pil(frame)
        box = (0, 0, *picture.size)
        if before is not None:
            box = ImageChops.difference(picture, before).getbbox() or (0, 0, 1, 1)
            box = (box[0] - box[0] % 2, box[1] - box[1] % 2, *box[2:]) if even else box
        yield picture.crop(box), box[0], box[1]
        before = picture


# --- WebP ---


def _write_webp(file: IO[bytes], frames: Tensor, times: Sequence[Fraction]) -> None:
    height, width = frames.shape[1:3]
    file.write(b"RIFF\0\0\0\0WEBP")
    file.write(_riff(b"VP8X", b"\x02\0\0\0" + _three(width - 1) + _three(height - 1)))  # 2: it is animated
    file.write(_riff(b"ANIM", b"\xff\xff\xff\xff\0\0"))  # on white, for ever
    for (picture, left, top), time in zip(_parts(frames, even=True), times, strict=True):
        numbers = (left // 2, top // 2, picture.width - 1, picture.height - 1, int(time * 1000))
        head = b"".join(_three(number) for number in numbers) + b"\x02"  # 2: replaces what lies there
        file.write(_riff(b"ANMF", head + _encoded(picture, "WEBP", lossless=True)[12:]))
    size = file.tell() - 8
    if size >= 2**32:
        raise PictureError("more than 4 GB, which no WebP holds; take fewer frames")
    file.seek(4)
    file.write(struct.pack("<I", size))


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


# --- PNG ---


def _write_apng(file: IO[bytes], frames: Tensor, times: Sequence[Fraction]) -> None:
    number = 0
    for index, ((picture, left, top), time) in enumerate(zip(_parts(frames), times, strict=True)):
        chunks = list(_png_chunks(_encoded(picture, "PNG")))
        if index == 0:
            file.write(
                b"\x89PNG\r\n\x1a\n" + _png(b"IHDR", next(data for name, data in chunks if name == b"IHDR"))
            )
            file.write(_png(b"acTL", struct.pack(">II", len(frames), 0)))  # 0: for ever
        place = (picture.width, picture.height, left, top)
        control = struct.pack(">5I2H2B", number, *place, time.numerator, time.denominator, 0, 0)
        file.write(_png(b"fcTL", control))
        number += 1
        for data in (data for name, data in chunks if name == b"IDAT"):
            if index == 0:
                file.write(_png(b"IDAT", data))
            else:
                file.write(_png(b"fdAT", struct.pack(">I", number) + data))
                number += 1
    file.write(_png(b"IEND", b""))


def _png(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        size = struct.unpack_from(">I", data, at)[0]
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


# --- GIF ---


def _write_gif(file: IO[bytes], frames: Tensor, times: Sequence[Fraction]) -> None:
    height, width = frames.shape[1:3]
    if max(height, width) >= 2**16:
        raise PictureError(f"{width} x {height}: a GIF is at most 65535 wide and high; use .webp or .png")
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0))
    file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # for ever
    for frame, time in zip(frames, times, strict=True):
        data = _encoded(to_pil(frame), "GIF", interlace=0)
        colours = 3 * 2 ** ((data[10] & 7) + 1)  # Pillow gives a single picture one table, for the whole file
        at = 13 + colours
        while data[at : at + 1] == b"\x21":  # extensions: not needed
            at += 2
            while data[at]:
                at += data[at] + 1
            at += 1
        file.write(b"\x21\xf9\x04\x04" + struct.pack("<H", int(time * 100)) + b"\0\0")
        file.write(data[at : at + 9] + bytes([0x80 | (data[10] & 7)]) + data[13 : 13 + colours])
        file.write(data[at + 10 : -1])
    file.write(b"\x3b")


def _encoded(picture: Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# --- back again ---


def _compare(file: IO[bytes], path: Path, frames: Tensor, times: Sequence[Fraction]) -> None:
    """Raises PictureError unless Pillow reads these frames and times; the colours of a GIF are not asked."""
    from PIL import Image, ImageChops

    with Image.open(file) as image:
        count = getattr(image, "n_frames", 1)
        if count != len(frames):
            raise PictureError(f"{path}: {len(frames)} frames were written and {count} are read back")
        for index, (frame, time) in enumerate(zip(frames, times, strict=True)):
            image.seek(index)
            image.load()
            shown = Fraction(image.info.get("duration") or 0).limit_denominator(10**6) / 1000
            if abs(shown - time) > Fraction(1, 10**6):
                raise PictureError(
                    f"{path}: frame {index} was to last {time} s and is read back with {shown} s"
                )
            if image.format == "GIF":
                continue
            if ImageChops.difference(image.convert("RGB"), to_pil(frame)).getbbox():
                raise PictureError(f"{path}: frame {index} is read back with other pixels than were written")
