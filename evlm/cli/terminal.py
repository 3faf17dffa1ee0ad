"""What `python -m evlm` and the demo show while they work: the trace as it is written, a bar, one line for
each step."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import warnings
from typing import TYPE_CHECKING, TextIO

from ..errors import one_line
from ..plan.trace import PROSE, TraceStream

if TYPE_CHECKING:
    from ..pipeline import Event, Result

BAR, INDENT = 28, 16
_BLOCK = "\u2588"  # no character stands in our Python files that cp1252 lacks


class Terminal:
    """Shows the events of one run after another. Colour and a moving bar only where a person is watching."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.colour = self.live and "NO_COLOR" not in os.environ
        self._stream = TraceStream()
        self._part = ""
        self._bar = False
        self._column = 0  # where an unfinished line of the trace stands; 0: nothing is unfinished
        self._space = True

    def event(self, event: Event) -> None:
        """Show one event; give this to `Pipeline.run`."""
        if event.kind == "start" and event.step == "reason":
            self._stream, self._part = TraceStream(), ""
        elif event.kind == "text":
            for piece in self._stream.feed(event.text):
                self._trace(piece.part, piece.text)
        elif event.kind == "progress":
            self.bar(event.step, event.done, event.total)
        elif event.kind == "note":
            self.note(event.text)
        elif event.kind == "end":
            self.line(f"{self.strong(f'{event.step:8}')}  {event.text}")

    def note(self, text: str) -> None:
        """A decision, or what was lost on the way."""
        self.line(self.faint(f"{'':10}note: {text}"))

    def summary(self, result: Result) -> None:
        """Time for each step, and altogether."""
        steps = " · ".join(f"{step} {seconds:.2f} s" for step, seconds in result.seconds.items())
        self.line(self.faint(f"{'time':8}  {steps} · together {sum(result.seconds.values()):.2f} s"))

    def line(self, text: str = "") -> None:
        """One line of its own, after whatever stands there unfinished."""
        self._close()
        print(text, file=self.out, flush=True)

    def bar(self, name: str, done: int, total: int, unit: str = "") -> None:
        """A bar that stays in its line; nothing where nobody watches."""
        if not self.live:
            return
        full = round(BAR * done / max(total, 1))
        text = f"{name:8}  [{_BLOCK * full}{'·' * (BAR - full)}] {done}/{total}{unit}"
        print(f"\r{text}\033[K", end="", file=self.out, flush=True)  # a longer one may have stood there
        self._bar = True

    def strong(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self.colour else text

    def faint(self, text: str) -> str:
        return f"\033[2m{text}\033[0m" if self.colour else text

    def _trace(self, part: str, text: str) -> None:
        if part not in PROSE or not text:
            return
        if part != self._part:
            self._close()
            self._part, self._column, self._space = part, INDENT - 1, True
            print(f"  {self.faint(f'{part:{INDENT - 3}}')}", end="", file=self.out)
        width = max(40, min(110, shutil.get_terminal_size().columns))
        for token in re.findall(r"\s+|\S+", text):
            if token.isspace():
                self._space = True
                continue
            if self._space and self._column + 1 + len(token) > width:
                print(f"\n{'':{INDENT}}", end="", file=self.out)
                self._column = INDENT
            elif self._space:
                print(" ", end="", file=self.out)
                self._column += 1
            print(token, end="", file=self.out)
            self._column, self._space = self._column + len(token), False
        self.out.flush()

    def _close(self) -> None:
        if self._bar:
            print("\r\033[K", end="", file=self.out)
        elif self._column:
            print(file=self.out)
        self._bar, self._column = False, 0


def quiet_libraries() -> None:
    """Keep the libraries' own bars and warnings off the screen; must come before they are imported."""
    for name, value in (
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
    ):
        os.environ.setdefault(name, value)
    if not sys.warnoptions:  # whoever asked Python for warnings gets them
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)


_LIBRARIES = (
    r"(torch|torchvision|transformers|diffusers|peft|accelerate|huggingface_hub|sam2|hydra|timm)(\.|$)"
)


def fail(message: str, out: TextIO | None = None) -> int:
    """Print an error, as one line, or as one paragraph where a person watches; returns the exit code 2."""
    out = out or sys.stderr
    text = f"error: {one_line(message)}"
    if out.isatty():
        text = textwrap.fill(
            text, 100, subsequent_indent="       ", break_long_words=False, break_on_hyphens=False
        )
    print(text, file=out)
    return 2
