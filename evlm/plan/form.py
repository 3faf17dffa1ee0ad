"""The trace's exact form: its types, how they are written, and how exactly that is read back.

    <thinking> ... </thinking>            what is in the pictures, and what is meant
    <intermediate> ... </intermediate>    a first instruction
    <reflection> ... </reflection>        checks it against the reference, keeps or mends it
    <output>                              the plan, one field a line
    instruction: make the red circle blue
    targets: red circle; small star
    scope: local
    mask: box 120 80 430 390 rows 2-5 1-6 0-7 0-7 0-7 0-7 1-6 2-5
    </output>

`parse(render(trace)) == trace` for every trace. Text that would break the grammar is escaped with `\\`: the
backslash itself, the `<` of anything that looks like a tag, line ends in a field, `;` in a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import TraceError

TRACE_VERSION = 1
PROSE = ("thinking", "intermediate", "reflection")
PARTS = (*PROSE, "output")
FIELDS = ("instruction", "targets", "scope", "mask")

Scope = Literal["local", "global"]


def render(trace: Trace) -> str:
    """The exact text of a trace: what the reasoner is trained to write, and all that strict parsing takes."""
    plan = trace.plan
    lines = [f"instruction: {_escape(plan.instruction, _FIELD)}", f"targets: {_render_targets(plan.targets)}"]
    lines.append(f"scope: {plan.scope}")
    if plan.mask_text is not None:
        lines.append(f"mask: {_escape(plan.mask_text, _FIELD)}")
    blocks = [f"<{part}>\n{_escape(getattr(trace, part), _PROSE)}\n</{part}>" for part in PROSE]
    return "\n".join([*blocks, "<output>", *lines, "</output>"])


def parse_exact(text: str) -> Trace:
    """Reads the exact form, in linear time. Raises TraceError, and nothing else."""
    if not isinstance(text, str):
        raise TraceError("trace", 0, f"expected text, got {type(text).__name__}")
    tags, contents, end = _tags(text), {}, 0
    for part in PARTS:
        opening = _expect(f"<{part}>", next(tags, None), part, text)
        if text[end : opening.start()].strip():
            raise TraceError(part, end, f"text before <{part}>, outside the parts")
        closing = _expect(f"</{part}>", next(tags, None), part, text)
        contents[part] = (opening.end(), closing.start())
        end = closing.end()
    if text[end:].strip():
        raise TraceError("trace", end, "text after </output>")
    prose = {part: unescape(text[slice(*contents[part])].strip()) for part in PROSE}
    return Trace(**prose, plan=_parse_plan(text, *contents["output"]))


@dataclass(frozen=True)
class Plan:
    """What to do to the picture.

    instruction: one sentence for the editor. Not empty.
    targets: labels of the things to change, for the detector; empty when the whole picture is meant.
    mask_text: the region in the mask codec's text (see `mask_codec`), unchecked; None: not given.
    scope: "local" (inside a mask) or "global" (the whole frame).
    repairs: what the parser had to mend, in order; not part of the plan's identity.

    White space around a text carries no meaning and is taken off; empty labels are dropped.
    Raises TraceError where a value is of the wrong type, the instruction is empty or the scope unknown.
    """

    instruction: str
    targets: tuple[str, ...] = ()
    mask_text: str | None = None
    scope: Scope = "local"
    repairs: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        instruction = _text(self.instruction, "instruction")
        if not instruction:
            raise TraceError("instruction", 0, "it is empty; the editor needs a sentence")
        if isinstance(self.targets, str) or not isinstance(self.targets, (tuple, list)):
            raise TraceError("targets", 0, f"expected a tuple of labels, got {self.targets!r:.80}")
        labels = (_text(label, "targets") for label in self.targets)
        mask_text = None if self.mask_text is None else _text(self.mask_text, "mask")
        if self.scope not in ("local", "global"):
            raise TraceError("scope", 0, f"expected 'local' or 'global', got {self.scope!r:.80}")
        object.__setattr__(self, "instruction", instruction)
        object.__setattr__(self, "targets", tuple(label for label in labels if label))
        object.__setattr__(self, "mask_text", mask_text or None)
        object.__setattr__(self, "repairs", tuple(_text(note, "trace") for note in self.repairs))


@dataclass(frozen=True)
class Trace:
    """A whole trace. White space around the prose carries no meaning and is taken off; prose may be empty."""

    thinking: str
    intermediate: str
    reflection: str
    plan: Plan

    def __post_init__(self) -> None:
        for part in PROSE:
            object.__setattr__(self, part, _text(getattr(self, part), part))
        if not isinstance(self.plan, Plan):
            raise TraceError("output", 0, f"expected a Plan, got {type(self.plan).__name__}")


# --- escaping ---

# All that the repair path would take for a tag is escaped, not only the exact form. Bounded, so linear.
TAG = r"<[ \t]{0,3}(/?)[ \t]{0,3}(thinking|think|intermediate|reflection|output)[ \t]{0,3}>"
_LOOKS_LIKE_TAG = rf"<(?={TAG[1:]})"
_PROSE = re.compile(rf"\\|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_FIELD = re.compile(rf"[\\\n\r]|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_LABEL = re.compile(rf"[\\\n\r;]|{_LOOKS_LIKE_TAG}", re.IGNORECASE)
_LETTERS = {"\n": "n", "\r": "r"}
_ESCAPED = re.compile(r"\\([\\nr;<])")
_MEANINGS = {"n": "\n", "r": "\r"}


def unescape(text: str) -> str:
    """Undoes the escapes; a backslash before any other character stays as it is."""
    return _ESCAPED.sub(lambda match: _MEANINGS.get(match[1], match[1]), text)


def split_labels(text: str) -> tuple[str, ...]:
    """ "a; b" -> ("a", "b"). "none" alone means no label ("none;" is the label "none")."""
    if text.strip().lower() == "none":
        return ()
    labels, start = [], 0
    for match in re.finditer(r"\\.|;", text, re.DOTALL):
        if match[0] == ";":
            labels.append(text[start : match.start()])
            start = match.end()
    labels.append(text[start:])
    return tuple(unescape(label.strip()) for label in labels if label.strip())


def _escape(text: str, special: re.Pattern[str]) -> str:
    return special.sub(lambda match: "\\" + _LETTERS.get(match[0], match[0]), text)


def _render_targets(targets: tuple[str, ...]) -> str:
    if not targets:
        return "none"
    text = "; ".join(_escape(label, _LABEL) for label in targets)
    return text + ";" if text.lower() == "none" else text


def _text(value: Any, part: str) -> str:
    if not isinstance(value, str):
        raise TraceError(part, 0, f"expected text, got {type(value).__name__}")
    return value.strip()


# --- reading the exact form ---

TOKEN = re.compile(rf"\\.|<(/?)({'|'.join(PARTS)})>", re.DOTALL)


def _tags(text: str) -> Iterator[re.Match[str]]:
    return (match for match in TOKEN.finditer(text) if match[2])


def _expect(wanted: str, tag: re.Match[str] | None, part: str, text: str) -> re.Match[str]:
    if tag is None:
        raise TraceError(part, len(text), f"{wanted} is missing")
    if tag[0] != wanted:
        raise TraceError(part, tag.start(), f"expected {wanted}, found {tag[0]}")
    return tag


def _parse_plan(text: str, start: int, end: int) -> Plan:
    values: dict[str, str] = {}
    offset = start
    for line in text[start:end].split("\n"):
        if line.strip():
            name, colon, value = line.partition(":")
            name = name.strip()
            if not colon or name not in FIELDS:
                expected = f"expected a line of {', '.join(FIELDS)}"
                raise TraceError("output", offset, f"{expected}, got {line.strip()!r:.80}")
            if name in values or any(FIELDS.index(name) < FIELDS.index(seen) for seen in values):
                raise TraceError(name, offset, f"fields come once each, in the order {', '.join(FIELDS)}")
            if name == "scope" and value.strip() not in ("local", "global"):
                raise TraceError("scope", offset, f"expected 'local' or 'global', got {value.strip()!r:.80}")
            if name == "instruction" and not unescape(value).strip():
                raise TraceError("instruction", offset, "it is empty; the editor needs a sentence")
            values[name] = value.strip()
        offset += len(line) + 1
    for name in FIELDS[:3]:
        if name not in values:
            raise TraceError(name, end, f"the line '{name}: ...' is missing")
    mask = unescape(values["mask"]) if "mask" in values else None
    scope: Scope = "global" if values["scope"] == "global" else "local"
    return Plan(unescape(values["instruction"]), split_labels(values["targets"]), mask, scope)
