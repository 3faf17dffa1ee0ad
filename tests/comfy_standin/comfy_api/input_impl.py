"""Core's VIDEO: of a file, or of frames that are in memory. As 0.3.64 has them, less what only writes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any

import av
import torch
from torch import Tensor


@dataclass
class VideoComponents:
    """images: [F, H, W, 3] in 0..1. audio: {"waveform": [1, C, N], "sample_rate"} or None."""

    images: Tensor
    frame_rate: Fraction
    audio: dict[str, Any] | None = None


class VideoFromFile:
    def __init__(self, file: str | BytesIO) -> None:
        self.__file = file

    def get_stream_source(self) -> str | BytesIO:
        return self.__file

    def get_components(self) -> VideoComponents:
        with av.open(self.__file) as container:
            frames = [
                torch.from_numpy(each.to_ndarray(format="rgb24")) / 255 for each in container.decode(video=0)
            ]
            rate = Fraction(container.streams.video[0].average_rate)
        return VideoComponents(torch.stack(frames), rate)


class VideoFromComponents:
    def __init__(self, components: VideoComponents) -> None:
        self.__components = components

    def get_components(self) -> VideoComponents:
        return self.__components
