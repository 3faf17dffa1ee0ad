"""Clips of every kind for the tests, made by PyAV: each frame shows its number and which way is up."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

CORNERS = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
)  # top left, top right, bottom left, bottom right
BITS = 5
ROTATIONS = {
    "as stored": (1, 0, 0, 1),
    "turned 90": (0, 1, -1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
"""(a, b, c, d) of a display matrix: x' = a x + c y, y' = b x + d y."""


def draw(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [H, W, 3]: four corners of four colours, and between them the number in black and white."""
    picture = np.zeros((height, width, 3), np.uint8)
    h, w = height // 3, width // 3
    for colour, rows, columns in zip(
        CORNERS,
        (slice(0, h), slice(0, h), slice(-h, None), slice(-h, None)),
        (slice(0, w), slice(-w, None), slice(0, w), slice(-w, None)),
        strict=True,
    ):
        picture[rows, columns] = colour
    for bit in range(BITS):
        columns = slice(bit * width // BITS, (bit + 1) * width // BITS)
        picture[h:-h, columns] = 255 * (number >> bit & 1)
    return picture


def corners(picture: np.ndarray) -> tuple[int, ...]:
    """Which of CORNERS lies top left, top right, bottom left, bottom right of float [H, W, 3]."""
    height, width = picture.shape[:2]
    colours = np.asarray(CORNERS) / 255
    found = []
    for rows in (slice(0, height // 4), slice(-(height // 4), None)):
        for columns in (slice(0, width // 4), slice(-(width // 4), None)):
            mean = picture[rows, columns].reshape(-1, 3).mean(0)
            found.append(int(((colours - mean) ** 2).sum(1).argmin()))
    return tuple(found)


def number(picture: np.ndarray) -> int:
    """What `draw` wrote into a picture that stands upright."""
    height, width = picture.shape[:2]
    band = picture[height * 5 // 12 : height * 7 // 12].mean((0, 2))
    return sum(
        int(band[bit * width // BITS + width // 20 : (bit + 1) * width // BITS - width // 20].mean() > 0.5)
        << bit
        for bit in range(BITS)
    )


def write_video(
    path: Path,
    codec: str,
    count: int = 6,
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    pts: Sequence[int] | None = None,
    base: Fraction | None = None,
    numbers: Sequence[int] | None = None,
    size: tuple[int, int] = (48, 64),
    sound: float = 0,
    form: str | None = None,
    sar: Fraction | None = None,
    setup: Callable[[Any], None] | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of frames 0..count - 1, or of `numbers`, at `pts` in `base` (else one a frame, in 1/rate).

    sound: seconds of a tone beside it. setup: gets the codec context before it is opened.
    """
    import av

    numbers = list(range(count)) if numbers is None else list(numbers)
    times = list(range(len(numbers))) if pts is None else list(pts)
    with av.open(str(path), "w", format=form, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        context.time_base = base or 1 / Fraction(rate)
        if sar:
            context.sample_aspect_ratio = sar
        if setup:
            setup(context)
        tone = (
            container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=48000)
            if sound
            else None
        )
        for at, time in zip(numbers, times, strict=True):
            frame = av.VideoFrame.from_ndarray(draw(at, *size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            for start in range(0, int(sound * 48000), 960):
                wave = np.sin(np.arange(start, start + 960) * 2 * np.pi * 440 / 48000).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                samples.sample_rate, samples.pts, samples.time_base = 48000, start, Fraction(1, 48000)
                container.mux(tone.encode(samples))
            container.mux(tone.encode())
    return path


def set_matrix(path: Path, matrix: Sequence[float]) -> Path:
    """Writes (a, b, c, d) into the display matrix of an mp4's or mov's video track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, id, duration, layer, volume come before it
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def begun_late(path: Path, source: Path, lost: int) -> Path:
    """A copy of a video, packet by packet, without its first `lost` packets of pictures: a recording that
    begins between two keyframes."""
    import av

    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        streams = {
            each.index: out.add_stream_from_template(each)
            if hasattr(out, "add_stream_from_template")
            else out.add_stream(template=each)
            for each in given.streams
        }
        for packet in given.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and lost > 0:
                lost -= 1
                continue
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return path
