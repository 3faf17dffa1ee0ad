"""The trace as one JSON object, which a server can hold a model to (`response_format`), and its way back into
the trace's text while it arrives."""

from __future__ import annotations

import json
import math
import re
from enum import Enum
from typing import Any

from ..plan.boxes_text import boxes_text, to_box
from ..plan.form import MOST_STEPS, NO_LABEL, PROSE, Plan, plan_lines
from ..plan.native_boxes import OWN, WHOLE, BoxForm, Size
from ..plan.parts import THOUGHT_END, THOUGHTS

SETTING = "response_format"

# Thinking first and the plan last, for a model that is held to a schema writes in its order. Only what
# OpenAI's strict form, llama.cpp's converter and vLLM's grammars all take.
_FIELDS: dict[str, Any] = {
    "instruction": {"type": "string"},
    "targets": {"type": "array", "items": {"type": "string"}},
    "scope": {"type": "string", "enum": ["local", "global"]},
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


def schema(most: int = WHOLE) -> dict[str, Any]:
    """most: the greatest coordinate of a box."""
    side = {"type": "integer", "minimum": 0, "maximum": most}
    box = {"type": "array", "items": side, "minItems": 4, "maxItems": 4}
    step = _object({**_FIELDS, "box": {"anyOf": [box, {"type": "null"}]}})
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": MOST_STEPS}
    return _object({**{part: {"type": "string"} for part in PROSE}, "output": _object({"steps": steps})})


SCHEMA = schema()

_ASKS = """
Write the four parts as one JSON object, in this order: {"thinking": "...", "intermediate": "...", \
"reflection": "...", "output": {"steps": [{"instruction": "...", "targets": ["..."], "scope": "local", \
"box": [X0, Y0, X1, Y1]}]}}, with an object in steps for each edit. Where its scope is global, targets is [] \
and box is null.
"""


def with_schema(payload: dict[str, Any], most: int = WHOLE) -> dict[str, Any]:
    """A question in OpenAI's form that asks for JSON, in words and by a schema. most: as in `schema`."""
    system, *rest = payload["messages"]
    told = {**system, "content": system["content"] + _ASKS}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "edit_plan", "strict": True, "schema": schema(most)},
    }
    return {**payload, "messages": [told, *rest], SETTING: form}


def without_schema(payload: dict[str, Any]) -> dict[str, Any]:
    """The same question for the text form."""
    system, *rest = payload["messages"]
    told = {**system, "content": system["content"].removesuffix(_ASKS)}
    return {key: value for key, value in payload.items() if key != SETTING} | {"messages": [told, *rest]}


class JsonReader:
    """Turns an answer in the schema's form into a trace's text, piece by piece, in linear time.

    What is no such JSON passes as it came: tags or prose of a server that heeds no schema, thoughts before
    the JSON, other JSON. text: all of it so far; where JSON leaves the form on its way, the answer as it
    came. boxes, seen: the form in which the model writes a box, and the picture's size as it sees it, where
    its numbers are pixels of that.
    """

    def __init__(self, boxes: BoxForm = OWN, seen: Size | None = None) -> None:
        self._boxes, self._seen = boxes, seen
        self._raw: list[str] = []
        self._shown: list[str] = []
        self._state = _State.LEAD
        self._lead: list[str] = []  # held until it is clear whether JSON begins
        self._thought_over = False
        self._before = ""  # the end of the free text, where the mark of a thought's end may stand cut in two
        self._step = 0
        self._fixed, self._string = _Fixed(*_OPENINGS), _String(_PROSE_ESCAPES)
        self._tail: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._raw if self._state is _State.LEFT else self._shown)

    @property
    def in_form(self) -> bool:
        """Whether the answer is JSON of the schema's form, so far."""
        return self._state in (_State.JSON, _State.TAIL)

    def feed(self, text: str) -> str:
        """Takes the next piece; gives the text that it settles. Raises nothing."""
        self._raw.append(text)
        shown: list[str] = []
        while text:
            text = self._read(text, shown)
        return self._show(shown)

    def finish(self, whole: bool) -> str:
        """What is left at the end. whole: the answer came to its end by itself."""
        shown: list[str] = []
        if self._state is _State.LEAD:
            shown += self._lead
        elif self.in_form:
            tail = "".join(self._tail) if self._state is _State.TAIL else None
            lines = None if tail is None else _rest_of_plan(tail, self._boxes, self._seen)
            if lines is not None:
                shown.append("\n" + "\n".join([*lines, "</output>"]))
            elif whole:
                self._state = _State.LEFT
                shown += self._tail
        return self._show(shown)

    def _show(self, shown: list[str]) -> str:
        piece = "".join(shown)
        self._shown.append(piece)
        return piece

    def _read(self, text: str, shown: list[str]) -> str:
        """Reads on; gives what is to be read in the state that comes next."""
        if self._state is _State.LEAD:
            return self._read_lead(text, shown)
        if self._state is _State.FREE:
            return self._read_free(text, shown)
        if self._state is _State.JSON:
            return self._read_string(text, shown) if self._fixed.done else self._read_fixed(text, shown)
        (self._tail if self._state is _State.TAIL else shown).append(text)
        return ""

    def _read_lead(self, text: str, shown: list[str]) -> str:
        self._lead.append(text)
        count = self._fixed.take(text)
        if count is None:
            self._state = _State.FREE
            return "".join(self._lead)
        if not self._fixed.done:
            return ""
        self._state = _State.JSON
        shown.append(_STEPS[0][1])
        return text[count:]

    def _read_free(self, text: str, shown: list[str]) -> str:
        """What the model thinks first may stand in the answer itself: behind it JSON may begin."""
        seen = self._before + text
        match = None if self._thought_over else _THOUGHT_END.search(seen)
        self._before = seen[-_LONGEST:]
        if match is None:
            shown.append(text)
            return ""
        cut = len(text) - (len(seen) - match.end())
        shown.append(text[:cut])
        self._state, self._thought_over = _State.LEAD, True
        self._lead, self._fixed = [], _Fixed(*_OPENINGS)
        return text[cut:]

    def _read_fixed(self, text: str, shown: list[str]) -> str:
        count = self._fixed.take(text)
        if count is None:
            self._state = _State.LEFT
            shown.append(text)
            return ""
        if self._fixed.done:
            shown.append(_STEPS[self._step][1])
        return text[count:]

    def _read_string(self, text: str, shown: list[str]) -> str:
        piece, rest = self._string.read(text)
        shown.append(piece)
        if rest is None:
            return ""
        self._step += 1
        if self._step == len(_STEPS):
            self._state = _State.TAIL
        else:
            last = self._step == len(_STEPS) - 1
            self._fixed = _Fixed(_STEPS[self._step][0])
            self._string = _String(_LINE_ESCAPES if last else _PROSE_ESCAPES)
        return rest


class _State(Enum):
    """LEAD: it is open whether JSON begins. FREE: it does not. JSON: its strings, up to the first
    instruction's. TAIL: the fields and steps behind. LEFT: JSON that is not of the form after all."""

    LEAD, FREE, JSON, TAIL, LEFT = range(5)


# What stands before each string, token by token, and what the trace's text has there.
_STEPS = (
    (("{", '"thinking"', ":", '"'), "<thinking>\n"),
    ((",", '"intermediate"', ":", '"'), "\n</thinking>\n<intermediate>\n"),
    ((",", '"reflection"', ":", '"'), "\n</intermediate>\n<reflection>\n"),
    (
        (",", '"output"', ":", "{", '"steps"', ":", "[", "{", '"instruction"', ":", '"'),
        "\n</reflection>\n<output>\ninstruction: ",
    ),
)
_OPENINGS = tuple((*fence, *_STEPS[0][0]) for fence in ((), ("```",), ("```json",)))
_CLOSING = re.compile(r"\s*\}\s*\}\s*(?:```\s*)?")
_PROSE_ESCAPES = {"\\": "\\\\", "<": "\\<"}
_LINE_ESCAPES = {**_PROSE_ESCAPES, "\n": "\\n", "\r": "\\r"}
_AS_LINE = str.maketrans(dict(_LINE_ESCAPES))
_THOUGHT_END = re.compile(THOUGHT_END, re.IGNORECASE)
_LONGEST = max(len(end) for _, end in THOUGHTS) - 1


class _Fixed:
    """Tokens in a row with any white space before each, in one of several ways."""

    def __init__(self, *ways: tuple[str, ...]) -> None:
        self._ways = [(way, 0, 0) for way in ways]  # with the token that is due, and its character
        self.done = False

    def take(self, text: str) -> int | None:
        """How many characters belong to them, all unless they are done; None where they go otherwise."""
        for count, letter in enumerate(text, 1):
            open_ways = []
            for way, token, at in self._ways:
                if letter == way[token][at]:
                    ends = at + 1 == len(way[token])
                    open_ways.append((way, token + ends, 0 if ends else at + 1))
                elif at == 0 and letter.isspace():
                    open_ways.append((way, token, at))
            if not open_ways:
                return None
            self._ways = open_ways
            self.done = any(token == len(way) for way, token, _ in open_ways)
            if self.done:
                return count
        return len(text)


class _String:
    """A JSON string's inside, as text of the trace. escapes: what that text cannot hold bare."""

    def __init__(self, escapes: dict[str, str]) -> None:
        self._escapes = str.maketrans(escapes)
        self._cut = ""  # an escape that has not all arrived
        self._high = 0  # the first half of a character beyond 16 bits

    def read(self, text: str) -> tuple[str, str | None]:
        """(the text so far, what follows the closing quote; None: it has not come)."""
        text, self._cut = self._cut + text, ""
        pieces: list[str] = []
        at = 0
        while at < len(text):
            match = _IN_STRING.match(text, at)
            if match is None and _CUT_ESCAPE.fullmatch(text, at):
                self._cut = text[at:]
                break
            end = match.end() if match else at + 1
            if match is not None and match["unit"]:
                pieces.append(self._unit(int(match["unit"], 16)))
            else:
                pieces.append("\ufffd" if self._high else "")
                self._high = 0
                if match is None:
                    pieces.append("\\")  # no escape at all
                elif match["end"]:
                    return self._escaped(pieces), text[end:]
                else:
                    pieces.append(match["plain"] or _LETTERS.get(match["letter"], match[0]))
            at = end
        return self._escaped(pieces), None

    def _escaped(self, pieces: list[str]) -> str:
        return "".join(pieces).translate(self._escapes)

    def _unit(self, unit: int) -> str:
        """The text that 16 bits complete; halves that are alone are no text."""
        high, self._high = self._high, 0
        if high and 0xDC00 <= unit < 0xE000:
            return chr(0x10000 + ((high - 0xD800) << 10) + unit - 0xDC00)
        before = "\ufffd" if high else ""
        if 0xD800 <= unit < 0xDC00:
            self._high = unit
            return before
        return before + ("\ufffd" if 0xDC00 <= unit < 0xE000 else chr(unit))


_IN_STRING = re.compile(
    r"""(?P<plain>[^"\\]+)|\\u(?P<unit>[0-9a-fA-F]{4})|\\(?P<letter>[^u])|(?P<end>")""", re.DOTALL
)
_HALF = re.compile("[\ud800-\udfff]")  # of a character beyond 16 bits
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", '"': '"', "/": "/", "\\": "\\"}


def _rest_of_plan(tail: str, boxes: BoxForm, seen: Size | None) -> list[str] | None:
    """The lines of <output> behind the first instruction, from the JSON behind it; None where it has not the
    form. A further step without words is none."""
    text = '[{"instruction":""' + tail
    try:
        steps, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not _CLOSING.fullmatch(text, end) or len(steps) > MOST_STEPS:
        return None
    lines: list[str] = []
    for number, step in enumerate(steps):
        fields = _lines_of(step, boxes, seen)
        if fields is None:
            return None
        if number == 0:
            lines += fields[1:]
        elif fields[0] != _NO_WORDS:
            lines += fields
    return lines


def _lines_of(step: Any, boxes: BoxForm, seen: Size | None) -> list[str] | None:
    """The lines of one step; None where it has not the form."""
    if not isinstance(step, dict) or step.keys() != {*_FIELDS, "box"}:
        return None
    instruction, targets, scope, box = (step[name] for name in (*_FIELDS, "box"))
    if not isinstance(instruction, str) or not isinstance(targets, list):
        return None
    if not all(isinstance(each, str) for each in targets):
        return None
    if scope not in ("local", "global") or not (box is None or _is_box(box)):
        return None
    labels = [_HALF.sub("\ufffd", each).strip() for each in targets]
    if len(labels) == 1 and labels[0].lower() in NO_LABEL:
        labels = []
    mask = None if box is None or scope == "global" else _mask_text(box, boxes, seen)
    words = _HALF.sub("\ufffd", instruction).strip().translate(_AS_LINE)
    return [_NO_WORDS + words, *plan_lines(Plan("any", tuple(labels), mask, scope))[1:]]


_NO_WORDS = "instruction: "


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4
    return numbers and all(type(each) in (int, float) and math.isfinite(each) for each in value)


def _mask_text(numbers: list[float], boxes: BoxForm, seen: Size | None) -> str:
    """Mask text of a box; what is no box of thousandths stands there as it is, for decoding to refuse."""
    box = boxes.thousandths(tuple(numbers), seen) if boxes.pixels else to_box(numbers)
    return boxes_text([box]) if box is not None else f"box {' '.join(f'{each:g}' for each in numbers)} full"
