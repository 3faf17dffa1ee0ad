"""Clips onto the disk: frames into segments, segments and sound into one file.

A segment is a file of some frames that stands for itself; a clip is its segments one behind the other, their
packets copied, each frame at its own time. So a clip of any length is written in pieces, and a run that was
stopped goes on behind the last whole one. Every file has another name until it is whole.
"""

from __future__ import annotations

import heapq
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from ..errors import PictureError
from .clip_codecs import BT709, LIMITED, ClipForm, form_of, to_frame, values_of
from .clip_sound import Sound, SoundTrack, sound_tracks
from .disk import unwritten
from .pictures import write_atomically

SIZE_TAG = "evlm-size"
"""Metadata of a clip that is stored with more rows or columns than it has: its "WIDTHxHEIGHT"."""
_FINEST = 1_000_000  # ticks a second, at most


def write_clip(
    path: str | os.PathLike[str],
    frames: Iterable[Tensor],
    codec: str = "h264",
    durations: Sequence[Fraction] | None = None,
    sound: Sound | None = None,
    bits: int = 8,
) -> list[str]:
    """Writes a clip, atomically: an earlier file stays whole until the new one is.

    frames: one tensor [F, H, W, 3], or with opacity [F, H, W, 4], in 0..1, or windows of a clip one after
    the other; no more than one is held. codec: "h264" (.mp4), "vp9" (.webm), "ffv1" (.mkv, lossless) or "png"
    (a folder). durations: seconds that each frame is shown; 8 a second where it is not given. sound: what is
    heard beside it. bits: of a channel.

    Returns what was lost or done on the way, in words. Raises PictureError.
    """
    path = Path(path)
    windows = iter([frames] if isinstance(frames, Tensor) else frames)
    first = next((each for each in windows if len(each)), None)
    if first is None:
        raise PictureError(f"{path}: there is no frame to write")
    rate = None
    if durations is not None:
        seconds = sum(durations, Fraction(0))
        rate = len(durations) / seconds if seconds > 0 else None
    height, width, channels = first.shape[1:]
    form, notes = form_of(codec, height, width, rate, channels == 4, bits)
    pictures = (picture for window in _chained(first, windows) for picture in window)
    if not form.codec.encoder:
        return notes + write_folder(path, pictures, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")  # `forget_parts` knows it
        work.mkdir()
        try:
            segment = work / "segment.mkv"
            count = write_segment(segment, pictures, form)
            if durations is None:
                durations = [Fraction(1, 8)] * count
            if len(durations) != count:
                raise PictureError(
                    f"{path}: {len(durations)} durations for {count} frames; expected one each"
                )
            notes += join_segments(path, [segment], form, durations, sound)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise unwritten(path, error) from error
    return notes


def _chained(first: Tensor, others: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    yield from others


def write_segment(path: Path, pictures: Iterable[Tensor], form: ClipForm) -> int:
    """Writes pictures [H, W, 3 or 4] as one segment, atomically; returns how many there were.

    Raises PictureError, OSError where the disk takes no more.
    """
    import av

    written = 0

    def write(file: IO[bytes]) -> None:
        nonlocal written
        options = {"fflags": "+bitexact"}
        with (
            _coded(path, form.codec.encoder),
            _told(file) as disk,
            av.open(disk, "w", format="matroska", options=options) as container,
        ):
            rate = form.rate.limit_denominator(60_000)
            stream: Any = container.add_stream(
                form.codec.encoder, rate=rate, options=dict(form.codec.options)
            )
            stream.height, stream.width = form.padded
            stream.pix_fmt = form.pixels
            context = stream.codec_context
            context.time_base = 1 / rate
            if "yuv" in form.pixels:
                context.colorspace = context.color_primaries = context.color_trc = BT709
                context.color_range = LIMITED
            if form.alpha:
                stream.metadata["alpha_mode"] = "1"
            for picture in pictures:
                _check(picture, form, written)
                frame = to_frame(picture, form)
                frame.pts, frame.time_base = written, context.time_base
                container.mux(stream.encode(frame))
                written += 1
            if written:
                container.mux(stream.encode())

    write_atomically(path, write)
    if not written:
        path.unlink(missing_ok=True)
        raise PictureError(f"{path}: there is no frame to write")
    return written


class _Disk:
    """A file for PyAV, which forgets what went wrong in its callbacks."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


@contextmanager
def _coded(path: Path, what: str) -> Iterator[None]:
    """FFmpeg's refusals as PictureError; those of the disk stay OSError."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise PictureError(
            f"{path}: FFmpeg's {what} failed ({error.strerror or error}); choose another codec (h264, vp9, "
            "ffv1 or png)"
        ) from error


@contextmanager
def _told(file: IO[bytes]) -> Iterator[_Disk]:
    """The file; what it could not write is raised as what it was."""
    disk = _Disk(file)
    try:
        yield disk
    except Exception:
        if disk.error is not None:
            raise disk.error from None
        raise


def _check(picture: Tensor, form: ClipForm, number: int) -> None:
    expected = {(form.height, form.width, 3 + form.alpha), (form.height, form.width, 4)}
    if tuple(picture.shape) not in expected:
        raise PictureError(
            f"frame {number} is {tuple(picture.shape)}, and the clip's are "
            f"{(form.height, form.width, 3 + form.alpha)}: the frames of a clip have one size"
        )


def join_segments(
    path: Path,
    segments: Sequence[Path],
    form: ClipForm,
    durations: Sequence[Fraction],
    sound: Sound | None = None,
) -> list[str]:
    """Writes the segments as one clip, packets copied, atomically. durations: seconds of each frame of all.

    Sound is copied packet by packet where it is whole and the container takes it, else encoded. Returns what
    was done to it, in words. Raises PictureError, also where a segment does not fit, OSError.
    """
    with ExitStack() as stack:
        if sound is None:
            _mux(path, segments, form, durations, [])
            return []
        tracks, notes = sound_tracks(sound, form.codec, stack)
        try:
            _mux(path, segments, form, durations, tracks)
        except _Refused as refused:
            tracks, again = sound_tracks(sound, form.codec, stack, encode=True)
            notes += [*again, f"{path.suffix} takes no {refused.codecs} sound; it is {form.codec.sound} now"]
            _mux(path, segments, form, durations, tracks)
        return list(dict.fromkeys(notes))


class _Refused(Exception):
    """A container does not take sound as it is."""

    def __init__(self, codecs: str) -> None:
        super().__init__(codecs)
        self.codecs = codecs


def _mux(
    path: Path,
    segments: Sequence[Path],
    form: ClipForm,
    durations: Sequence[Fraction],
    tracks: Sequence[SoundTrack],
) -> None:
    import av

    def write(file: IO[bytes]) -> None:
        options = {"fflags": "+bitexact"}
        if form.codec.container == "mp4":
            options["movflags"] = "+use_metadata_tags"
        with ExitStack() as stack:
            stack.enter_context(_coded(path, f"writer of {form.codec.container}"))
            head = stack.enter_context(av.open(_name_of(segments[0])))
            disk = stack.enter_context(_told(file))
            out = stack.enter_context(av.open(disk, "w", format=form.codec.container, options=options))
            if form.padded != (form.height, form.width):
                out.metadata[SIZE_TAG] = f"{form.width}x{form.height}"
            stream = copied_stream(out, head.streams.video[0])
            with warnings.catch_warnings():  # PyAV 12 takes the stream for one that is read
                warnings.simplefilter("ignore")
                stream.time_base = _time_base(durations)
            if form.alpha:
                stream.metadata["alpha_mode"] = "1"
            try:
                for track in tracks:
                    track.begin(out)
                out.start_encoding()
            except (ValueError, OSError, av.FFmpegError) as error:
                if disk.error is not None or all(track.encoded for track in tracks):
                    raise
                raise _Refused(", ".join(sorted({t.codec for t in tracks if not t.encoded}))) from error
            video = ((time, 0, packet) for time, packet in _packets(segments, stream, durations))
            heard = [
                ((time, number, packet) for time, packet in track.packets())
                for number, track in enumerate(tracks, 1)
            ]
            for _, _, packet in heapq.merge(video, *heard, key=lambda each: each[:2]):
                out.mux(packet)

    write_atomically(path, write)


def _name_of(path: Path) -> str:
    """A file for FFmpeg, which takes what stands before a colon for a protocol, but for a whole path."""
    return os.path.abspath(path)


def copied_stream(out: Any, template: Any) -> Any:
    """A stream of a container that is written, for packets of a stream that is read."""
    if hasattr(out, "add_stream_from_template"):  # PyAV 14 has it
        return out.add_stream_from_template(template)
    return out.add_stream(template=template)


def _packets(
    segments: Sequence[Path], stream: Any, durations: Sequence[Fraction]
) -> Iterator[tuple[Fraction, Any]]:
    """(seconds, packet) of all frames. Raises PictureError where there are more or fewer than durations."""
    import av

    base, at, now = _time_base(durations), 0, Fraction(0)
    for segment in segments:
        with av.open(_name_of(segment)) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:
                    continue
                if at == len(durations):
                    raise PictureError(f"{segment}: more frames than the clip has")
                behind = now + durations[at]
                packet.stream = stream
                packet.time_base = base
                packet.pts = packet.dts = round(now / base)
                packet.duration = round(behind / base) - packet.pts
                yield now, packet
                at, now = at + 1, behind
    if at != len(durations):
        raise PictureError(f"{segments[-1]}: {at} frames are there, and the clip has {len(durations)}")


def _time_base(durations: Sequence[Fraction]) -> Fraction:
    """In which every frame begins at a whole number, where a second has few enough of them."""
    ticks = 1
    for duration in set(durations):
        ticks = math.lcm(ticks, duration.denominator)
        if ticks > _FINEST:
            return Fraction(1, 90_000)
    return Fraction(1, ticks)


def write_folder(path: Path, pictures: Iterable[Tensor], form: ClipForm) -> list[str]:
    """Writes a folder of numbered PNG, all of them or none: it has another name until it is whole.

    A folder that is there is replaced only if it holds nothing but such pictures. Raises PictureError.
    """
    from .png import write_png

    work = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        work.mkdir(parents=True)
        try:
            for number, picture in enumerate(pictures):
                _check(picture, form, number)
                with (work / f"{number:06}.png").open("xb") as file:
                    write_png(file, values_of(picture, form))
            take_place(work, path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise unwritten(path, error) from error
    return []


def take_place(work: Path, path: Path) -> None:
    """Gives a folder of frames that is whole its name, also that of an empty file which only holds the name.
    Raises PictureError where other files lie there."""
    if path.is_file() and not path.stat().st_size:
        path.unlink()
    if not path.exists():
        work.rename(path)
        return
    others = others_in(path) if path.is_dir() else [path.name]
    if others:
        raise PictureError(
            f"{path}: {others[0]} lies there, which is no frame of a clip; name another folder"
        )
    before = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.before")
    path.rename(before)
    work.rename(path)
    shutil.rmtree(before, ignore_errors=True)


def others_in(folder: Path) -> list[str]:
    """The names of what lies in a folder and is no frame of a clip."""
    return [each.name for each in folder.iterdir() if each.suffix != ".png" or not each.stem.isdigit()]
