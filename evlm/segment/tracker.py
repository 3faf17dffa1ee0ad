"""Objects through a clip by SAM 2: prompted in some frames, followed into all others.

A cut ends every track. An object that is not there has no mask, and a note says from when to when; a detector
that is asked again where one falls away may find it, or others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.amp import autocast

from ..boxes import Box, Corners, bounding_box
from ..errors import ModelError, RequestError
from ..models.load_report import load_folder
from ..models.loading import half_dtype, pick_device, pick_dtype, read_json
from ..models.quantized import check_unquantised
from .clip_frames import Frames, numbers
from .kept import EVERY, Kept
from .memory import HfMemory, Memory, MetaMemory, Session
from .pieces import of_one_thing, seen_last
from .segmenter import model_input
from .tracks import Tracks, colours, is_cut, match

KEYFRAME = 24
"""A detector is asked in every such frame, at cuts, and where an object falls away."""

Find = Callable[[int], Sequence[Box]]
"""Frame number -> the boxes that a detector finds there."""
OnFrame = Callable[[int, int], None]
"""(frames done, frames in all); what it raises (errors.Cancelled) stops the work."""


@dataclass(frozen=True)
class Prompt:
    """What shows an object in one frame: a box, points or a mask. Prompts with one `name` are one object.

    box: x0 y0 x1 y1 in pixels. points: (xy [P, 2] in pixels, kinds [P]: 1 on the object, 0 off it); they may
    go with a box. mask: [H, W], on from 0.5, and then nothing else. label: what it is.
    """

    name: str
    box: Corners | None = None
    points: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    label: str = ""

    def __post_init__(self) -> None:
        """Raises RequestError for prompts that do not go together."""
        if (self.mask is None) == (self.box is None and self.points is None):
            raise RequestError(f"the prompt of {self.name!r}: give a mask, or a box, points or both")


class Tracker:
    """SAM 2's video half. `Tracker.load(source)`, then `track(frames, prompts)`."""

    tidies = True  # pieces that are none of the thing are left out (`pieces.py`)

    def __init__(self, memory: Memory, dtype: torch.dtype = torch.float32) -> None:
        self.memory, self.dtype = memory, dtype
        self.model = memory.model

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        config: str | os.PathLike[str] | None = None,
        backend: Literal["auto", "transformers", "sam2"] = "auto",
    ) -> Tracker:
        """A SAM 2 that tracks: a folder in transformers' layout (`sam2_video`), or a file with Meta's names,
        which runs through the `sam2` package. dtype, device, config: as `Segmenter.load` has them.

        Raises ModelError where the source holds no such model or cannot be run by this backend.
        """
        if backend not in ("auto", "sam2", "transformers"):
            raise ModelError(f"backend {backend!r}: expected auto, sam2 or transformers")
        where = pick_device(device)
        compute = pick_dtype(dtype, half_dtype(where) if where.type == "cuda" else torch.float32)
        path = Path(source)
        if path.is_dir():
            if backend == "sam2":
                raise ModelError(
                    f"{path} is a folder for transformers; the `sam2` package reads Meta's files"
                )
            return cls(HfMemory(_load_folder(path).to(where)), compute)
        if not path.is_file():
            raise ModelError(f"{path} does not exist; expected a SAM 2 folder or file")
        from .sam2_meta import read_meta
        from .sam2_native import available, build_native

        if backend == "transformers" or not available():
            raise ModelError(
                f"{path} has Meta's names: tracking with it needs the `sam2` package (pip install sam2); or "
                "take the model's folder for transformers (sam2_video)"
            )
        return cls(MetaMemory(build_native(read_meta(path), config, video=True).to(where)), compute)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def track(
        self,
        frames: Frames,
        prompts: Mapping[int, Sequence[Prompt]] | None = None,
        find: Find | None = None,
        on_frame: OnFrame | None = None,
        kept: Kept | None = None,
    ) -> Tracks:
        """Follow objects through frames [F, H, W, 3] in 0..1, a tensor or a file's (`ReadFrames`).

        prompts: by frame; several with one name in a frame are one, of the last box and all points. find: a
        detector, asked in keyframes. At least one of the two. An object that is first shown in the middle of
        a shot is followed backward, too: to the shot's first frame where a prompt showed it, to the keyframe
        before where the detector found it. In a later frame points alone correct what is followed there, a
        box or a mask shows the object anew; either holds from that frame on, and those before it keep every
        bit: without the last prompt, the same call takes it back. kept: where what is done goes as it comes;
        the same call goes on from there, with the same bits.
        Raises RequestError for prompts outside the clip, and for a mask that has company.
        """
        prompts = prompts or {}
        if not prompts and find is None:
            raise RequestError("nothing to track: give prompts or a detector")
        outside = [frame for frame in prompts if not 0 <= frame < len(frames)]
        if outside:
            raise RequestError(f"a prompt in frame {outside[0]}: the clip has {len(frames)} frames")
        run = _Run(frames, self._pixels(frames), self.memory, self.dtype, self.device, self.tidies)
        done = 0 if kept is None else run.go_on(kept)
        if run.whole:
            return run.tracks

        def found(frame: int) -> Sequence[Box]:
            assert find is not None
            with autocast(self.device.type, enabled=False):  # a detector computes in its own numbers
                return find(frame)

        with (
            torch.inference_mode(),
            autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            for frame in numbers(frames, done):
                run.pass_on(frame, prompts.get(frame, ()), find and found)
                done = frame + 1
                if kept is not None and done % EVERY == 0:
                    run.keep(kept, done)
                if on_frame is not None:
                    on_frame(done, len(frames))
        run.finish(done)
        if kept is not None:
            run.keep(kept, done)
        return run.tracks

    def _pixels(self, frames: Frames) -> Callable[[int], Tensor]:
        size, last = self.memory.image_size, dict[int, Tensor]()

        def pixels(frame: int) -> Tensor:
            if frame not in last:
                last.clear()
                last[frame] = model_input(frames[frame], size)[0].to(self.device)
            return last[frame]

        return pixels


def can_track(source: Path) -> bool:
    """Whether `Tracker.load` takes what a segmenter is loaded from: a folder of sam2_video, or a file with
    Meta's names where the `sam2` package is installed."""
    if source.is_dir():
        try:
            return bool(read_json(source / "config.json", "a SAM 2 folder").get("model_type") == "sam2_video")
        except ModelError:
            return False
    from .sam2_native import available

    return source.is_file() and available()


def tracker_source(source: Path) -> Path | None:
    """What `Tracker.load` takes for things that this segmenter draws: itself where it can track, else the
    folder "tracker" in its own, of a SAM 2 that was trained on from it; None: there is none."""
    beside = source / "tracker"
    return source if can_track(source) else beside if can_track(beside) else None


def together(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a frame, those with one name as one: the last box, and all points. Raises RequestError
    for a mask beside others of its name."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        before = found.get(prompt.name)
        if before is None:
            found[prompt.name] = prompt
            continue
        if before.mask is not None or prompt.mask is not None:
            raise RequestError(
                f"two prompts of {prompt.name!r} in one frame, and one is a mask: give it alone"
            )
        points = [each.points for each in (before, prompt) if each.points is not None]
        found[prompt.name] = replace(
            before,
            box=before.box if prompt.box is None else prompt.box,
            points=(torch.cat([each[0] for each in points]), torch.cat([each[1] for each in points]))
            if points
            else None,
        )
    return list(found.values())


def box_prompts(boxes: Sequence[Box]) -> dict[int, list[Prompt]]:
    """Boxes as prompts by frame; the n-th of a label in each frame is one object, as `Segmenter` has it."""
    prompts: dict[int, list[Prompt]] = {}
    seen: dict[tuple[str, int], int] = {}
    for box in boxes:
        nth = seen.get((box.label, box.frame), 0)
        seen[box.label, box.frame] = nth + 1
        name = f"{box.label} {nth + 1}" if nth else box.label
        prompts.setdefault(box.frame, []).append(Prompt(name, box.corners, label=box.label))
    return prompts


@dataclass
class _Run:
    """One clip on its way."""

    frames: Frames
    pixels: Callable[[int], Tensor]
    memory: Memory
    dtype: torch.dtype
    device: torch.device
    tidies: bool
    live: dict[int, Session] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    shot: int = 0
    asked: int = -1
    histogram: Tensor | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        count, height, width = self.frames.shape[:3]
        self.tracks = Tracks(count, height, width)
        self.begin = self.memory.begin(self.pixels, count)

    def pass_on(self, frame: int, given: Sequence[Prompt], find: Find | None) -> None:
        """All that happens in one frame."""
        before, self.histogram = self.histogram, colours(self.frames[frame])
        cut = before is not None and is_cut(before, self.histogram)
        if cut:
            if self.live:
                self.tracks.notes.append(f"a cut before frame {frame} ends every track")
            self.live.clear()
            self.numbers.clear()
            self.shot = frame
        first = [self._show(prompt, frame) for prompt in together(given)]
        shown = {number for number, _, _ in first}
        for number in list(self.live):
            self._step(number, frame, frame if number in shown else self.shot)
        for number, prompt, new in first:
            if new:
                self._go_back(number, prompt, frame, self.shot)
        if find is None:
            return
        is_there = self.tracks.there
        fell = frame > 0 and any(is_there(n, frame - 1) and not is_there(n, frame) for n in self.live)
        if frame == 0 or cut or fell or frame % KEYFRAME == 0:
            self._ask(frame, find)
            self.asked = frame

    def _ask(self, frame: int, find: Find) -> None:
        """What the detector finds: objects that are followed already, one that was lost, or a new one."""
        boxes = list(find(frame))
        here = {
            number: corners
            for number in self.live
            if (corners := bounding_box(self.tracks.mask(number, frame))) is not None
        }
        numbers = list(here)
        pairs = match(
            [torch.tensor(box.corners) for box in boxes], [torch.tensor(here[n]).float() for n in numbers]
        )
        for at, box in enumerate(boxes):
            if at in {pair[0] for pair in pairs}:
                continue
            lost = [
                number
                for number in self.live
                if number not in here and self.tracks.labels[number] == box.label
            ]
            if lost:
                self.live[lost[0]].prompt(frame, *self._input(Prompt(box.label, box.corners)))
                here[lost[0]] = bounding_box_of(box)
                self._step(lost[0], frame, self.shot)
                continue
            prompt = Prompt(f"{box.label} {len(self.tracks) + 1}", box.corners, label=box.label)
            number, _, _ = self._show(prompt, frame)
            self._step(number, frame, self.shot)
            self._go_back(number, prompt, frame, max(self.shot, self.asked))

    def _show(self, prompt: Prompt, frame: int) -> tuple[int, Prompt, bool]:
        """(the object's number, the prompt, whether the object is new)."""
        new = prompt.name not in self.numbers
        if new:
            number = self.numbers[prompt.name] = self.tracks.add(prompt.label or prompt.name)
            self.live[number] = self.begin()
        number = self.numbers[prompt.name]
        self.live[number].prompt(frame, *self._input(prompt))
        return number, prompt, new

    def _step(self, number: int, frame: int, since: int) -> None:
        self._put(number, frame, *self.live[number].step(frame), since)

    def _go_back(self, number: int, prompt: Prompt, frame: int, until: int) -> None:
        """From the frame in which an object is first shown to an earlier one."""
        if frame <= until:
            return
        session = self.begin()
        session.prompt(frame, *self._input(prompt))
        session.step(frame)
        for earlier in range(frame - 1, until - 1, -1):
            self._put(number, earlier, *session.step(earlier, reverse=True), frame)

    def _put(self, number: int, frame: int, logits: Tensor, score: float, since: int) -> None:
        """since: the frame from which on it was followed to this one; this one where it was shown here."""
        size = (self.tracks.height, self.tracks.width)
        large = torch.nn.functional.interpolate(logits[None, None].float(), size, mode="bilinear")[0, 0]
        there = ((large > 0) & (score > 0)).cpu()
        if self.tidies and frame != since:
            there = of_one_thing(there, seen_last(self.tracks, number, frame, since))
        self.tracks.put(number, frame, there, float(torch.sigmoid(torch.tensor(score))))

    def _input(self, prompt: Prompt) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """In the model's own pixels."""
        size, (height, width) = self.memory.image_size, self.frames.shape[1:3]
        if prompt.mask is not None:
            mask = torch.nn.functional.interpolate(
                prompt.mask[None, None].float(), (size, size), mode="bilinear", antialias=True
            )[0, 0]
            return None, (mask >= 0.5).float().to(self.device)
        places: list[Tensor] = []
        kinds: list[Tensor] = []
        if prompt.box is not None:  # SAM 2 reads a box as two points of kinds of their own
            places.append(torch.tensor(prompt.box).reshape(2, 2))
            kinds.append(torch.tensor([2, 3]))
        if prompt.points is not None:
            places.append(prompt.points[0].float().cpu())
            kinds.append(prompt.points[1].long().cpu())
        scale = torch.tensor([size / width, size / height])
        points = torch.cat(places) * scale, torch.cat(kinds).to(torch.int32)
        return (points[0].to(self.device), points[1].to(self.device)), None

    def keep(self, kept: Kept, done: int) -> None:
        """All that the frames from number `done` on need, to the disk."""
        state = {name: getattr(self, name) for name in ("numbers", "shot", "asked", "histogram", "whole")}
        state["live"] = {number: session.remembered() for number, session in self.live.items()}
        state |= {"labels": self.tracks.labels, "notes": self.tracks.notes, "frames": done}
        kept.save(self.tracks.news(), state)

    def go_on(self, kept: Kept) -> int:
        """What `keep` wrote; how many frames are done."""
        state = kept.load()
        if state is None:
            return 0
        for name in ("numbers", "shot", "asked", "histogram", "whole"):
            setattr(self, name, state[name])
        for label in state["labels"]:
            self.tracks.add(label)
        self.tracks.notes = state["notes"]
        self.tracks.take(state["masks"])
        for number, each in state["live"].items():
            self.live[number] = self.begin()
            self.live[number].restore(each)
        if self.whole:
            self.tracks.end(state["frames"])
        return int(state["frames"])

    def finish(self, count: int) -> None:
        """The clip has so many frames. Notes on objects that were away."""
        self.whole = True
        self.live.clear()
        self.tracks.end(count)
        there = self.tracks.present
        for number, label in enumerate(self.tracks.labels):
            for first, last in self.tracks.gaps(number):
                self.tracks.notes.append(
                    f"{label!r} is away from frame {first} to {last}: these stay as they are"
                )
            if not bool(there[number].any()):
                self.tracks.notes.append(f"{label!r} was never seen where it was shown")


def bounding_box_of(box: Box) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box.corners
    return round(x0), round(y0), round(x1), round(y1)


def _load_folder(folder: Path) -> Any:
    config = read_json(folder / "config.json", "a SAM 2 folder in transformers' layout")
    kind = config.get("model_type")
    if kind != "sam2_video":
        what = "segments pictures and has no memory" if kind == "sam2" else f"is a {kind!r}"
        raise ModelError(f"the model in {folder} {what}; a tracker is sam2_video")
    check_unquantised(folder, config, "a tracker")
    from transformers import Sam2VideoModel

    return load_folder(Sam2VideoModel, folder, "the tracker")
