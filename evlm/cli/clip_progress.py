"""How far a clip's edit is, as the terminal shows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .terminal import Terminal

EVERY = 20.0  # seconds between two lines of progress where nobody watches a bar


class Progress:
    """How far it is, and how long it still takes: a bar where a person watches, else a line now and then."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.what, self.begun, self.first, self.told = "", 0.0, 0, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != self.what:
            self.what, self.begun, self.first, self.told = what, now, done, now
        left = ""
        if done > self.first and done < total:
            left = f", {_duration((now - self.begun) / (done - self.first) * (total - done))} left"
        of = {"tune": "steps", "even": "keyframes"}.get(what, "frames")
        self.terminal.bar(what, done, total, f" {of}{left}")
        if not self.terminal.live and now - self.told >= EVERY:
            self.told = now
            self.terminal.line(f"{what:8}  {done} of {total} {of}{left}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
