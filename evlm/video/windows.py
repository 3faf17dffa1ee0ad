"""A clip in windows without seams: what one window has finished is what the next begins from.

The frames that two windows share are painted by the first. In the second they are a fixed condition: step by
step they are what they were in the first, so that the new frames look at them while these are painted, and
they come out as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..edit.chunks import in_chunks
from ..edit.crop import CropBox, cover, extract
from ..edit.masked import Work, inside_crops
from ..edit.protocol import EditSettings, OnStep
from ..edit.regions import Place
from ..edit.seamless import seamless
from .settings import VideoSettings
from .together import references, shared
from .tokens import TokenAttention


@dataclass(frozen=True)
class Span:
    """Frames start..stop of a clip; those before `new` are finished."""

    start: int
    new: int
    stop: int


def spans(count: int, window: int, overlap: int) -> list[Span]:
    """The windows of a clip of `count` frames, in order; every frame is new in one of them."""
    found = [Span(0, 0, min(window, count))]
    while found[-1].stop < count:
        new = found[-1].stop
        found.append(Span(new - overlap, new, min(new - overlap + window, count)))
    return found


@dataclass(frozen=True)
class Route:
    """One place of a clip with the crop that follows it. inside: bool [F, H, W], or None for the whole
    frame. boxes: by frame, where it is on."""

    inside: Tensor | None
    boxes: Mapping[int, CropBox]

    @classmethod
    def of(cls, place: Place) -> Route:
        frames = place.inside.flatten(1).any(1).nonzero().flatten().tolist()
        return cls(place.inside, dict(zip(frames, place.boxes, strict=True)))

    def work(self, frames: Iterable[Tensor], which: Sequence[int]) -> Work:
        """The crops of the frames `which` of the clip. frames: those, each [H, W, 3]."""
        boxes = tuple(self.boxes[frame] for frame in which)
        crops = [extract(frame[None], box) for frame, box in zip(frames, boxes, strict=True)]
        mask = None if self.inside is None else self.inside[list(which)]
        return Work(boxes, torch.arange(len(boxes)), torch.cat(crops), mask)


class Progress:
    """Tells on_step of many paintings one after the other."""

    def __init__(self, on_step: OnStep | None, pictures: int) -> None:
        self.on_step, self.pictures, self.done = on_step, pictures, 0

    def of(self, count: int) -> Any:
        """For one painting of `count` pictures."""
        if self.on_step is None:
            return None
        before, on_step = self.done, self.on_step
        self.done += count

        def tell(step: int, steps: int, preview: Tensor) -> None:
            on_step(before * steps + step * count, self.pictures * steps, preview[-count:])

        return tell

    def skip(self, count: int, steps: int) -> None:
        """So many pictures needed no painting."""
        self.done += count
        if self.on_step is not None:
            self.on_step(self.done * steps, self.pictures * steps, None)


@dataclass
class WindowPainter:
    """Paints windows of one place after another with an editor that is open in latents (`IP2P.paint`).

    text: what the editor read. notes: halved chunks are added. The model's processors are exchanged for one
    painting at a time: whoever asks for windows may stop between them, or paint with the same model himself.
    """

    editor: Any
    text: Tensor
    settings: EditSettings
    video: VideoSettings
    notes: list[str]
    progress: Progress

    def paint(self, work: Work, held: Tensor | None) -> tuple[Tensor, Tensor]:
        """(the latents [S + 1, A, C, h, w] before each step and at the end, the new frames' crops
        [A - K, h, w, 3] in 0..1).

        work: the window's crops, those of finished frames first. held: their latents [S + 1, K, C, h, w].
        """
        count, fixed = len(work.which), 0 if held is None else held.shape[1]
        new = tuple(range(fixed, count))
        refs = references(self.video.together, count)
        picture = self.encode(work.crop)
        path: list[Tensor] = []
        manner = TokenAttention(seed=self.settings.seed) if self.video.propagate == "tokens" else None
        with shared(self.editor.unet, manner) as sharing:
            latents = self.editor.paint(
                picture,
                self.text,
                self.editor.painted_cells(work),
                self.settings,
                work.crop,
                self.progress.of(count - fixed),
                predict=sharing.window(refs, self.settings.chunk, self.notes, new),
                held=held,
                path=path,
            )
        painted = self._shaded(latents[fixed:], work.crop[fixed:], inside_crops(work)[fixed:] > 0)
        return torch.stack(path), painted

    def repaint(
        self, crops: Tensor, keys: Sequence[Any], begin: Tensor, missing: Tensor, strength: float
    ) -> Tensor:
        """What is missing in some crops, painted while they look at keyframes: [n, h, w, 3] in 0..1.

        crops: [n, h, w, 3], the source. keys: with their source and path (`propagate.Key`); none without a
        path is looked at. begin: [n, h, w, 3], where painting begins, noised to `strength`, and what is kept.
        missing: bool [n, h, w].
        """
        seen = [key for key in keys if key.path is not None and self.video.together != "per-frame"]
        count, extra = len(crops), len(seen)
        picture = self.encode(torch.cat([*(key.source[None] for key in seen), crops]))
        start = torch.cat([picture[:extra], self.encode(begin)])
        cells = cover(missing.float(), *picture.shape[-2:]).unsqueeze(1)
        cells = torch.cat([cells.new_zeros(extra, *cells.shape[1:]), cells])
        anchors = tuple(range(extra))
        refs = tuple(anchors if i < extra else (*anchors, i) for i in range(extra + count))
        new = tuple(range(extra, extra + count))
        with shared(self.editor.unet) as sharing:
            latents = self.editor.paint(
                picture,
                self.text,
                cells,
                replace(self.settings, strength=strength * self.settings.strength),
                start=start,
                predict=sharing.window(refs, self.settings.chunk, self.notes, new),
                held=torch.stack([key.path for key in seen], 1) if seen else None,
            )
        return self._shaded(latents[extra:], begin, missing)

    def _shaded(self, latents: Tensor, around: Tensor, inside: Tensor) -> Tensor:
        """Decoded, with the shade of what lies around bool `inside` [n, h, w] in pictures [n, h, w, 3], where
        the settings want that."""
        painted = self.decode(latents)
        return seamless(painted, around, inside) if self.settings.seamless else painted

    def encode(self, crop: Tensor) -> Tensor:
        """As the editor's, in its chunks."""
        return self._in_chunks(self.editor.encode, crop)

    def decode(self, latents: Tensor) -> Tensor:
        """As the editor's, in its chunks."""
        return self._in_chunks(self.editor.decode, latents)

    def _in_chunks(self, work: Any, tensor: Tensor) -> Tensor:
        parts, halved = in_chunks(len(tensor), self.settings.chunk, lambda piece: work(tensor[piece]))
        self.notes += halved
        return torch.cat(parts)


def windows_of(route: Route, count: int, video: VideoSettings) -> Iterator[tuple[Span, list[int], list[int]]]:
    """(span, finished frames in it, new frames in it) of each window of a clip in which the place is on."""
    for span in spans(count, video.window, video.shared):
        old = [frame for frame in range(span.start, span.new) if frame in route.boxes]
        new = [frame for frame in range(span.new, span.stop) if frame in route.boxes]
        yield span, old if new else [], new
