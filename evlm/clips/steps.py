"""The steps of a plan over a clip: each paints, window by window, what the one before it has finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..edit.follow import follow
from ..files.pictures import write_atomically
from ..plan.form import COMPOUND
from ..video.clip import Finished, Read, edit_windows, opens, route
from ..video.windows import Route, spans
from .frames import FileFrames, FinishedFrames
from .masks import MaskStore, MaskView

if TYPE_CHECKING:
    from ..edit.protocol import Editor, EditSettings, OnStep
    from ..plan.trace import Plan
    from ..video.settings import VideoSettings

_AT_ONCE = (
    1 << 26
)  # pixels of a clip whose masks are looked at together; of a longer one all places share a crop


@dataclass(frozen=True)
class ClipStep:
    """One painting of the whole clip. steps: of the plan, which it does."""

    instruction: str
    steps: tuple[int, ...]


def clip_steps(plan: Plan, editor: Editor) -> list[ClipStep]:
    """What is painted one after the other, as `edit_steps` does it."""
    at_work = [(at, step) for at, step in enumerate(plan.steps) if not step.changes_nothing]
    if len(at_work) > 1 and not getattr(editor, "steps", True):
        sentence = COMPOUND.join(step.instruction for _, step in at_work)
        return [ClipStep(sentence, tuple(at for at, _ in at_work))]
    return [ClipStep(step.instruction, (at,)) for at, step in at_work]


class StepChain:
    """All steps over a clip, from frame `begin` on, which is where a window begins to be new.

    state: what `save` wrote when that window was reached. on_step: as `edit_windows` has it.
    """

    def __init__(
        self,
        editor: Editor,
        steps: Sequence[ClipStep],
        masks: MaskStore,
        settings: EditSettings,
        video: VideoSettings,
        source: FileFrames,
        begin: int = 0,
        state: Path | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.video, self.begin, self._on_step = video, begin, on_step
        self._steps: list[tuple[FinishedFrames, list[Route]]] = []
        kept = _load(state)
        read: Read = source.read
        for number, step in enumerate(steps):
            routes = step_routes(editor, step, masks, settings, self.notes)
            carry = tuple(_carry(kept, number, place) for place in range(len(routes)))
            frames = self._painted(editor, step, masks, settings, routes, read, carry)
            tail = kept.get(f"tail.{number}")
            overlap = self._overlap if number < len(steps) - 1 else 0  # nobody reads on from the last one
            finished = FinishedFrames(frames, overlap, begin - (0 if tail is None else len(tail)), tail)
            self._steps.append((finished, routes))
            read = finished.read
        self._read, self._count = read, masks.count

    def windows(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first frame, frames [n, H, W, 3] that all steps have finished)."""
        for span in spans(self._count, self.video.window, self._overlap):
            if span.new >= self.begin:
                yield span.new, self._read(span.new, span.stop)

    def save(self, path: Path, stop: int) -> None:
        """What a later run needs to go on at frame `stop`, atomically."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {"stop": torch.tensor(stop)}
        for number, (frames, _) in enumerate(self._steps):
            for place, latents in enumerate(frames.carry):
                tensors |= {f"{number}.{place}.{frame}": each for frame, each in latents.items()}
            tail = frames.tail(stop)
            if number < len(self._steps) - 1 and len(tail):
                tensors[f"tail.{number}"] = tail
        data = save({name: each.contiguous().clone() for name, each in tensors.items()})
        write_atomically(path, lambda file: file.write(data))

    @property
    def _overlap(self) -> int:
        return self.video.shared

    def _painted(
        self,
        editor: Any,
        step: ClipStep,
        masks: MaskStore,
        settings: EditSettings,
        routes: list[Route],
        read: Read,
        carry: tuple[dict[int, Tensor], ...],
    ) -> Iterator[Finished]:
        if opens(editor) and routes:
            yield from edit_windows(
                editor,
                read,
                masks.count,
                step.instruction,
                routes,
                settings,
                self._on_step,
                self.video,
                self.notes,
                self.begin,
                carry,
                own=True,
            )
            return
        for span in spans(masks.count, self.video.window, self._overlap):
            if span.new < self.begin:
                continue
            yield self._alone(editor, step, masks, settings, read(span.new, span.stop), span.new)

    def _alone(
        self,
        editor: Any,
        step: ClipStep,
        masks: MaskStore,
        settings: EditSettings,
        frames: Tensor,
        first: int,
    ) -> Finished:
        """Frames that need no others: of an editor that is not open in latents, or with nothing to paint."""
        if opens(editor):
            return Finished(first, frames, frames[:0], ())
        which = range(first, first + len(frames))
        mask = None if masks.whole(step.steps) else masks.some(step.steps, which).float()
        edited = editor.edit(frames, step.instruction, mask, settings=settings)
        self.notes += edited.notes
        return Finished(first, edited.frames, edited.crops, ())


def step_routes(
    editor: Any, step: ClipStep, masks: MaskStore, settings: EditSettings, notes: list[str]
) -> list[Route]:
    """As `place_routes`; none for an editor that is not open in latents."""
    return place_routes(editor, step.steps, masks, settings, notes) if opens(editor) else []


def place_routes(
    editor: Any, steps: Sequence[int], masks: MaskStore, settings: EditSettings, notes: list[str]
) -> list[Route]:
    """The places of steps in the whole clip; of a long one their masks stay on the disk. editor: the sizes
    that it paints. notes: grows."""
    count, height, width = masks.count, masks.height, masks.width
    blank = torch.empty(1, height, width, 3)
    if masks.whole(steps):
        return route(blank, count, None, editor, settings, notes)
    if count * height * width <= _AT_ONCE:
        on = masks.some(steps, range(count)).float()
        return route(blank, count, on, editor, settings, notes)
    track = masks.track(steps)
    at_work = [frame for frame, corners in enumerate(track) if corners is not None]
    if not at_work:
        notes.append("the mask is empty: nothing to edit")
        return []
    if len(at_work) < count:
        notes.append(f"{count - len(at_work)} of {count} frames have an empty mask and stay as is")
    boxes = follow(
        track, height, width, settings.context, editor.best_resolution, editor.multiple, editor.factor
    )
    view = cast("Tensor", MaskView(masks, tuple(steps)))  # a route asks it for frames, and for no more
    return [Route(view, dict(zip(at_work, boxes, strict=True)))]


def _load(path: Path | None) -> dict[str, Tensor]:
    if path is None:
        return {}
    from safetensors.torch import load

    return load(path.read_bytes())


def _carry(kept: dict[str, Tensor], number: int, place: int) -> dict[int, Tensor]:
    head = f"{number}.{place}."
    return {int(name[len(head) :]): each for name, each in kept.items() if name.startswith(head)}
