"""How far a clip's edit is, as the terminal shows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .terminal import Terminal

EVERY = 20.0  # seconds between two lines of progress where nobody watches a bar


class Progress:
    """How far it is, and how long it still takes: a bar where a person watches, else a line now and then."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.what, self.begun, self.first, self.told = "", 0.0, 0, time.perf_counter()
        self.shown = ("", 0, 0, "")  # the bar of what is finished

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != self.what:
            self.what, self.begun, self.first, self.told = what, now, done, now
        left = ""
        if done > self.first and done < total:
            left = f", {_duration((now - self.begun) / (done - self.first) * (total - done))} left"
        of = {"tune": "steps", "even": "keyframes"}.get(what, "frames")
        self.shown = (what, done, total, f" {of}{left}")
        self.terminal.bar(*self.shown)
        self._line(f"{what:8}  {done} of {total} {of}{left}")

    def step(self, done: int, total: int, preview: Tensor | None) -> None:
        """A step of a painting is done: frames are finished a window at a time, which may take minutes."""
        what, frames, count, said = self.shown
        if what in ("edit", "keyframes"):
            self.terminal.bar(what, frames, count, f"{said} (step {done} of {total})")
        else:
            self.terminal.bar("paint", done, total, " steps")
        self._line(f"{'paint':8}  step {done} of {total}")

    def _line(self, text: str) -> None:
        now = time.perf_counter()
        if not self.terminal.live and now - self.told >= EVERY:
            self.told = now
            self.terminal.line(text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
