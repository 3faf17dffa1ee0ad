"""Which of several things a label means: "the left cup", "both cups", "all cups but the red one".

A detector finds cups; it cannot count them or tell left from right. Such words are taken off the label, and
what is found is kept by them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..boxes import Box, box_iou

SURE_ENOUGH = 0.5  # share of the best score of its name from which a box counts
SAME = 0.5  # IoU from which two boxes are of one thing
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "both": 2}
_SIDES = {
    "left": "left", "leftmost": "left", "left-hand": "left",
    "right": "right", "rightmost": "right", "right-hand": "right",
    "upper": "top", "top": "top", "topmost": "top", "uppermost": "top",
    "lower": "bottom", "bottom": "bottom", "bottommost": "bottom", "lowest": "bottom",
    "middle": "middle", "central": "middle", "center": "middle", "centre": "middle",
}  # fmt: skip
_SIDE = "|".join(sorted(_SIDES, key=len, reverse=True))
_THE = r"(?:(?:the|of)\s+){0,2}"
_COUNT = re.compile(rf"{_THE}(?:(?P<all>all|every|each)|(?P<number>[1-9]|{'|'.join(_NUMBERS)}))\s+{_THE}")
_BEFORE = re.compile(rf"{_THE}({_SIDE})\s+(?!side\b)(?:(?P<one>one\s+)?(?P<of>of\s+the\s+))?")
_BEHIND = re.compile(rf"\s+(?:on|at|in|to)\s+the\s+(?:far\s+|very\s+)?({_SIDE})(?:\s+side)?")
_BUT = re.compile(r"\s+(?:but|except|except for|other than|apart from)\s+(?:for\s+)?(?:the\s+)?(?=\S)")
# Sides that are part of a name, or of a body, whose left is not the picture's.
_NAMES = re.compile(
    r"(?:top hat|top coat|top knot|(?:left|right|upper|lower)\s+(?:hand|arm|leg|foot|eye|ear|shoe|sleeve"
    r"|cheek|shoulder|knee|lip|glove|wing|half|body|thigh|wrist|elbow|ankle|hip|eyebrow|eyelid|jaw|lane|deck)"
    r"|middle\s+(?:finger|toe|name|part|section|ear)|cent(?:er|re)\s+(?:console|piece|line|stage|part)"
    r"|(?:right|left)\s+angle|lower\s+case|upper\s+case|bottom\s+line|middle-?\s?aged\s+\w+)s?\b"
)
# Numbers that say what a thing is, not how many there are: "two door car".
_MADE_OF = re.compile(
    r"(?:piece|seater|tone|leaf|pack|way|story|storey|wheeled|legged|dimensional|d|terrain|purpose|weather"
    r"|season|star|year)\b"
)
_PLURALS = frozenset(
    ("people", "men", "women", "children", "kids", "feet", "teeth", "geese", "mice", "sheep", "deer", "fish")
)
_BEHIND_NOUN = re.compile(
    r"\s+(?:on|in|at|with|without|of|near|behind|under|above|below|beside|between|by|from|to|that|who|which"
    r"|wearing|holding|next|and|or)\b|,"
)


@dataclass(frozen=True)
class Which:
    """label: as it was asked. name: what the detector looks for. count: how many at most, None for all.
    side: "left", "right", "top", "bottom", "middle" or "". but: the name of what is not meant, or "".
    """

    label: str
    name: str
    count: int | None = 1
    side: str = ""
    but: str = ""

    @property
    def plain(self) -> bool:
        """Whether it is a name and nothing else."""
        return self.count == 1 and not self.side and not self.but


def which(label: str) -> Which:
    """What a label means. One without such words, or with nothing else, is its own name."""
    text = " ".join(label.lower().split())
    parts = _BUT.split(text, maxsplit=1)
    count: int | None = 1
    counted = _COUNT.match(parts[0])
    if counted and not _counts(counted, parts[0][counted.end() :]):
        counted = None
    if counted:
        count = None if counted["all"] else _NUMBERS.get(counted["number"]) or int(counted["number"])
        parts[0] = parts[0][counted.end() :]
    name, side = _side_of(parts[0])
    if counted is None and len(parts) > 1:
        count = None  # "cups but the red one"
    plain = count == 1 and not side and len(parts) == 1
    if plain or not name:
        return Which(label, label)
    but = parts[1] if len(parts) > 1 else ""
    if but in ("one", "ones"):
        return Which(label, label)
    if re.search(r"\bones?$", but):
        but = re.sub(r"\bones?$", re.sub(r"(?<=[a-z]{2})s$", "", name), but)
    return Which(label, name, count, side, but)


def find(
    grounder: Any, frames: Tensor, labels: Sequence[str], threshold: float | None = None, **how: Any
) -> tuple[list[Box], list[str]]:
    """As `Grounder.ground`, but labels may say which and how many; and what was kept, in words.

    Boxes carry their label as it was asked. A label that is a name alone is found as `how` says.
    """
    asked = [which(label) for label in labels]
    plain = [each.name for each in asked if each.plain]
    picky = [each for each in asked if not each.plain]
    boxes = list(grounder.ground(frames, plain, threshold=threshold, **how)) if plain or not picky else []
    notes: list[str] = []
    for each in picky:
        names = [each.name, each.but] if each.but else [each.name]
        found = grounder.ground(frames, names, threshold=threshold, **{**how, "keep": "all"})
        for frame in range(len(frames)):
            here = [box for box in found if box.frame == frame]
            kept, note = _kept(each, here, frames.shape[1:3])
            boxes += kept
            notes += [note] if note and frame == 0 else []
    order = {label: number for number, label in enumerate(labels)}
    return sorted(boxes, key=lambda box: (box.frame, order.get(box.label, 0))), notes


def _side_of(text: str) -> tuple[str, str]:
    """(the text without the word for a side, the side or "")."""
    if _NAMES.search(text):
        return text, ""
    match = _BEHIND.search(text)
    if match and match.end() == len(text):
        return text[: match.start()], _SIDES[match[1]]
    match = _BEFORE.match(text)
    if match and match["of"] and not match["one"] and not _is_plural(text[match.end() :]):
        match = None  # "top of the mountain" is a part of one thing
    return (text[match.end() :], _SIDES[match[1]]) if match else (text, "")


def _counts(counted: re.Match[str], name: str) -> bool:
    """Whether a number before a name says how many, as in "two cups" and "one of the cups"."""
    if _MADE_OF.match(name):
        return False
    return counted["all"] is not None or "of" in counted[0].split() or _is_plural(name)


def _is_plural(name: str) -> bool:
    """Whether a word of it is a plural: behind it may stand what they do, "dogs playing"."""
    words = _BEHIND_NOUN.split(name, maxsplit=1)[0].split()
    return any(w in _PLURALS or (w.endswith("s") and not w.endswith(("ss", "us", "is"))) for w in words)


def _kept(which: Which, boxes: list[Box], size: Sequence[int]) -> tuple[list[Box], str]:
    """Of the boxes of one frame those that are meant, under the label, and the reason."""
    named = [box for box in boxes if box.label == which.name]
    others = [box for box in boxes if which.but and box.label == which.but]
    best = max((box.score for box in named), default=0.0)
    rest = [
        box
        for box in sorted(named, key=lambda box: -box.score)
        if box.score >= SURE_ENOUGH * best
        and not any(box_iou(box.corners, other.corners) >= SAME for other in others)
    ]
    height, width = size
    if which.side:
        rest.sort(key=lambda box: _from_side(box, which.side, height, width))
    kept = rest[: which.count]
    if not named:
        return [], ""
    words = ["all" if which.count is None else str(which.count)]
    words += [f"from the {which.side}"] if which.side else []
    words += [f"but the {which.but!r}"] if which.but else []
    note = f"{which.label!r}: {len(named)} found, {len(kept)} kept ({', '.join(words)})"
    return [Box(which.label, box.score, *box.corners, frame=box.frame) for box in kept], note


def _from_side(box: Box, side: str, height: int, width: int) -> float:
    """How far a box's centre lies from a side of its frame."""
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    distances = {"left": x, "right": width - x, "top": y, "bottom": height - y}
    middle = float(((x - width / 2) ** 2 + (y - height / 2) ** 2) ** 0.5)
    return distances.get(side, middle)
