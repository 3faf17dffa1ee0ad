"""The sound of a clip: its packets as they are, or the part of it that belongs to some of the frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PictureError

if TYPE_CHECKING:
    import numpy as np

    from .clip_codecs import ClipCodec

_OPUS_RATE = 48_000  # the only one that is common to all its encoders
_MOST = 2  # channels that every encoder takes; more are mixed down


@dataclass(frozen=True)
class Sound:
    """Sound out of a file. begin: the file's second at which the clip's first frame is shown. seconds: how
    long the clip is; None where it is the whole one, whose packets are copied."""

    path: Path
    begin: Fraction = Fraction(0)
    seconds: Fraction | None = None


@dataclass
class SoundTrack:
    """One stream of sound on its way. encoded: it is not copied. codec: what the file has it in."""

    source: Any
    begin_at: Fraction
    seconds: Fraction | None
    codec: str
    encoder: str
    encoded: bool
    stream: Any = None

    def begin(self, out: Any) -> None:
        """Adds the stream to a container that is written."""
        if not self.encoded:
            from .clip_writer import copied_stream

            self.stream = copied_stream(out, self.source)
        else:
            self.stream = out.add_stream(self.encoder, rate=self.rate)
            self.stream.codec_context.layout = self._layout()
        if self.source.metadata.get("language"):
            self.stream.metadata["language"] = self.source.metadata["language"]

    @property
    def rate(self) -> int:
        """Samples a second that the encoder takes: the source's, else those that lose the least."""
        import av

        own = int(self.source.codec_context.sample_rate)
        if "opus" in self.encoder:
            return _OPUS_RATE
        known = av.codec.Codec(self.encoder, "w").audio_rates or [own]
        return min(known, key=lambda rate: (rate < own, abs(rate - own)))

    def packets(self) -> Iterator[tuple[Fraction, Any]]:
        """(seconds after the clip's first frame, packet), in order."""
        yield from self._encoded() if self.encoded else self._copied()

    def _copied(self) -> Iterator[tuple[Fraction, Any]]:
        base = self.source.time_base
        shift = round(self.begin_at / base)
        container = self.source.container
        for packet in container.demux(self.source):
            if not packet.size or packet.pts is None:
                continue
            packet.pts -= shift
            if packet.dts is not None:
                packet.dts -= shift
            packet.stream = self.stream
            yield packet.pts * base, packet

    def _encoded(self) -> Iterator[tuple[Fraction, Any]]:
        import av

        context = self.stream.codec_context
        rate = self.stream.rate or context.sample_rate
        resampler = av.AudioResampler(format="fltp", layout=self._layout(), rate=rate)
        written = 0
        for samples in self._span(resampler, int(rate)):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout())
            frame.sample_rate, frame.pts, frame.time_base = int(rate), written, Fraction(1, int(rate))
            written += samples.shape[1]
            for packet in self.stream.encode(frame):
                yield packet.pts * packet.time_base, packet
        for packet in self.stream.encode():
            yield packet.pts * packet.time_base, packet

    def _span(self, resampler: Any, rate: int) -> Iterator[np.ndarray]:
        """float32 [channels, n] of the clip's span, one behind the other; silence where the file has none."""
        import numpy as np

        end = None if self.seconds is None else round(self.seconds * rate)
        at = 0  # the sample of the clip that comes next
        for samples, time in self._decoded(resampler, rate):
            first = round((time - self.begin_at) * rate)
            if first > at and at == 0:
                gap = first if end is None else min(first, end)
                yield np.zeros((len(samples), gap), np.float32)
                at = gap
            elif first < at and at == 0:
                samples = samples[:, -first:]
            if end is not None:
                samples = samples[:, : end - at]
            if samples.shape[1]:
                yield np.ascontiguousarray(samples)
                at += samples.shape[1]
            if end is not None and at >= end:
                return

    def _decoded(self, resampler: Any, rate: int) -> Iterator[tuple[np.ndarray, Fraction]]:
        """(float32 [channels, n], the file's second at which it begins), gapless after the first."""
        import av

        start: Fraction | None = None
        given = 0
        for packet in self.source.container.demux(self.source):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if start is None:
                    start = Fraction(frame.pts or 0) * (frame.time_base or self.source.time_base)
                for each in resampler.resample(frame):
                    samples = each.to_ndarray()
                    yield samples, start + Fraction(given, rate)
                    given += samples.shape[1]

    def _layout(self) -> str:
        channels = len(self.source.codec_context.layout.channels)
        return "mono" if channels == 1 else "stereo"


def sound_tracks(
    sound: Sound, codec: ClipCodec, stack: ExitStack, encode: bool = False
) -> tuple[list[SoundTrack], list[str]]:
    """(a track for each stream of sound in the file, what is done to it in words).

    stack: keeps the file open. encode: also what could be copied. Raises PictureError.
    """
    import av

    from .video_file import OPEN

    tracks: list[SoundTrack] = []
    notes: list[str] = []
    encoded = encode or sound.seconds is not None
    number, count = 0, 1
    while number < count:
        try:
            # Each track reads the file for itself: they are wanted at different times.
            file = stack.enter_context(sound.path.open("rb"))
            container = stack.enter_context(av.open(file, container_options=dict(OPEN)))
        except (OSError, ValueError) as error:
            raise PictureError(f"{sound.path}: its sound cannot be read ({error})") from error
        count = len(container.streams.audio)
        if not count:
            break
        source = container.streams.audio[number]
        number += 1
        if source.codec_context is None or not source.codec_context.sample_rate:
            notes.append(f"sound {number} is in a form that this FFmpeg does not know, and is left out")
            continue
        name = source.codec_context.name
        if encoded and not encode:
            notes.append(f"the sound is that of the frames taken, encoded again as {codec.sound}")
        if encoded and len(source.codec_context.layout.channels) > _MOST:
            notes.append(f"the sound's {len(source.codec_context.layout.channels)} channels are mixed to 2")
        track = SoundTrack(source, sound.begin, sound.seconds, name, codec.sound, encoded)
        if encoded and "opus" not in codec.sound and track.rate != source.codec_context.sample_rate:
            own = source.codec_context.sample_rate
            notes.append(f"{codec.sound} knows no {own} samples a second: {track.rate} are written")
        tracks.append(track)
    return tracks, notes
