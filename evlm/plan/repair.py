"""Finds the plan in what a model wrote that was never tuned on the form. Each repair is named in the plan."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from ..errors import TraceError
from .form import FIELDS, PARTS, PROSE, TAG, Plan, Scope, Trace, split_labels, unescape

# Names that untuned models use for the plan's fields.
_ALIASES = {
    "instruction": (
        "instruction",
        "edit_instruction",
        "editing_instruction",
        "final_instruction",
        "edit",
        "prompt",
    ),
    "targets": ("targets", "target", "labels", "label", "objects", "object"),
    "scope": ("scope",),
    "mask": ("mask", "mask_text", "box", "bbox", "region"),
}
_FIELD_OF = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_ANY_ALIAS = "|".join(sorted((alias.replace("_", "[_ ]") for alias in _FIELD_OF), key=len, reverse=True))
# "instruction: x", "- **Targets:** x", "SCOPE = x"
_FIELD_LINE = re.compile(
    rf"[\s>#*\-\"']{{0,8}}({_ANY_ALIAS})[\s*\"']{{0,4}}[:=][\s*]{{0,4}}(.*)", re.IGNORECASE
)
_TOKEN = re.compile(rf"\\.|{TAG}", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(
    r"^[ \t#*]{0,8}(thinking|think|intermediate|reflection|output)[ \t*]{0,4}:?[ \t*]{0,4}$",
    re.IGNORECASE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]{0,8}(?:```|~~~)[\w+-]{0,20}[ \t]{0,8}\r?$", re.MULTILINE)
_MAX_JSON_STARTS = 64  # each start may read to the end of the text; a fixed number of them keeps that linear


def parse_loosely(text: str) -> Trace:
    """A trace from any text that holds a plan in some form. Raises TraceError, and nothing else."""
    notes: list[str] = []
    text = _without_fences(text, notes)
    parts = _parts(text, notes)
    plan = _plan(parts, text, notes)
    notes += [f"<{part}> is missing: taken as empty" for part in PROSE if part not in parts]
    prose = {part: unescape(parts[part].text.strip()) if part in parts else "" for part in PROSE}
    return Trace(**prose, plan=replace(plan, repairs=tuple(dict.fromkeys(notes))))


@dataclass
class _Part:
    text: str
    offset: int


def _without_fences(text: str, notes: list[str]) -> str:
    """Code fences become blanks of the same length: offsets stay true."""
    cleaned, count = _FENCE.subn(lambda fence: " " * len(fence[0]), text)
    if count:
        notes.append("code fence removed")
    return cleaned


# --- parts ---


def _parts(text: str, notes: list[str]) -> dict[str, _Part]:
    """The four parts as far as they are there, by tags in any case and order, or else by headings."""
    marks = [(token.start(), token.end(), token[1], token[2]) for token in _TOKEN.finditer(text) if token[2]]
    if any(text[start:end] != f"<{slash}{name}>" or name not in PARTS for start, end, slash, name in marks):
        notes.append("tag spelling mended")
    if not marks:
        marks = [(line.start(), line.end(), "", line[1]) for line in _HEADING.finditer(text)]
        if marks:
            notes.append("headings read as tags")
    parts: dict[str, _Part] = {}
    current: str | None = None
    start = 0
    for mark_start, mark_end, slash, name in [*marks, (len(text), len(text), "", "")]:
        name = name.lower()
        name = "thinking" if name == "think" else name  # what R1-like models write
        content = _Part(text[start:mark_start], start)
        closed = bool(slash) and name == current
        if current is not None:
            if not closed:
                notes.append(f"</{current}> was missing")
            _keep(parts, current, content, closed, notes)
        elif slash and name not in parts:
            notes.append(f"<{name}> was missing")
            _keep(parts, name, content, True, notes)
        elif slash:
            notes.append(f"a second </{name}> left out")
        elif content.text.strip() and marks:  # without any part the plan is looked for in the whole text
            where = "before" if not parts else "after" if len(parts) == len(PARTS) else "between"
            notes.append(f"text {where} the parts left out")
        current = None if slash or not name else name
        start = mark_end
    if list(parts) != [part for part in PARTS if part in parts]:
        notes.append("order of the parts mended")
    return parts


def _keep(parts: dict[str, _Part], name: str, content: _Part, closed: bool, notes: list[str]) -> None:
    """The first of several counts; of outputs the last closed one: drafts come first, repeats last."""
    if name in parts:
        notes.append(f"<{name}> came twice: the {'last' if name == 'output' else 'first'} one counts")
        if name != "output" or not closed or not content.text.strip():
            return
    parts[name] = content


# --- the plan ---


def _plan(parts: dict[str, _Part], text: str, notes: list[str]) -> Plan:
    if "output" in parts:
        source = parts["output"]
    else:
        source = _Part(text, 0)
        notes.append("<output> was missing")
    data = _json_object(source.text)
    if data is not None:
        notes.append("JSON read as the plan")
        if "output" not in parts:
            data = _prose_from_json(data, parts, notes)
        values = _fields_from_json(data, notes)
    else:
        values = _fields_from_lines(source.text, notes)
        if not values and "output" in parts and source.text.strip():
            notes.append("the whole <output> read as the instruction")
            values = {"instruction": " ".join(unescape(source.text).split())}
    if not values:
        raise TraceError(
            "output", source.offset + len(source.text), "no plan found: no <output>, no fields, no JSON"
        )
    return _build(values, parts, source, notes)


def _build(values: dict[str, Any], parts: dict[str, _Part], source: _Part, notes: list[str]) -> Plan:
    instruction = values.get("instruction", "")
    if not instruction.strip():
        intermediate = unescape(parts["intermediate"].text).split() if "intermediate" in parts else []
        if not intermediate:
            reason = "it is missing, and there is no <intermediate> to take it from"
            raise TraceError("instruction", source.offset, reason)
        notes.append("instruction was missing: taken from <intermediate>")
        instruction = " ".join(intermediate)
    if "targets" not in values:
        notes.append("targets were missing: none")
    targets: tuple[str, ...] = values.get("targets", ())
    mask_text: str | None = values.get("mask")
    return Plan(instruction, targets, mask_text, _scope(values.get("scope", ""), targets, mask_text, notes))


def _scope(value: str, targets: tuple[str, ...], mask_text: str | None, notes: list[str]) -> Scope:
    spelled = value.strip().strip("*`'\".").lower()
    if spelled in ("local", "global"):
        if spelled != value:
            notes.append("scope spelling mended")
        return "global" if spelled == "global" else "local"
    for scope, hints in (("global", ("global", "whole", "entire")), ("local", ("local", "object", "region"))):
        if any(hint in spelled for hint in hints):
            notes.append(f"scope {spelled[:40]!r} read as {scope}")
            return "global" if scope == "global" else "local"
    inferred: Scope = "local" if targets or mask_text else "global"
    notes.append(f"scope was {'not understood' if spelled else 'missing'}: {inferred}")
    return inferred


def _fields_from_lines(text: str, notes: list[str]) -> dict[str, Any]:
    lines: dict[str, list[str]] = {}
    current: str | None = None
    for line in text.split("\n"):
        field = _FIELD_LINE.match(line)
        if field:
            spelled = field[1].lower().replace(" ", "_")
            current = _FIELD_OF[spelled]
            if not line.startswith(f"{current}:"):
                notes.append("field spelling mended")
            if current in lines:
                notes.append(f"{current} came twice: the first one counts")
                current = None
            else:
                lines[current] = [field[2].strip()]
        elif line.strip() and current == "instruction":
            notes.append("instruction over several lines joined")
            lines[current].append(line.strip())
        elif line.strip():
            notes.append("a line that is no field left out")
    if list(lines) != [name for name in FIELDS if name in lines]:
        notes.append("order of the fields mended")
    values: dict[str, Any] = {}
    for name, pieces in lines.items():
        value = " ".join(pieces).strip()
        bare = value.strip("*`").strip()
        if bare != value:
            notes.append("markup around a value taken off")
        value = bare
        if name == "targets":
            values[name] = _labels(value, notes)
        elif name == "mask" and value.strip("\"'-").lower() in ("", "null", "n/a"):
            notes.append("a mask that names none left out")
        else:
            values[name] = unescape(value)
    return values


def _labels(value: str, notes: list[str]) -> tuple[str, ...]:
    if value[:1] == "[" and value[-1:] == "]":
        notes.append("list of targets mended")
        quoted = re.findall(r"\"([^\"]*)\"|'([^']*)'", value)
        if quoted:
            return tuple(first or second for first, second in quoted)
        return tuple(label.strip() for label in value[1:-1].split(","))
    return split_labels(value)


# --- JSON ---


def _json_object(text: str) -> dict[str, Any] | None:
    """The last object in the text that has a field of the plan, at its top or under "output" or "plan"."""
    decoder = json.JSONDecoder()
    best: dict[str, Any] | None = None
    position = text.find("{")
    for _ in range(_MAX_JSON_STARTS):
        if position < 0:
            break
        end = position + 1
        try:
            value, end = decoder.raw_decode(text, position)
            if isinstance(value, dict) and _has_plan(value):
                best = value
        except (ValueError, RecursionError):
            pass
        position = text.find("{", end)
    return best


def _has_plan(value: dict[str, Any]) -> bool:
    keys = {str(key).lower() for key in value}
    return bool(keys & _FIELD_OF.keys()) or any(
        isinstance(_get(value, name), dict) for name in ("output", "plan")
    )


def _get(value: dict[str, Any], name: str) -> Any:
    return next((each for key, each in value.items() if key.lower() == name), None)


def _prose_from_json(value: dict[str, Any], parts: dict[str, _Part], notes: list[str]) -> dict[str, Any]:
    """Takes the prose from an object that holds the whole trace; gives the object that holds the plan."""
    for part in PROSE:
        prose = _get(value, part)
        if isinstance(prose, str) and part not in parts:
            parts[part] = _Part(prose.replace("\\", "\\\\"), 0)
    for name in ("output", "plan"):
        inner = _get(value, name)
        if isinstance(inner, dict):
            return inner
    return value


def _fields_from_json(value: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    inner = next((each for name in ("output", "plan") if isinstance(each := _get(value, name), dict)), None)
    value = inner if inner is not None else value
    values: dict[str, Any] = {}
    for key, each in value.items():
        name = _FIELD_OF.get(str(key).strip().lower().replace(" ", "_"))
        if name is None or name in values or each is None:
            continue
        if name == "targets":
            labels = each if isinstance(each, list) else split_labels(str(each))
            values[name] = tuple(str(label) for label in labels if isinstance(label, (str, int, float)))
        elif name == "mask":
            values[name] = _box_text(each, notes)
        elif isinstance(each, str):
            values[name] = each
    return values


def _box_text(value: Any, notes: list[str]) -> str | None:
    """A mask text as it is; four numbers in 0..1000 as a box; anything else for decoding to refuse."""
    numbers = (
        isinstance(value, list) and len(value) == 4 and all(type(each) in (int, float) for each in value)
    )
    if numbers and all(0 <= each <= 1000 for each in value):
        notes.append("four numbers read as a box")
        return "box " + " ".join(str(round(each)) for each in value) + " full"
    return value if isinstance(value, str) else json.dumps(value)[:200]
