"""The trace: what the reasoner writes, and the plan inside it. Its exact form is described in `form`.

`render` writes it; `parse` reads it from any text, `TraceStream` while it is being written.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ..errors import TraceError
from .form import PARTS, PROSE, TOKEN, TRACE_VERSION, Plan, Scope, Trace, parse_exact, render, unescape
from .repair import parse_loosely

__all__ = [
    "PARTS",
    "PROSE",
    "TRACE_VERSION",
    "Plan",
    "Scope",
    "StreamEvent",
    "Trace",
    "TraceStream",
    "parse",
    "plan_from_json",
    "plan_to_json",
    "render",
]


def parse(text: str, repair: bool = True) -> Trace:
    """Reads a trace from any text, in linear time.

    repair: mend what a model that was never tuned on the form gets wrong (missing tags, code fences, JSON,
        prose around the trace, capitals, missing fields that follow from the others) and name each repair in
        `plan.repairs`. Without it only the exact form is accepted. The exact form is never repaired.
    Raises TraceError, and nothing else. The mask text is not checked here: decoding it is up to `mask_codec`.
    """
    try:
        return parse_exact(text)
    except TraceError:
        if not repair or not isinstance(text, str):
            raise
    return parse_loosely(text)


class StreamEvent(NamedTuple):
    """A piece of text, of the part "thinking", "intermediate", "reflection", "output", or "" outside them."""

    part: str
    text: str


class TraceStream:
    """Cuts a growing text into its parts, in linear time.

    The pieces of one part, joined, are the part's text as `parse` reads it, however the text was cut on
    arrival: tags removed, escapes resolved (in <output> they are left to the fields), no white space around.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._rest = ""  # arrived, but may be the beginning of a tag
        self._part = ""
        self._begun = False  # has this part shown anything but white space?
        self._blank: list[str] = []  # white space that is shown only when more text of the part follows

    @property
    def text(self) -> str:
        """All that has arrived."""
        return "".join(self._pieces)

    def feed(self, text: str) -> list[StreamEvent]:
        """Takes the next piece of the text; gives the events that it settles. Raises nothing."""
        self._pieces.append(text)
        text = self._rest + text
        cut = self._undecided(text)
        self._rest = text[cut:]
        return self._read(text[:cut])

    def finish(self, repair: bool = True) -> Trace:
        """Parses everything that has arrived, as `parse` does. Raises TraceError."""
        return parse(self.text, repair)

    def _undecided(self, text: str) -> int:
        """Where the tail begins that cannot be read yet."""
        tail = _UNDECIDED.search(text, max(0, len(text) - _LONGEST))
        if not tail:
            return len(text)
        before = text[: tail.start()]
        slashes = len(before) - len(before.rstrip("\\"))
        return len(text) if slashes % 2 else tail.start()  # an escaped character decides nothing

    def _read(self, text: str) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        start = 0
        for token in TOKEN.finditer(text):
            if not token[2]:
                continue
            self._show(text[start : token.start()], events)
            self._part = "" if token[1] else token[2]
            self._begun, self._blank = False, []
            start = token.end()
        self._show(text[start:], events)
        return events

    def _show(self, text: str, events: list[StreamEvent]) -> None:
        kept = text.rstrip()
        if not kept:
            if self._begun:
                self._blank.append(text)
            return
        piece = "".join(self._blank) + kept if self._begun else kept.lstrip()
        self._begun, self._blank = True, [text[len(kept) :]]
        events.append(StreamEvent(self._part, unescape(piece) if self._part in PROSE else piece))


def plan_to_json(plan: Plan) -> str:
    """The plan as one line of JSON; `plan_from_json` gives the same plan back, its repairs included."""
    data = {
        "version": TRACE_VERSION,
        "instruction": plan.instruction,
        "targets": list(plan.targets),
        "scope": plan.scope,
        "mask": plan.mask_text,
        "repairs": list(plan.repairs),
    }
    return json.dumps(data)


def plan_from_json(text: str) -> Plan:
    """Reads what `plan_to_json` wrote. Raises TraceError, and nothing else."""
    if not isinstance(text, str):
        raise TraceError("json", 0, f"expected text, got {type(text).__name__}")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TraceError("json", error.pos, f"not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; thousands of brackets
        raise TraceError("json", 0, f"not usable JSON: {error}") from None
    if not isinstance(data, dict):
        raise TraceError("json", 0, f"expected an object, got {type(data).__name__}")
    if data.get("version") != TRACE_VERSION:
        raise TraceError(
            "json", 0, f"version {data.get('version')!r:.40}, this evlm reads version {TRACE_VERSION}"
        )
    if "instruction" not in data:
        raise TraceError("instruction", 0, "it is missing")
    targets, repairs = data.get("targets", []), data.get("repairs", [])
    if not isinstance(targets, list) or not isinstance(repairs, list):
        raise TraceError("json", 0, "targets and repairs must be lists")
    scope = data.get("scope", "local")
    return Plan(data["instruction"], tuple(targets), data.get("mask"), scope, tuple(repairs))


# What may yet become a tag or an escape, at the end of what has arrived.
_TAGS = [tag for part in PARTS for tag in (f"<{part}>", f"</{part}>")]
_BEGINNINGS = sorted({re.escape(tag[:end]) for tag in _TAGS for end in range(1, len(tag))})
_UNDECIDED = re.compile(rf"(?:\\|{'|'.join(_BEGINNINGS)})\Z")
_LONGEST = max(map(len, _TAGS))
