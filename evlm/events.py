"""What a run says while it works: one `Event` after another, to whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

STEPS = ("reason", "ground", "segment", "edit")
Step = Literal["reason", "ground", "segment", "edit"]


@dataclass(frozen=True)
class Event:
    """What is happening, for whoever watches.

    kind: "start" and "end" of a step (end: `text` sums it up in a few words); "text" a piece of what the
    reasoner writes; "progress" `done` of `total` editing steps, with a preview [F, h, w, 3] where there is
    one, or in "segment" of the frames that a tracker goes through; "note" a decision.
    """

    step: Step
    kind: Literal["start", "text", "progress", "note", "end"]
    text: str = ""
    done: int = 0
    total: int = 0
    preview: Tensor | None = None


OnEvent = Callable[[Event], None]


class Watch:
    """Times the steps and tells whoever listens."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    @contextmanager
    def step(self, name: Step) -> Iterator[Callable[[str], None]]:
        summary: list[str] = []
        self._tell(Event(name, "start"))
        began = time.perf_counter()
        yield summary.append
        self.seconds[name] = time.perf_counter() - began
        self._tell(Event(name, "end", " ".join(summary)))

    def text(self, piece: str) -> None:
        self._tell(Event("reason", "text", piece))

    def progress(self, done: int, total: int, preview: Tensor | None) -> None:
        self._tell(Event("edit", "progress", done=done, total=total, preview=preview))

    def looked(self, done: int, total: int) -> None:
        self._tell(Event("segment", "progress", done=done, total=total))

    def note(self, step: Step, notes: list[str]) -> None:
        self.notes += notes
        for text in notes:
            self._tell(Event(step, "note", text))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
