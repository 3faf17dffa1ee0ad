"""The plan's fields in lines such as "instruction: make the hat blue", however they are decorated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .boxes_text import boxes_text, mend_mask_text
from .form import FIELDS, MOST_STEPS, NO_LABEL, is_exact_list, split_labels, unescape
from .loose_json import labels_and_boxes, read_loosely

# Names that untuned models use for the plan's fields.
ALIASES = {
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
    "mask": ("mask", "mask_text", "box", "bbox", "bbox_2d", "region"),
}
# Words that stand before a colon in any text: alone they are no field.
WEAK = frozenset(("edit", "prompt", "object", "objects"))
FIELD_OF = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_ANY_ALIAS = "|".join(sorted((alias.replace("_", "[_ ]") for alias in FIELD_OF), key=len, reverse=True))
_LEAD = r"[\s>#*\-\"'`_•·|(\[]{0,8}(?:\(?[0-9]{1,2}[.)\uff0e\u3001][\s*\"'`_]{0,6})?"
# "instruction: x", "- **Targets:** x", "SCOPE = x", "1. **Instruction**: x", "`mask`\uff1a x"
_FIELD_LINE = re.compile(
    rf"{_LEAD}({_ANY_ALIAS})[\s*\"'`_)\]}}|]{{0,6}}[:=\uff1a\uff1d][\s*_]{{0,4}}(.*)", re.IGNORECASE
)
_FIELD_HEADING = re.compile(
    rf"[ \t]{{0,3}}(?:#+|\*\*|__)[ \t]{{0,3}}({_ANY_ALIAS})[\s*_]{{0,6}}", re.IGNORECASE
)
_FIELD_TAG = re.compile(rf"<(/?)({_ANY_ALIAS})>", re.IGNORECASE)
_SAME_LINE = re.compile(r"(?:[;,|/.]|\s)\s{0,3}(targets|scope|mask)\s?[:\uff1a]", re.IGNORECASE)
_LINE_END = re.compile("\r\n|\n|\r|\u2028")
_BULLET = re.compile(r"\s{0,8}(?:[-*•·]|[0-9]{1,2}[.)])\s{1,4}")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "\u300c": "\u300d", "`": "`"}


@dataclass
class Fields:
    """values: of those that were found: "instruction", "scope" and "mask" are text, "targets" a tuple of
    labels. ended: all of them are there, and the last one's line has an end. more: the values of further
    steps. weak: it is one alone, by a name that may be a word of the text."""

    values: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    more: list[dict[str, Any]] = field(default_factory=list)
    weak: bool = False


def fields_from_lines(text: str, notes: list[str]) -> Fields:
    """The fields that stand in lines of a text, of one step or of several."""
    first, *others = _blocks(_lines(text, notes))
    fields = _fields(first, notes)
    seen = [fields.values]
    for block in others:
        step = _fields(block, notes)
        fields.ended = step.ended
        if any(_same_place(step.values, other) for other in seen):
            notes.append("a step that came twice: the first one counts")
        elif len(seen) == MOST_STEPS:
            notes.append(f"more than {MOST_STEPS} steps: the first ones count")
        elif step.values.get("targets") or step.values.get("mask") or step.values.get("scope") == "global":
            seen.append(step.values)
        else:
            notes.append("a further instruction without a target left out")
    fields.more = seen[1:]
    fields.weak = len(fields.values) == 1 and not others and _names(first) <= WEAK
    return fields


def _names(lines: list[str]) -> set[str]:
    """The names of fields in lines, as they are spelled there."""
    found = (_FIELD_LINE.match(line) or _FIELD_HEADING.fullmatch(line.rstrip()) for line in lines)
    return {match[1].lower().replace(" ", "_") for match in found if match}


def _blocks(lines: list[str]) -> list[list[str]]:
    """The lines of each step: one begins where an instruction follows what may be a whole step."""
    blocks: list[list[str]] = [[]]
    seen: set[str] = set()
    for line in lines:
        match = _FIELD_LINE.match(line) or _FIELD_HEADING.fullmatch(line.rstrip())
        name = FIELD_OF[match[1].lower().replace(" ", "_")] if match else ""
        if name == "instruction" and seen >= {"instruction", "targets"}:
            blocks.append([])
            seen = set()
        seen.add(name)
        blocks[-1].append(line)
    return blocks


def _same_place(step: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a step is another one told again: in other words perhaps, of the same things at the same
    place."""
    return all(step.get(name) == other.get(name) for name in ("targets", "mask"))


def _fields(lines: list[str], notes: list[str]) -> Fields:
    raw = _collect(lines, notes)
    if list(raw) != [name for name in FIELDS if name in raw]:
        notes.append("order of the fields mended")
    values: dict[str, Any] = {}
    for name, pieces in raw.items():
        if name == "targets":
            labels, boxes = _labels(pieces, notes)
            values[name] = labels
            if boxes and "mask" not in raw:
                notes.append("the targets' boxes read as the mask")
                values["mask"] = boxes
            continue
        value = _bare(" ".join(pieces).strip(), notes)
        if name == "mask":
            if value.strip("\"'-").lower() in ("", "null", "n/a"):
                notes.append("a mask that names none left out")
            else:
                values[name] = mend_mask_text(unescape(value), notes)
        else:
            values[name] = unescape(value)
    last = next(reversed(raw), None)
    whole = {"instruction", "targets", "scope"} <= raw.keys() and (
        last == "mask" or raw.get("scope") == ["global"]
    )
    return Fields(values, whole and _FIELD_LINE.match(lines[-1]) is None)


def labels_of(text: str, notes: list[str]) -> tuple[str, ...]:
    """The labels of one value, parted by whatever a model parts them with, brackets and quotes taken off."""
    value = text.strip()
    inner = value[1:-1] if len(value) > 1 and (value[0], value[-1]) in _AROUND else value
    if inner.strip().lower() in ("", *NO_LABEL):
        labels: tuple[str, ...] = ()
    else:
        labels = tuple(name for label in split_labels(inner) if (name := _unquoted(label.strip())))
    if value != "none" and not is_exact_list("targets", text):
        notes.append("list of targets mended")
    return labels


_AROUND = {("[", "]"), ("(", ")"), ("{", "}")}


def _lines(text: str, notes: list[str]) -> list[str]:
    if any(match[1] for match in _FIELD_TAG.finditer(text)):  # <instruction>...</instruction>
        notes.append("tags of fields read as their names")
        text = _FIELD_TAG.sub(lambda tag: "\n" if tag[1] else f"\n{tag[2]}: ", text)
    lines: list[str] = []
    for line in _LINE_END.split(text):
        field_line = _FIELD_LINE.match(line)
        matches = list(_SAME_LINE.finditer(line, field_line.end(1))) if field_line else []
        start = 0
        for match in matches:  # several fields in one line
            lines.append(line[start : match.start()])
            start = match.start(1)
            notes.append("fields in one line parted")
        lines.append(line[start:])
    return lines


def _collect(lines: list[str], notes: list[str]) -> dict[str, list[str]]:
    """The pieces of each field's value."""
    raw: dict[str, list[str]] = {}
    current: str | None = None
    for line in lines:
        if current == "targets" and line.strip() and _json_goes_on(raw[current], line):
            raw[current].append(line)
            continue
        match = _FIELD_LINE.match(line)
        heading = None if match else _FIELD_HEADING.fullmatch(line.rstrip())
        if match or heading:
            spelled, value = (match[1], match[2]) if match else (heading[1] if heading else "", "")
            current = FIELD_OF[spelled.lower().replace(" ", "_")]
            if not line.startswith(f"{current}:"):
                notes.append("field spelling mended")
            if current in raw:
                notes.append(f"{current} came twice: the first one counts")
                current = None
            else:
                raw[current] = [value.strip()] if value.strip() else []
        elif not line.strip():
            continue
        elif current == "instruction" or (
            current and (not raw[current] or _list_goes_on(raw[current], line))
        ):
            notes.append(f"{current} over several lines joined")
            raw[current].append(line.strip() if current == "instruction" else line)
        else:
            notes.append("a line that is no field left out")
    return raw


def _json_goes_on(pieces: list[str], line: str) -> bool:
    """Whether a line belongs to a list of targets in JSON that is still open, or begins one."""
    if not pieces:
        return line.lstrip()[0] in "[{"
    depth = sum(
        piece.count("[") + piece.count("{") - piece.count("]") - piece.count("}") for piece in pieces[:64]
    )
    return pieces[0].lstrip()[:1] in ("[", "{") and depth > 0 and len(pieces) < 64


def _list_goes_on(pieces: list[str], line: str) -> bool:
    return bool(_BULLET.match(pieces[-1]) and _BULLET.match(line))


def _labels(pieces: list[str], notes: list[str]) -> tuple[tuple[str, ...], str]:
    """(labels, mask text of their boxes or "") of a field's lines."""
    if any(_BULLET.match(piece) for piece in pieces):
        notes.append("list of targets mended")
        lists = (labels_of(_bare(_BULLET.sub("", piece, count=1), notes), notes) for piece in pieces)
        return tuple(label for labels in lists for label in labels), ""
    value = " ".join(pieces).strip().rstrip(".")
    if value[:1] in ("[", "{"):
        data = read_loosely(value)
        if isinstance(data, (list, dict)) and data:
            notes.append("list of targets mended")
            labels, boxes = labels_and_boxes(data)
            return labels, boxes_text(boxes) if boxes else ""
    return labels_of(_bare(" ".join(pieces), notes), notes), ""


def _bare(value: str, notes: list[str]) -> str:
    """A value without the markup or the quotes around it."""
    bare = _unquoted(value.strip().strip("*`_").strip())
    if bare != value:
        notes.append("markup around a value taken off")
    return bare


def _unquoted(text: str) -> str:
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        return text[1:-1].strip()
    return text
