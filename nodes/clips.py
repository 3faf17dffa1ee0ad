"""Clips on their way through the nodes: VIDEO or IMAGE in, a file that core's nodes play and save out."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from . import folders, host

if TYPE_CHECKING:
    from ..evlm.files.clip_reader import ClipFile
    from ..evlm.files.clip_sound import Sound

Clip = Any  # what a clip's socket carries: core's VIDEO, or frames
ClipOrScene = Any  # or a scene of Gaussians, of which pictures are taken
SHOWN = 512  # pixels, the longer side of what a node plays of itself; smaller ones are enlarged up to it
ENLARGED = 4  # times, at most
AT_ONCE = 8  # frames of such a clip that are made together


def clip_input(name: str, tooltip: str, *more: Any) -> Any:
    """A socket that takes VIDEO, IMAGE and `more` types."""
    return io.MultiType.Input(name, types=[io.Video, io.Image, *more], tooltip=tooltip)


@dataclass
class Opened:
    """A clip that came in. file: what is read of it, window by window. work: a folder as long as it is open.
    audio: core's, of frames that are in memory."""

    file: ClipFile
    work: Path
    audio: Any = None
    name: str = "video"

    def sound(self, durations: Sequence[Fraction]) -> Sound | None:
        """What is heard beside all of its frames, which last so long. Raises PictureError."""
        from ..evlm.files.clip_held import write_sound
        from ..evlm.files.clip_sound import Sound

        if self.audio is not None:
            path = self.work / "sound.mka"
            write_sound(path, self.audio["waveform"][0], int(self.audio["sample_rate"]))
            return Sound(path, seconds=sum(durations, Fraction(0)))
        return Sound(self.file.path, self.file.begin) if self.file.sound else None

    def together(self, use: str) -> tuple[Tensor, list[Fraction]]:
        """(all frames [F, H, W, 3] in 0..1, seconds that each is shown). use: what else would do, for an
        error. Raises PictureError before anything is decoded, where they would not fit into memory."""
        from ..evlm.files.clip_held import HeldClip
        from ..evlm.files.clips import read_clip

        if isinstance(self.file, HeldClip):
            return self.file.held, list(self.file.durations)
        self.check(use)
        clip = read_clip(self.file.path)
        host.tell(clip.notes)
        durations = clip.durations or [1 / (self.file.rate or Fraction(8))] * len(clip.frames)
        return clip.frames, list(durations)

    def some(self, most: int) -> tuple[Tensor, list[Fraction]]:
        """(at most `most` frames, spread evenly, [n, H, W, 3], the second at which each begins). Of a file
        only those are decoded. Raises PictureError."""
        from ..evlm.files.clip_held import HeldClip
        from ..evlm.files.clips import read_clip
        from ..evlm.files.selection import Selection, spread

        if isinstance(self.file, HeldClip):
            which = spread(self.file.count, most)
            return self.file.held[which], [sum(self.file.durations[:at], Fraction(0)) for at in which]
        seen = read_clip(self.file.path, Selection(at_most=most))
        host.tell(seen.notes)
        return seen.frames, list(seen.times or [Fraction(0)])

    def starts(self) -> list[Fraction]:
        """The second at which each frame that is really there begins: all are decoded, one after the other.
        Raises PictureError."""
        return [each.start for each in self.file.frames()]

    def these(self, which: Sequence[int]) -> tuple[Tensor, list[Fraction]]:
        """As `some`, of the frames with these numbers, in their order. Raises PictureError."""
        from ..evlm.files.selection import as_float

        wanted, kept = set(which), []
        for number, picked in enumerate(self.file.frames()):
            if number in wanted:
                kept.append(picked)
            if len(kept) == len(wanted):
                break
        return as_float([each.pixels[..., :3] for each in kept]), [each.start for each in kept]

    def parts(self) -> list[Any]:
        """What tells it from every other clip, as `unfinished.key_of` takes it."""
        from ..evlm.files.clip_held import HeldClip

        if isinstance(self.file, HeldClip):
            return [self.file.held, self.file.durations]
        if self.file.path.parent == self.work:  # a copy of what is in memory, made anew each time
            return [hashlib.blake2b(self.file.path.read_bytes()).hexdigest()]
        return [self.file.path]

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.file.count * self.file.height * self.file.width

    @property
    def fits(self) -> bool:
        """Whether all frames together would fit into memory."""
        from ..evlm.files.clips import MAX_TOTAL_PIXELS

        return self.pixels <= MAX_TOTAL_PIXELS

    def like(self, masks: int = 1) -> Tensor:
        """[F, H, W, 3] of the clip's size, for what asks for nothing but that; it takes no memory. masks: so
        many are given; where the file says another number of frames, they are counted. Raises PictureError.
        """
        if masks > 1 and masks % self.file.count:
            self.file.counted()
        return torch.zeros(1).expand(self.file.count, self.file.height, self.file.width, 3)

    def check(self, use: str) -> None:
        """Raises PictureError where all frames together would not fit into memory."""
        check_size(self.name, self.file.count, self.file.height, self.file.width, use)


def check_size(name: str, count: int, height: int, width: int, use: str) -> None:
    """Raises PictureError where so many frames would not fit into memory."""
    from ..evlm.errors import PictureError
    from ..evlm.files.clips import MAX_TOTAL_PIXELS

    if count * height * width > MAX_TOTAL_PIXELS:
        most = MAX_TOTAL_PIXELS // (height * width)
        raise PictureError(
            f"{name}: {count:,} frames of {width} x {height} would be held in memory at once; at most "
            f"{most:,} of that size are. {use}"
        )


@contextmanager
def opened(value: Clip, name: str = "video") -> Iterator[Opened]:
    """A clip as it came. A VIDEO of a file is read from there and never held; another one is what its maker
    gives. Raises PictureError."""
    from ..evlm.files.clip_held import hold
    from ..evlm.files.clip_reader import open_clip

    with tempfile.TemporaryDirectory(prefix="evlm_clip_", dir=folders.temp()) as folder:
        work = Path(folder)
        if isinstance(value, Tensor):
            yield Opened(hold(value, name=name), work, name=name)
            return
        path = _file_of(value, work)
        if path is not None:
            yield Opened(open_clip(path), work, name=name)
            return
        _check_trimmed(value, name)
        parts = value.get_components()
        frames = _frames(parts.images, name)
        rate = Fraction(parts.frame_rate) if parts.frame_rate and parts.frame_rate > 0 else None
        yield Opened(hold(frames, rate, name), work, parts.audio, name)


def _file_of(value: Any, work: Path) -> Path | None:
    """The file of a VIDEO that is all of one."""
    from comfy_api.input_impl import VideoFromFile

    if not isinstance(value, VideoFromFile) or _trimmed(value):
        return None
    source = value.get_stream_source()
    if isinstance(source, BytesIO):
        path = work / "source"
        path.write_bytes(source.getbuffer())
        return path
    return Path(source)


def _trimmed(value: Any) -> bool:
    """Whether a VIDEO is a part of its file. Core says so since 0.33, and knows it a little longer."""
    window = getattr(value, "get_active_trim_window", None)
    if window is not None:
        return any(window())
    return any(getattr(value, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration"))


def _check_trimmed(value: Any, name: str) -> None:
    """Core decodes all of a part of a file. Raises PictureError where that would not fit into memory."""
    from comfy_api.input_impl import VideoFromFile

    if isinstance(value, VideoFromFile):
        width, height = value.get_dimensions()
        count = round(value.get_duration() * float(value.get_frame_rate()))
        check_size(name, count, height, width, "A part of a file is not streamed: save it first, and load it")


def _frames(images: Any, name: str) -> Tensor:
    from ..evlm.errors import RequestError
    from ..evlm.files.pictures import check_frames

    if not isinstance(images, Tensor) or images.ndim != 4 or 0 in images.shape or images.shape[-1] < 3:
        raise RequestError(f"{name}: it has no frames; connect a video that can be played")
    notes: list[str] = []
    frames = check_frames(images[..., :3], name, notes)
    host.tell(notes)
    return frames


def looked_at(value: Clip, name: str, most: int) -> tuple[Tensor, float | None]:
    """(at most `most` frames of a VIDEO, spread evenly, [n, H, W, 3], their rate); the node says which. Of a
    file only those are decoded. Raises PictureError."""
    from ..evlm.files.selection import rate_of

    with opened(value, name) as source:
        frames, times = source.some(most)
        count = source.file.count
    at = ", ".join(f"{float(time):.2f}" for time in times)
    host.tell([f"{len(frames)} of the clip's {count} frames are looked at, at {at} s"])
    return frames, rate_of(times)


# --- out ---


def new_file(kind: str) -> Path:
    """In ComfyUI's temp folder, which it empties when it starts."""
    return folders.temp() / f"evlm_{kind}_{secrets.token_hex(6)}.mp4"


def video_of(path: Path) -> Any:
    """A file as core's VIDEO."""
    from comfy_api.input_impl import VideoFromFile

    return VideoFromFile(str(path))


def playing(path: Path) -> dict[str, Any]:
    """What a node shows of itself to play a file of `new_file`."""
    return {"images": [{"filename": path.name, "subfolder": "", "type": "temp"}], "animated": (True,)}


def play(frames: Iterator[Tensor], durations: Sequence[Fraction], kind: str) -> dict[str, Any]:
    """Frames [n, H, W, 3] as a small clip that the node plays of itself."""
    from ..evlm.files.clip_writer import write_clip

    path = new_file(kind)
    write_clip(path, (_small(each) for each in frames), "h264", durations)
    return playing(path)


def masked(frames: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Frames [F, H, W, 3], darkened outside the mask [F, H, W]."""
    for piece, on in zip(frames.split(AT_ONCE), mask.split(AT_ONCE), strict=True):
        yield piece * (0.3 + 0.7 * on[..., None])


def _small(frames: Tensor) -> Tensor:
    height, width = frames.shape[1:3]
    scale = SHOWN / max(height, width)
    if scale >= 1:
        times = min(int(scale), ENLARGED)
        return frames.repeat_interleave(times, 1).repeat_interleave(times, 2)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = torch.nn.functional.interpolate(frames.movedim(-1, 1), size, mode="area")
    return small.movedim(1, -1)


# --- on the way ---


@dataclass
class Watch:
    """How far a clip is, and how long it still takes: the bar, and a text in the node. Cancels."""

    what: str = ""
    begun: float = 0.0
    first: float = 0.0
    told: float = 0.0
    bar: Callable[..., None] = field(default_factory=lambda: host.Progress(1000))

    def __call__(self, what: str, done: float, total: float) -> None:
        """what: is done. done, total: frames, or parts of them."""
        now = time.monotonic()
        if what != self.what:
            self.what, self.begun, self.first = what, now, done
        self.bar(round(1000 * done / max(total, 1)), 1000)
        if now - self.told < 1 and done < total:
            return
        self.told = now
        left = ""
        if self.first < done < total:
            left = f", {spoken((now - self.begun) / (done - self.first) * (total - done))} left"
        host.say(f"{what}: {done / max(total, 1):.0%}{left}")


def spoken(seconds: float) -> str:
    """A time as one says it: "40 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
