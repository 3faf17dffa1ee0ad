"""JSON as models write it: with comments, single quotes, a comma too many, inside prose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from ..errors import TraceError
from .boxes_text import Box, box_of, to_box

_MAX_STARTS = 64  # each start may read to the end of the text; a fixed number of them keeps that linear
_MAX_LOOSE_STARTS = 2
_MAX_LOOSE = 4096  # characters; no plan is longer, and json_repair takes the square of a text's length
_LABEL_KEYS = ("label", "name", "object", "target", "class", "category", "text", "phrase", "description")


def find_json(text: str, fits: Callable[[Any], bool]) -> Any:
    """The last JSON object or list in a text that fits, read strictly; where none does, read loosely. None:
    there is none."""
    best = find_strict_json(text, fits)
    if best is not None:
        return best
    for start in _loose_starts(text):
        end = text.rfind("}" if text[start] == "{" else "]", start, start + _MAX_LOOSE) + 1
        value = read_loosely(text[start : end or start + _MAX_LOOSE])
        if fits(value):
            return value
    return None


def find_strict_json(text: str, fits: Callable[[Any], bool]) -> Any:
    """The last JSON object or list in a text that fits, without any mistake in it."""
    decoder = json.JSONDecoder()
    best: Any = None
    position = _next_start(text, 0)
    for _ in range(_MAX_STARTS):
        if position < 0:
            break
        end = position + 1
        try:
            value, end = decoder.raw_decode(text, position)
            if fits(value):
                best = value
        except (ValueError, RecursionError):
            pass
        position = _next_start(text, end)
    return best


@lru_cache(maxsize=4)
def read_loosely(text: str) -> Any:
    """Any text that begins as JSON does, read with what is wrong in it mended; None where it is beyond that,
    or longer than 4,096 characters. Raises TraceError where json-repair is not installed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > _MAX_LOOSE:
        return None
    try:
        import json_repair
    except ImportError:
        need = "this JSON has mistakes, which need json-repair to be read: pip install json-repair"
        raise TraceError("json", 0, need) from None

    try:
        return json_repair.loads(text, skip_json_loads=True)
    except Exception:  # on hostile text it fails its own assertions, among others
        return None


def labels_and_boxes(value: Any) -> tuple[tuple[str, ...], list[Box]]:
    """What a list of targets names: words, or objects with a label and perhaps a box."""
    labels: list[str] = []
    boxes: list[Box] = []
    for each in [value] if isinstance(value, dict) else value:
        if isinstance(each, dict):
            named = {str(key).lower(): item for key, item in each.items()}
            label = next((named[key] for key in _LABEL_KEYS if isinstance(named.get(key), str)), "")
            box = box_of(each)
            boxes += [box] if box is not None else []
        else:
            label = str(each) if isinstance(each, (str, int, float)) and not isinstance(each, bool) else ""
        labels += [label.strip()] if label.strip() else []
    return tuple(dict.fromkeys(labels)), boxes


def boxes_in(value: Any) -> list[Box]:
    """The boxes that a mask's value means: four numbers, an object with a box, or a list of these."""
    box = to_box(value)
    if box is None and isinstance(value, dict):
        box = box_of(value)
    if box is not None:
        return [box]
    if not isinstance(value, list):
        return []
    boxes = [box_of(each) if isinstance(each, dict) else to_box(each) for each in value[:64]]
    return [each for each in boxes if each is not None] if all(boxes) else []


def _next_start(text: str, position: int) -> int:
    starts = [start for start in (text.find("{", position), text.find("[", position)) if start >= 0]
    return min(starts, default=-1)


def _loose_starts(text: str) -> Iterator[int]:
    """The first bracket of a text, and those that begin a line."""
    first = _next_start(text, 0)
    if first < 0:
        return
    yield first
    position, count = first, 1
    while count < _MAX_LOOSE_STARTS and (position := text.find("\n", position) + 1):
        line = text[position : position + 20].lstrip(" \t")
        if line[:1] in ("{", "["):
            yield text.index(line[0], position)
            count += 1
