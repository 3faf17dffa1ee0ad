"""The trace: what the reasoner writes, and the plan inside it. Its exact form is described in `form`.

`render` writes it; `parse` reads it from any text, `TraceStream` while it is being written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import RefusalError, TraceError
from .answers import is_refusal
from .form import PARTS, PROSE, TRACE_VERSION, Plan, Scope, Trace, Trust, parse_exact, render, unescape
from .parts import THOUGHT_BEGIN, THOUGHT_END, THOUGHTS
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
    "Trust",
    "parse",
    "plan_from_json",
    "plan_to_json",
    "render",
    "with_trust",
]


def parse(text: str, repair: bool = True, finished: bool = True, parts: Sequence[str] = PARTS) -> Trace:
    """Reads a trace from any text, in linear time.

    repair: mend what a model that was never tuned on the form gets wrong (missing tags, code fences, JSON,
        prose around the trace, capitals, missing fields that follow from the others) and name each repair in
        `plan.repairs`. Without it only the exact form is accepted. The exact form is never repaired.
    finished: False where the model was cut off; only a plan that was done by then is taken.
    parts: those that the model was asked for, of which none is missed otherwise.
    Raises TraceError, and nothing else; of these RefusalError where the model says that it will not. The mask
    text is not checked here: decoding it is up to `mask_codec`. A last line as `with_trust` adds it is the
    plan's trust; without one it is "tuned".
    """
    if isinstance(text, str) and (said := _TRUST.search(text)):
        trace = _parse(text[: said.start()], repair, finished, parts)
        trust: Trust = "base" if said[1] == "base" else "tuned"
        return replace(trace, plan=replace(trace.plan, trust=trust))
    return _parse(text, repair, finished, parts)


def _parse(text: str, repair: bool, finished: bool, parts: Sequence[str]) -> Trace:
    try:
        trace = parse_exact(text, parts)
    except TraceError:
        if not repair or not isinstance(text, str):
            raise
        return parse_loosely(text, finished, parts)
    if is_refusal(trace.plan.instruction):
        offset = text.rindex("instruction:")
        raise RefusalError("instruction", offset, f"the model refuses: {trace.plan.instruction!r:.200}")
    return trace


def with_trust(text: str, plan: Plan) -> str:
    """A trace's text, as `render` or the model wrote it, with a line behind it where the plan's trust is
    "base". Of other plans, and so of all that a model is trained on, the text stays as it is."""
    bare = _TRUST.sub("", text)
    return f"{bare.rstrip()}\ntrust: base" if plan.trust == "base" else bare


_TRUST = re.compile(r"\n[ \t]{0,9}trust:[ \t]{0,9}(base|tuned)\s{0,99}\Z")


class StreamEvent(NamedTuple):
    """A piece of text, of the part "thinking", "intermediate", "reflection", "output", or "" outside them."""

    part: str
    text: str


class TraceStream:
    """Cuts a growing text into its parts, in linear time.

    The pieces of one part, joined, are the part's text as `parse` reads it, however the text was cut on
    arrival: tags removed, escapes resolved (in <output> they are left to the fields), no white space around.
    What a model thinks before its answer, inside <think> ... </think> and its kin, belongs to no part: tags
    are only talked about there.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._rest = ""  # arrived, but may be the beginning of a tag
        self._part = ""
        self._may_think = True  # until the first part begins
        self._thinking = False
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
        start = max(0, len(text) - _LONGEST)
        for begin in _TAG_BEGIN.finditer(text, start):
            tail = text[begin.start() :]
            if tail in _BEGINNINGS or (self._may_think and tail.lower() in _THOUGHT_BEGINNINGS):
                before = text[: begin.start()]
                slashes = len(before) - len(before.rstrip("\\"))
                return len(text) if slashes % 2 else begin.start()  # an escaped character decides nothing
        return len(text)

    def _read(self, text: str) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        start = 0
        for token in _STREAM_TOKEN.finditer(text):
            if not self._is_tag(token):
                continue
            self._show(text[start : token.start()], events)
            self._part = token["part"] if token["part"] and not token["slash"] else ""
            self._thinking = token["begin"] is not None
            self._may_think = self._may_think and token["part"] is None
            self._begun, self._blank = False, []
            start = token.end()
        self._show(text[start:], events)
        return events

    def _is_tag(self, token: re.Match[str]) -> bool:
        """Whether it changes the part, where it stands."""
        if self._thinking:
            return token["end"] is not None
        return token["part"] is not None or (self._may_think and token["begin"] is not None)

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
    """The plan as one line of JSON; `plan_from_json` gives the same plan back, with its repairs, trust and
    confidence. Older versions read it too; they leave the last two out, and of several steps take all as one
    edit."""
    data = {
        "version": TRACE_VERSION,
        **_plan_data(plan),
        "repairs": list(plan.repairs),
        **({"trust": plan.trust} if plan.trust != "tuned" else {}),
        **({} if plan.confidence is None else {"confidence": plan.confidence}),
        **({"steps": [_plan_data(step) for step in plan.several]} if plan.several else {}),
    }
    return json.dumps(data)


def _plan_data(plan: Plan) -> dict[str, Any]:
    return {
        "instruction": plan.instruction,
        "targets": list(plan.targets),
        "scope": plan.scope,
        "mask": plan.mask_text,
    }


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
    repairs, steps = data.get("repairs", []), data.get("steps", [])
    if not isinstance(repairs, list) or not isinstance(steps, list):
        raise TraceError("json", 0, "repairs and steps must be lists")
    if not all(isinstance(step, dict) for step in steps):
        raise TraceError("json", 0, "each step must be an object")
    plan = Plan.of_steps([_plan_of(step) for step in steps]) if steps else _plan_of(data)
    trust, sure = data.get("trust", "tuned"), data.get("confidence")
    return replace(plan, repairs=tuple(repairs), trust=trust, confidence=sure)


def _plan_of(data: dict[str, Any]) -> Plan:
    if "instruction" not in data:
        raise TraceError("instruction", 0, "it is missing")
    targets = data.get("targets", [])
    if not isinstance(targets, list):
        raise TraceError("json", 0, "targets must be a list")
    return Plan(data["instruction"], tuple(targets), data.get("mask"), data.get("scope", "local"))


_STREAM_TOKEN = re.compile(
    rf"\\.|<(?P<slash>/?)(?P<part>{'|'.join(PARTS)})>|(?i:(?P<begin>{THOUGHT_BEGIN})|(?P<end>{THOUGHT_END}))",
    re.DOTALL,
)
# What may yet become a tag or an escape, at the end of what has arrived.
_TAGS = [tag for part in PARTS for tag in (f"<{part}>", f"</{part}>")]
_THOUGHT_TAGS = [tag for pair in THOUGHTS for tag in pair]
_BEGINNINGS = {"\\", *(tag[:end] for tag in _TAGS for end in range(1, len(tag)))}
_THOUGHT_BEGINNINGS = {tag[:end].lower() for tag in _THOUGHT_TAGS for end in range(1, len(tag))}
_TAG_BEGIN = re.compile(r"[<\[\u25c1\\]")
_LONGEST = max(map(len, [*_TAGS, *_THOUGHT_TAGS]))
