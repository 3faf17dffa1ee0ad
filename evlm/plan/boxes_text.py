"""Boxes as other models write them, as mask text. Pure Python: the plan is read without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Box = tuple[float, float, float, float]

_GRAMMAR = re.compile(r"none|box(?: [0-9]{1,4}){4} (?:full|rows(?: (?:\.|[0-9+\-]{1,60})){1,16})")
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]{1,6}(?:\.[0-9]{1,9})?(?![\w.]*[0-9])")
_DECORATION = re.compile(r"[\[\](){},;\"'`]|<\|?/?[a-z_]{1,20}\|?>")
_GRID = 8
_BOX_KEYS = (
    "bbox_2d",
    "bbox",
    "box",
    "box_2d",
    "bounding_box",
    "boundingbox",
    "coordinates",
    "region",
    "mask",
)
SIDES = (("x0", "y0", "x1", "y1"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"),
         ("x_min", "y_min", "x_max", "y_max"), ("left", "top", "right", "bottom"))  # fmt: skip
EXTENT = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))


def mend_mask_text(text: str, notes: list[str]) -> str:
    """A mask text with its punctuation taken off, or the numbers in it, by fours, as boxes; anything else
    stays as it is, for decoding to refuse."""
    bare = " ".join(_DECORATION.sub(" ", text[:4000]).lower().split())
    if _GRAMMAR.fullmatch(bare):
        if bare != text:
            notes.append("mask spelling mended")
        return bare
    numbers = [float(match[0]) for match in _NUMBER.finditer(bare)] if "rows" not in bare else []
    found = [to_box(numbers[at : at + 4]) for at in range(0, len(numbers), 4)]
    boxes = [box for box in found if box is not None]
    if not boxes or len(boxes) < len(found):
        return text
    notes.append("four numbers read as a box" if len(boxes) == 1 else "boxes read as a mask")
    return boxes_text(boxes)


def to_box(value: Any) -> Box | None:
    """(x0, y0, x1, y1) in 0..1000 of four numbers, two corners, or a dict of sides, in thousandths or in
    0..1; None where it is none of these, or in pixels."""
    if isinstance(value, dict):
        return _of_dict(value)
    if not isinstance(value, (list, tuple)) or len(value) > 4:
        return None
    if len(value) == 2 and all(isinstance(corner, (list, tuple)) and len(corner) == 2 for corner in value):
        value = [*value[0], *value[1]]
    numbers = [_number(each) for each in value]
    x0, y0, x1, y1 = [*numbers, *[None] * 4][:4]
    if x0 is None or y0 is None or x1 is None or y1 is None:
        return None
    scale = 1000 if max(x0, y0, x1, y1) <= 1 else 1
    corners = (min(x0, x1) * scale, min(y0, y1) * scale, max(x0, x1) * scale, max(y0, y1) * scale)
    inside = all(0 <= each <= 1000 for each in corners)
    return corners if inside and corners[0] < corners[2] and corners[1] < corners[3] else None


def box_of(value: dict[str, Any]) -> Box | None:
    """The box of an object such as {"label": "hat", "bbox_2d": [1, 2, 3, 4]}."""
    named = {str(key).lower(): each for key, each in value.items()}
    for key in _BOX_KEYS:
        box = to_box(named.get(key))
        if box is not None and key == "box_2d":  # Gemini's, which puts y first
            return box[1], box[0], box[3], box[2]
        if box is not None:
            return box
    return _of_dict(named)


def boxes_text(boxes: Sequence[Box]) -> str:
    """Mask text of one box, or of several as the cells of the box around them."""
    x0, y0 = (min(box[axis] for box in boxes) for axis in (0, 1))
    x1, y1 = (max(box[axis] for box in boxes) for axis in (2, 3))
    ends = [round(each) for each in (x0, y0, x1, y1)]
    ends[0], ends[1] = min(ends[0], 999), min(ends[1], 999)
    ends[2], ends[3] = max(ends[2], ends[0] + 1), max(ends[3], ends[1] + 1)
    around = "box " + " ".join(map(str, ends))
    if len(boxes) == 1:
        return f"{around} full"
    width, height = (x1 - x0) / _GRID, (y1 - y0) / _GRID
    rows = []
    for row in range(_GRID):
        top = y0 + row * height
        on = [_is_on(boxes, (x0 + n * width, top, x0 + (n + 1) * width, top + height)) for n in range(_GRID)]
        rows.append(_spans(on))
    return f"{around} rows " + " ".join(rows)


def _spans(row: list[bool]) -> str:
    ends = [n for n, on in enumerate(row) if on and not (n and row[n - 1])]
    spans = [f"{start}-{start + [*row[start:], False].index(False) - 1}" for start in ends]
    return "+".join(spans) or "."


def _is_on(boxes: Sequence[Box], cell: Box) -> bool:
    """A cell that is covered by half, or that holds a quarter of a small box."""
    for box in boxes:
        common = _overlap(box, cell)
        if common >= 0.5 * _area(cell) or common >= 0.25 * _area(box):
            return True
    return False


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _of_dict(value: dict[str, Any]) -> Box | None:
    named = {str(key).lower(): _number(each) for key, each in value.items()}
    for sides in SIDES:
        if all(side in named for side in sides):
            return to_box([named[side] for side in sides])
    for x, y, width, height in EXTENT:
        corner = named.get(x), named.get(y), named.get(width), named.get(height)
        if (
            corner[0] is not None
            and corner[1] is not None
            and corner[2] is not None
            and corner[3] is not None
        ):
            return to_box([corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]])
    return None


def _number(value: Any) -> float | None:
    """A finite number, or the text of one."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,6}(?:\.[0-9]{1,9})?\s*", value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e9 else None
