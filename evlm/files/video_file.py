"""Video files by PyAV (FFmpeg), as a player shows them: upright, with square pixels, each frame at its time.

Untrusted bytes: only the container formats named here are opened, from the file itself and nothing else (a
playlist that names other files or addresses is none of them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import PictureError
from .cut_off import cut_off
from .disk import why
from .kinds import kind_of
from .pictures import MAX_PIXELS
from .selection import Selection, Shot, Taken, spread
from .video_pixels import (
    bits_of,
    display_matrix,
    has_alpha,
    pixel_ratio,
    pixels,
    says_alpha,
    shown_size,
    square_size,
    turn,
)

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mxf,nut,ivf,h264,hevc,obu,m4v,"
    "dv,yuv4mpegpipe,rm,wtv,mp3,flac"
)
OPEN = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
_STILL_CODECS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # what a cover picture is stored as
_HDR = {16: "PQ (HDR10)", 18: "HLG"}  # ITU-T H.273, transfer characteristics


@dataclass
class VideoFile:
    """What is read from a video. rate: as the file says it, None where it does not. sound: it has some.
    notes: what was done to the frames, or lost, in words."""

    taken: Taken
    rate: Fraction | None
    sound: bool
    notes: list[str] = field(default_factory=list)


def read_video(path: Path, selection: Selection) -> VideoFile:
    """Reads a video file of any container and codec that this FFmpeg has, by its content.

    Frames are turned and mirrored by the display matrix, stretched (never shrunk) to square pixels by the
    sample aspect ratio, converted to RGB of 8 bits. Raises PictureError.
    """
    with _opened(path) as (container, stream):
        scan = _scan(container, stream)
        height, width = stream.codec_context.height, stream.codec_context.width
        if height * width > MAX_PIXELS:
            raise PictureError(f"frames of {width} x {height}: at most {MAX_PIXELS:,} pixels are read")
        selection.check(len(scan.times), *shown_size(stream), scan.seconds)
    with _opened(path) as (container, stream):
        reading = _Reading(container, stream, scan)
        shots = reading.spread(selection.at_most) if selection.at_most else reading.shots()
        taken = selection.collect(shots, str(path))
        sound = bool(container.streams.audio)
        rate = Fraction(stream.average_rate) if stream.average_rate else None
        return VideoFile(taken, rate, sound, reading.notes(stream))


@dataclass(frozen=True)
class VideoStream:
    """A video that is open, to be read from its beginning on. count: its frames, as the file has it; fewer
    where some cannot be decoded. height, width: as they are stored, pixels square. rate, sound: as
    VideoFile's. seconds: in all, None where unknown. reading: decodes it."""

    count: int
    height: int
    width: int
    rate: Fraction | None
    sound: bool
    seconds: Fraction | None
    reading: _Reading

    def shots(self) -> Iterator[Shot]:
        """Every frame with all that it has, as `pixels(whole=True)` gives it."""
        return self.reading.shots()

    def begin(self) -> Fraction:
        """The file's second of the first frame that could be decoded, when that was read: of a recording
        that begins between two keyframes it is a later one than the file's first."""
        return self.reading.origin or Fraction(0)

    def notes(self) -> list[str]:
        """What was done to the frames that were read, or lost, in words."""
        return self.reading.notes(self.reading.stream)


@contextmanager
def video_stream(path: Path) -> Iterator[VideoStream]:
    """A video file of any length, open. Raises PictureError."""
    with _opened(path) as (container, stream):
        scan = _scan(container, stream)
        height, width = shown_size(stream)
        if height * width > MAX_PIXELS:
            raise PictureError(f"frames of {width} x {height}: at most {MAX_PIXELS:,} pixels are read")
    with _opened(path) as (container, stream):
        yield VideoStream(
            len(scan.times),
            height,
            width,
            Fraction(stream.average_rate) if stream.average_rate else None,
            bool(container.streams.audio),
            scan.seconds,
            _Reading(container, stream, scan, whole=True),
        )


def is_video(path: Path) -> bool:
    """Whether the content is a container of video or sound that this FFmpeg knows, or begins like one; the
    name is not asked."""
    try:
        with _opened(path):
            return True
    except PictureError as error:
        if isinstance(error, _NoVideo):
            return True
    try:
        with path.open("rb") as file:
            return kind_of(file.read(64)) == "video"
    except OSError:
        return False


class _NoVideo(PictureError):
    """A container that is known, without a video in it."""


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its video stream); whatever FFmpeg raises while it is used becomes a PictureError."""
    try:
        import av
    except ImportError:
        raise PictureError(f"{path}: reading a video file needs the package av: pip install av") from None
    try:
        with path.open("rb") as file, av.open(file, container_options=dict(OPEN)) as container:
            yield container, _video_stream(container)
    except PictureError as error:
        raise type(error)(
            f"{path}: {error}" if str(path) not in str(error) else str(error)
        ) from error.__cause__
    except Exception as error:  # FFmpeg and its wrapper raise a zoo of errors on damaged bytes
        raise PictureError(f"{path}: not a video that can be read ({why(error)}){cut_off(path)}") from error


def _video_stream(container: Any) -> Any:
    """The largest stream of moving pictures: cover art and thumbnails are none."""
    videos = [stream for stream in container.streams.video if not _is_cover(container, stream)]
    if not videos:
        kind = "it is sound with a cover picture, and" if container.streams.video else "it"
        raise _NoVideo(f"{kind} has no video in it")
    return max(
        videos, key=lambda stream: (stream.codec_context.width or 0) * (stream.codec_context.height or 0)
    )


def _is_cover(container: Any, stream: Any) -> bool:
    disposition = getattr(stream, "disposition", None)  # PyAV 13 has it
    if disposition is not None:
        return bool(disposition & type(disposition).attached_pic)
    still = stream.codec_context.name in _STILL_CODECS
    return still and bool(container.streams.audio) and stream.frames <= 1 and stream.start_time in (None, 0)


def _alpha_decoder(stream: Any) -> Any:
    """FFmpeg's own decoder of VP8 and VP9 drops the opacity that is stored beside; libvpx keeps it."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name.replace("libvpx-", ""))
    if name is None or not says_alpha(stream):
        return None
    import av

    try:
        return av.CodecContext.create(name, "r")
    except Exception:  # not in this FFmpeg: a note says that the opacity is lost
        return None


# --- what the packets say, before anything is decoded ---


@dataclass
class _Scan:
    """times: of the packets that will be shown, sorted, in the stream's time base; None where one has none.
    keys: times of the packets at which decoding can begin. last: seconds of the last frame. seconds: in
    all, None where unknown. lacking: the file says that it should have more."""

    times: list[Any]
    keys: list[int]
    last: Fraction
    seconds: Fraction | None
    lacking: bool


def _scan(container: Any, stream: Any) -> _Scan:
    times: list[Any] = []
    keys: list[int] = []
    lengths: dict[Any, int] = {}
    packets = 0
    for packet in container.demux(stream):
        packets += bool(packet.size)
        if not packet.size or packet.is_discard:
            continue
        times.append(packet.pts)
        lengths[packet.pts] = packet.duration or 0
        if packet.is_keyframe and packet.pts is not None:
            keys.append(packet.pts)
    if None in times:
        keys, last = [], 0
        seconds = None
    else:
        times.sort()
        last = (lengths[times[-1]] or _behind(stream, times)) if times else 0
        seconds = (times[-1] - times[0] + last) * stream.time_base if times else None
    length = last * stream.time_base if last else Fraction(0)
    if not length and (rate := stream.average_rate or stream.guessed_rate):
        length = 1 / Fraction(rate)
    if seconds is None and length:
        seconds = len(times) * length
    lacking = packets < stream.frames
    if "matroska" in container.format.name and len(container.streams) == 1 and seconds and container.duration:
        begin = 0 if None in times else max(times[0], 0) * stream.time_base
        end = begin + seconds  # the length that it says counts from the file's second 0
        lacking = Fraction(container.duration, 1_000_000) > end + length / 2
    return _Scan(times, sorted(keys), Fraction(length), seconds, lacking)


def _behind(stream: Any, times: list[int]) -> int:
    """How long the last frame lasts in a Matroska of uneven times, by what it says of the whole track; 0
    where it says nothing, or more than the frames that are there can be meant to last: it is cut off."""
    said = re.fullmatch(r"(\d{1,4}):(\d\d):(\d\d\.\d{1,9})", str(stream.metadata.get("DURATION", "")))
    if said is None:
        return 0
    whole = int(said[1]) * 3600 + int(said[2]) * 60 + Fraction(said[3])
    rest = round(whole / stream.time_base) - times[-1]
    longest = max((b - a for a, b in pairwise(times)), default=0)
    return rest if 0 < rest <= max(4 * longest, 1 / stream.time_base) else 0


# --- frames ---


class _Reading:
    """Decodes one stream, and remembers what was odd about it."""

    def __init__(self, container: Any, stream: Any, scan: _Scan, whole: bool = False) -> None:
        self.container, self.stream, self.scan = container, stream, scan
        self.base = stream.time_base
        self.whole = whole
        self.decoder = _alpha_decoder(stream) if whole else None
        self.damaged = 0
        self.guessed = False
        self.first: Any = None
        self.origin: Fraction | None = None  # the file's second of the first frame

    def shots(self) -> Iterator[Shot]:
        """Every frame with its time; one is held back until the next one says when it ends."""
        held: tuple[Any, Fraction] | None = None
        origin: Fraction | None = None
        length = self.scan.last or Fraction(1, 25)
        for frame in self._decoded():
            self.first = self.first or frame
            time = None if frame.pts is None else Fraction(frame.pts) * self._base(frame)
            origin = self.origin = time if origin is None else origin
            start = Fraction(0) if time is None or origin is None else time - origin
            if held is not None:
                if time is None or start <= held[1]:  # no time, or one that does not go on
                    start, self.guessed = held[1] + length, True
                yield self._shot(held[0], held[1], start)
            held = frame, start
        if held is not None:
            yield self._shot(held[0], held[1], held[1] + length)

    def spread(self, most: int) -> Iterator[Shot]:
        """At most `most` frames, spread evenly; else only what these are predicted from is decoded."""
        wanted = spread(len(self.scan.times), most)
        if None in self.scan.times:
            chosen = set(wanted)
            yield from (shot for index, shot in enumerate(self.shots()) if index in chosen)
            return
        times = [self.scan.times[index] for index in wanted]
        ends = [*times[1:], None]
        frames: Iterator[Any] = iter(())
        frame: Any = None
        at: int | None = None
        for time, end in zip(times, ends, strict=True):
            key = max((each for each in self.scan.keys if each <= time), default=None)
            if at is None or (key is not None and key > at):
                if key is not None and (at is not None or key > self.scan.times[0]):
                    self.container.seek(key, stream=self.stream, backward=True)
                frames = self._decoded()
            for frame in frames:
                at = frame.pts if frame.pts is not None else at
                if frame.pts is not None and frame.pts >= time:
                    break
            else:
                return  # cut off: what there is has been taken
            self.first = self.first or frame
            start = (time - times[0]) * self.base
            stop = start + self.scan.last if end is None else (end - times[0]) * self.base
            yield self._shot(frame, Fraction(start), Fraction(stop))

    def _decoded(self) -> Iterator[Any]:
        """Frames in the order in which they are shown. What cannot be decoded is left out, as players do."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                self.damaged += 1
                return
            if packet is None:
                return
            try:
                frames = self._decode(packet)
            except av.error.InvalidDataError:
                self.damaged += 1
                continue
            yield from frames

    def _decode(self, packet: Any) -> Any:
        if self.decoder is None:
            return packet.decode()
        return self.decoder.decode(packet if packet.size else None)

    def _base(self, frame: Any) -> Fraction:
        base = None if self.decoder is not None else frame.time_base
        return Fraction(base or self.base)

    def _shot(self, frame: Any, start: Fraction, end: Fraction) -> Shot:
        return Shot(start, end, lambda: pixels(frame, self.stream, self.whole))

    def notes(self, stream: Any) -> list[str]:
        """What was done to the frames, or lost, in words."""
        notes, frame = [], self.first
        matrix = display_matrix(frame)
        if matrix is not None and turn(matrix) is None:
            notes.append(
                "the video is turned by an angle that is no quarter turn; its frames are taken as stored"
            )
        elif matrix is not None and turn(matrix) != (False, False, False):
            notes.append(
                "the video's frames are stored turned or mirrored; they are read as players show them"
            )
        ratio = pixel_ratio(stream)
        if ratio != 1:
            height, width = square_size(frame.height, frame.width, ratio)
            notes.append(
                f"the video's pixels are not square ({ratio.numerator}:{ratio.denominator}): "
                f"{frame.width} x {frame.height} is stretched to {width} x {height}"
            )
        transfer = int(getattr(stream.codec_context, "color_trc", 0) or 0)
        if transfer in _HDR:
            notes.append(
                f"the video is {_HDR[transfer]}, high dynamic range; its values are taken as they are and "
                "look flat, turn it into SDR first for true colours"
            )
        if not self.whole and (bits := bits_of(frame)) > 8:
            notes.append(f"the video has {bits} bits a channel; 8 are kept")
        alpha = has_alpha(frame)
        if (alpha or says_alpha(stream)) and not (alpha and self.whole):
            notes.append("the video's transparency is not kept")
        if frame.interlaced_frame:
            notes.append("the video is interlaced; both fields of a frame are edited as one picture")
        if self.guessed:
            notes.append(
                "some frames have no time of their own, or one that goes back; they follow the others evenly"
            )
        if self.damaged or self.scan.lacking:
            notes.append("the video is damaged or cut off; what could be decoded is taken")
        return notes
