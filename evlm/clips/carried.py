"""A plan's steps over a clip of any length by keyframes, which are painted first, then carried on.

Keyframes of all steps are the same frames, so that each step finds what the one before made of them. Those
that look at each other lie in one file in the job's folder, there whole or not at all. The frames between
them are read from the clip once more and need no other frames: a run can go on at any window of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..edit.crop import extract
from ..edit.masked import Work
from ..files.pictures import write_atomically
from ..video.agree import agree
from ..video.carried import between, key_spans
from ..video.clip import put
from ..video.propagate import Key, key_of, keyframes, thing_flow
from ..video.windows import Progress, Route, WindowPainter
from .frames import FileFrames
from .steps import step_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..edit.protocol import EditSettings, OnStep
    from ..files.clip_reader import ClipFile
    from ..video.settings import VideoSettings
    from .masks import MaskStore
    from .steps import ClipStep

Known = list[list[dict[int, Key]]]
"""By step, place and frame."""
_PARTS = ("source", "painted", "inside", "path")


@dataclass(frozen=True)
class Stretch:
    """Some keyframes, the first of which the stretch before has, too, and the frames start..stop that are
    carried from them."""

    keys: tuple[int, ...]
    shared: int
    start: int
    stop: int


def stretches(keys: Sequence[int], count: int, window: int) -> list[Stretch]:
    """As `edit_carried` goes through a clip of `count` frames."""
    found, windows, start = [], key_spans(len(keys), window), 0
    for span in windows:
        here = tuple(keys[span.start : span.stop])
        stop = count if span is windows[-1] else here[-1]
        found.append(Stretch(here, span.new - span.start, start, stop))
        start = stop
    return found


class CarriedChain:
    """All steps over a clip by keyframes; as `StepChain`, from frame `begin` on, where a window begins.

    clip: read once for the keyframes, and once more by `source`. folder: for the painted keyframes.
    on_keys: (keyframes that are painted, all of them). on_step: of each step's paintings, as `edit_windows`
    has it.
    """

    def __init__(
        self,
        editor: Any,
        steps: Sequence[ClipStep],
        masks: MaskStore,
        settings: EditSettings,
        video: VideoSettings,
        clip: ClipFile,
        source: FileFrames,
        folder: Path,
        begin: int = 0,
        on_keys: Callable[[int, int], None] | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.clip, self.source, self.folder, self.begin, self.on_keys = clip, source, folder, begin, on_keys
        self.window, self.feather = video.window, settings.feather
        together = video if video.together == "per-frame" else replace(video, together="all")
        self.steps: list[tuple[WindowPainter, list[Route]]] = []
        for step in steps:
            routes = step_routes(editor, step, masks, settings, self.notes)
            text = editor.read(step.instruction, self.notes)
            progress = Progress(on_step, sum(len(route.boxes) for route in routes))
            painter = WindowPainter(editor, text, settings, together, self.notes, progress)
            self.steps.append((painter, routes))
        found = {key for _, routes in self.steps for key in keyframes(routes, video.keyframes)}
        self.keys = sorted(found)
        self.stretches = stretches(self.keys, masks.count, video.window)
        self.notes.append(
            f"{len(self.keys)} of {masks.count} frames are keyframes: the others are carried along the motion"
        )

    def windows(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first frame, frames [n, H, W, 3] that all steps have finished)."""
        self._paint_keys()
        for number, stretch in enumerate(self.stretches):
            known: Known | None = None
            for first in range(stretch.start, stretch.stop, self.window):
                if first < self.begin:
                    continue
                known = known or self._load(number)
                yield first, self._carried(first, min(first + self.window, stretch.stop), known)

    def painted(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(number, the clip's frame, the one that all steps have painted, [H, W, 3]) of each keyframe."""
        self._paint_keys()
        for number, stretch in enumerate(self.stretches):
            known = self._load(number)
            for key in stretch.keys[stretch.shared :]:
                edited = self._carried(key, key + 1, known)[0]
                yield key, self.source.one(key), edited

    def save(self, path: Path, stop: int) -> None:
        """Marks that a later run goes on at frame `stop`: it needs nothing but the keyframes."""
        from safetensors.torch import save

        data = save({"stop": torch.tensor(stop)})
        write_atomically(path, lambda file: file.write(data))

    def _paint_keys(self) -> None:
        reader = FileFrames(self.clip)
        for number, stretch in enumerate(self.stretches):
            if self._path(number).is_file():
                continue
            new = stretch.keys[stretch.shared :]
            pictures = {frame: reader.read(frame, frame + 1)[0] for frame in new}
            earlier = self._load(number - 1) if stretch.shared else self._nothing()
            known = [[_of(place, stretch.keys) for place in step] for step in earlier]
            for (painter, routes), places in zip(self.steps, known, strict=True):
                before_step = dict(pictures)
                for route, keys in zip(routes, places, strict=True):
                    self._paint(painter, route, new, keys, before_step, pictures)
            self._save(number, known)
            del pictures, before_step
            if self.on_keys is not None:
                self.on_keys(self.keys.index(stretch.keys[-1]) + 1 if stretch.keys else 0, len(self.keys))

    def _paint(
        self,
        painter: WindowPainter,
        route: Route,
        frames: Sequence[int],
        known: dict[int, Key],
        pictures: dict[int, Tensor],
        painted_on: dict[int, Tensor],
    ) -> None:
        """One place in keyframes that are new. pictures: [H, W, 3], which the step sees. known, painted_on:
        brought up to date."""
        old, new = list(known), [frame for frame in frames if frame in route.boxes]
        if not new:
            return
        crops = [known[frame].source for frame in old]
        crops += [extract(pictures[frame][None], route.boxes[frame])[0] for frame in new]
        which = old + new
        boxes = tuple(route.boxes[frame] for frame in which)
        mask = None if route.inside is None else route.inside[which]
        work = Work(boxes, torch.arange(len(which)), torch.stack(crops), mask)
        paths = [known[frame].path for frame in old]
        held = torch.stack([path for path in paths if path is not None], 1) if old else None
        path, painted = painter.paint(work, held)
        for at, frame in enumerate(new):
            known[frame] = key_of(work, len(old) + at, painted[at], path[:, len(old) + at])
        if painter.video.agree:
            known |= agree(known, new)
        for frame in new:
            under, crop = painted_on[frame][None], known[frame].painted[None]
            painted_on[frame] = self._put(under, frame, route, [frame], crop)[0]

    def _carried(self, first: int, stop: int, known: Known) -> Tensor:
        frames = self.source.read(first, stop)
        for (painter, routes), places in zip(self.steps, known, strict=True):
            result = frames if len(routes) == 1 else frames.clone()
            for route, keys in zip(routes, places, strict=True):
                which = [frame for frame in range(first, stop) if frame in route.boxes]
                if which:
                    found, _ = between(painter, frames, first, route, which, keys, thing_flow)
                    result = self._put(result, first, route, which, found, own=True)
            frames = result
        return frames

    def _put(
        self, frames: Tensor, first: int, route: Route, which: list[int], painted: Tensor, own: bool = False
    ) -> Tensor:
        work = route.work([frames[frame - first] for frame in which], which)
        return put(frames, first, route, which, work, painted, self.feather, own)

    def _nothing(self) -> Known:
        return [[{} for _ in routes] for _, routes in self.steps]

    def _path(self, number: int) -> Path:
        return self.folder / f"keys-{number:06}.safetensors"

    def _save(self, number: int, known: Known) -> None:
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {"keys": torch.tensor(self.stretches[number].keys)}
        for step, places in enumerate(known):
            for place, keys in enumerate(places):
                for frame, key in keys.items():
                    for part in _PARTS:
                        value = getattr(key, part).cpu().contiguous().clone()
                        tensors[f"{step}.{place}.{frame}.{part}"] = value
        data = save(tensors)
        write_atomically(self._path(number), lambda file: file.write(data))

    def _load(self, number: int) -> Known:
        from safetensors.torch import load

        known, parts = self._nothing(), dict[tuple[int, int, int], dict[str, Tensor]]()
        for name, value in load(self._path(number).read_bytes()).items():
            if name != "keys":
                step, place, frame, part = name.split(".")
                parts.setdefault((int(step), int(place), int(frame)), {})[part] = value
        for (at, where, when), each in sorted(parts.items()):
            known[at][where][when] = Key(**each)
        return known


def _of(keys: dict[int, Key], which: Sequence[int]) -> dict[int, Key]:
    return {frame: key for frame, key in keys.items() if frame in which}
