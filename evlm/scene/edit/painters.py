"""Who paints the views of a scene: an editor of pictures, asked for several views at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...edit.chunks import in_chunks
from ...edit.crop import extract
from ...edit.masked import Work, begin, put_all_back
from ...edit.protocol import EditSettings, OnStep
from .views import EditView


class ViewPainter(Protocol):
    """together: how many views it takes at once."""

    together: int

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        """[H, W, 3] in 0..1 a view; what it holds outside the view's mask is not used.

        current: [H, W, 3] in 0..1, what the scene shows now; painting begins from it where strength, in 0..1,
        is below 1, and looks at `view.source`. draw: which time it is that these are painted, from 1; another
        one is another noise.
        """
        ...


class EditorPainter:
    """An editor (`edit.protocol.Editor`) as a painter of views.

    The views of a draw have one noise, so that what the noise decides is decided alike in all of them. An
    editor that is open in latents looks at the source and begins from what the scene shows; any other is
    given what the scene shows as its picture.

    on_step: of each painting, as `Editor.edit` has it. notes: grows with what the editor says.
    """

    def __init__(
        self,
        editor: Any,
        instruction: str,
        settings: EditSettings | None = None,
        together: int = 8,
        on_step: OnStep | None = None,
    ) -> None:
        self.editor, self.instruction, self.together = editor, instruction, together
        self.settings, self.on_step = settings or editor.defaults, on_step
        self.notes: list[str] = []

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        from ...video.clip import opens

        settings = replace(
            self.settings,
            seed=(self.settings.seed + draw - 1) % 2**63,
            strength=self.settings.strength * strength,
        )
        painted: dict[int, Tensor] = {}
        for alike in _of_one_size(views):
            sources = torch.stack([views[at].source for at in alike]).float().cpu()
            shown = torch.stack([current[at] for at in alike]).float().cpu()
            masks = torch.stack([views[at].mask for at in alike]).float().cpu()
            if settings.strength < 1 and opens(self.editor):
                frames = self._from(sources, shown, masks, settings)
            else:
                given = sources if settings.strength == 1 else shown
                edited = self.editor.edit(given, self.instruction, masks, settings, self.on_step)
                frames = edited.frames
                self._note(edited.notes)
            painted.update(zip(alike, frames, strict=True))
        return [painted[at] for at in range(len(views))]

    @torch.no_grad()
    def _from(self, sources: Tensor, shown: Tensor, masks: Tensor, settings: EditSettings) -> Tensor:
        """[V, H, W, 3]: painted from what is shown, looking at the sources."""
        editor, notes = self.editor, list[str]()
        sources, works = begin(
            sources,
            masks,
            editor.best_resolution,
            editor.full_frame_resolution,
            editor.multiple,
            settings.context,
            notes,
            editor.factor,
        )
        text = editor.read(self.instruction, notes)
        found = []
        done, crops = 0, sum(len(work.which) for work in works)
        for work in works:
            starts = _crops(shown, work)

            def paint(chunk: slice, work: Work = work, starts: Tensor = starts, done: int = done) -> Tensor:
                cells = editor.painted_cells(work)
                told = self._told(done + chunk.start, chunk.stop - chunk.start, crops)
                latents = editor.paint(
                    editor.encode(work.crop[chunk]),
                    text,
                    None if cells is None else cells[chunk],
                    settings,
                    work.crop[chunk],
                    told,
                    start=editor.encode(starts[chunk]),
                )
                pictures: Tensor = editor.decode(latents)
                return pictures

            parts, halved = in_chunks(len(work.crop), settings.chunk, paint)
            notes += halved
            done += len(work.which)
            found.append(torch.cat(parts))
        self._note(notes)
        if not works:
            return sources
        return put_all_back(sources, works, found, settings.feather, settings.seamless)[0]

    def _told(self, first: int, count: int, pictures: int) -> OnStep | None:
        """What `editor.paint` calls for `count` crops of `pictures`, of which `first` are done."""
        on_step = self.on_step
        if on_step is None:
            return None

        def told(step: int, steps: int, preview: Tensor | None) -> None:
            on_step(first * steps + count * step, pictures * steps, preview)

        return told

    def _note(self, notes: Sequence[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]


def _crops(frames: Tensor, work: Work) -> Tensor:
    """[A, h, w, 3]: what frames hold where a work's crops lie."""
    pairs = zip(work.which.tolist(), work.boxes, strict=True)
    return torch.cat([extract(frames[at : at + 1], box) for at, box in pairs])


def _of_one_size(views: Sequence[EditView]) -> list[list[int]]:
    sizes: dict[tuple[int, ...], list[int]] = {}
    for at, view in enumerate(views):
        sizes.setdefault(tuple(view.source.shape), []).append(at)
    return list(sizes.values())
