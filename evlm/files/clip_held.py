"""A clip whose frames are in memory, for what takes one from the disk; sound that is in memory, as a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PictureError
from .clip_reader import ClipFile
from .selection import Picked, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class HeldClip(ClipFile):
    """held: float [F, H, W, 3] in 0..1. durations: seconds that each frame is shown."""

    held: Tensor = field(default_factory=lambda: torch.zeros(0, 0, 0, 3))
    durations: Sequence[Fraction] = ()

    def frames(self, begin: int = 0) -> Iterator[Picked]:
        """As `ClipFile`'s."""
        start = sum(self.durations[:begin], Fraction(0))
        for frame, duration in zip(self.held[begin:], self.durations[begin:], strict=True):
            yield Picked(frame, start, duration)
            start += duration


def hold(frames: Tensor, rate: Fraction | None = None, name: str = "clip") -> HeldClip:
    """Frames [F, H, W, 3] in 0..1 as a clip of `rate` frames a second, 8 where nobody says. name: for
    messages."""
    count, height, width = frames.shape[:3]
    durations = [1 / (rate or Fraction(8))] * count
    return HeldClip(
        Path(name), Selection(), count, count, height, width, rate=rate, held=frames, durations=durations
    )


def write_sound(path: Path, waveform: Tensor, rate: int) -> None:
    """Samples, float [C, N] in -1..1, as a file that `Sound` takes. rate: samples a second. Raises
    PictureError."""
    import av

    if waveform.ndim != 2 or not 1 <= len(waveform) <= 8 or rate < 1:
        raise PictureError(
            f"sound of shape {list(waveform.shape)} at {rate} samples a second: expected [1 to 8 channels, "
            "samples]"
        )
    layout = "mono" if len(waveform) == 1 else "stereo"
    samples = waveform if len(waveform) <= 2 else waveform.mean(0, keepdim=True).expand(2, -1)
    interleaved = samples.float().cpu().T.reshape(1, -1).contiguous().numpy()
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    try:
        with av.open(str(path.absolute()), "w", format="matroska") as out:
            stream = out.add_stream("pcm_f32le", rate=rate)
            stream.codec_context.layout = layout
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    except (ValueError, OSError) as error:
        raise PictureError(f"{path.name}: the sound cannot be written ({error})") from error
