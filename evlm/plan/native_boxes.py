"""The forms in which Qwen's models were trained to write a box, and such boxes as a mask text of ours.

    own          box 120 80 310 240 full
    qwen2-vl     <|object_ref_start|>cap<|object_ref_end|><|box_start|>(120,80),(310,240)<|box_end|>
    qwen2.5-vl   {"bbox_2d": [131, 58, 339, 175], "label": "cap"}
    qwen3-vl     {"bbox_2d": [120, 80, 310, 240], "label": "cap"}

The numbers are thousandths of the picture's sides, but Qwen2.5-VL's, which are pixels of the picture as its
processor resized it.

Sources: QwenLM/Qwen3-VL at 9658872, qwen-vl-finetune/tools/process_bbox.ipynb (`convert_to_qwen2vl_format`:
relative to the sides, 0 to 1000; `convert_to_qwen25vl_format`: absolute in the picture as smart_resize makes
it) and qwen-vl-finetune/README.md (the JSON of a training row); the tokens of Qwen2-VL in arXiv 2409.12191,
section 2; the maintainers in that repository's issues 676 ("the size after processer") and 866; for Qwen3-VL
its issue 1741, which quotes the cookbook 2d_grounding.ipynb ("relative coordinates ranging from 0 to 1000").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import ModelError
from .boxes_text import EXTENT, SIDES, Box, boxes_text

Size = tuple[int, int]
"""(height, width) in pixels, of the original as the model sees it."""

WHOLE = 1000  # thousandths


@dataclass(frozen=True)
class BoxForm:
    """lead: before a box, {label} for what lies in it. between: before each of its four numbers. end: behind
    them. pixels: the numbers are pixels of the picture as the model sees it, else thousandths of its
    sides."""

    name: str
    lead: str
    between: tuple[str, str, str, str]
    end: str
    pixels: bool = False

    def write(self, corners: tuple[str, str, str, str], label: str) -> str:
        """A box of four numbers, or of words that stand for them."""
        numbers = "".join(before + each for before, each in zip(self.between, corners, strict=True))
        return self.lead.replace("{label}", label) + numbers + self.end.replace("{label}", label)

    def limits(self, size: Size | None) -> tuple[int, int]:
        """The greatest x and y. size is needed where the numbers are pixels."""
        if not self.pixels:
            return WHOLE, WHOLE
        if size is None:
            raise ValueError(f"{self.name} writes pixels: the size of the picture is needed")
        return size[1], size[0]

    def numbers(self, box: Box, size: Size | None) -> tuple[int, int, int, int]:
        """A box in thousandths, as this form writes it."""
        wide, high = self.limits(size)
        x0, y0, x1, y1 = (
            round(each * limit / WHOLE) for each, limit in zip(box, (wide, high) * 2, strict=True)
        )
        return x0, y0, x1, y1

    def thousandths(self, numbers: tuple[float, ...], size: Size | None) -> Box | None:
        """A box in thousandths, not rounded, of four numbers as this form writes them. What lies outside the
        picture is cut off; None where nothing is left."""
        limits = self.limits(size) * 2
        inside = [
            min(max(each / limit, 0.0), 1.0) * WHOLE for each, limit in zip(numbers, limits, strict=True)
        ]
        x0, x1 = sorted(inside[0::2])
        y0, y1 = sorted(inside[1::2])
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


_JSON_LEAD, _JSON_END = '{"bbox_2d": [', '], "label": "{label}"}'
OWN = BoxForm("own", "box", (" ", " ", " ", " "), " full")
QWEN2 = BoxForm(
    "qwen2-vl",
    "<|object_ref_start|>{label}<|object_ref_end|><|box_start|>(",
    ("", ",", "),(", ","),
    ")<|box_end|>",
)
QWEN2_5 = BoxForm("qwen2.5-vl", _JSON_LEAD, ("", ", ", ", ", ", "), _JSON_END, pixels=True)
QWEN3 = BoxForm("qwen3-vl", _JSON_LEAD, ("", ", ", ", ", ", "), _JSON_END)
FORMS = {form.name: form for form in (OWN, QWEN2, QWEN2_5, QWEN3)}
OF_FAMILY = {"qwen2_vl": QWEN2, "qwen2_5_vl": QWEN2_5, "qwen3_vl": QWEN3}  # by `model_type`


def box_form(name: object) -> BoxForm:
    """The form of that name. Raises ModelError."""
    if not isinstance(name, str) or name not in FORMS:
        raise ModelError(f"boxes {name!r:.40}: expected one of {', '.join(FORMS)}")
    return FORMS[name]


def form_of_model(name: str) -> BoxForm:
    """The form of a model behind an endpoint, by the name that it has there: "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2.5vl:7b". Ours for any other."""
    found = re.search(r"qwen[-_ ]?(2[._]5|2|3)[-_ ]?vl", name, re.IGNORECASE)
    if found is None:
        return OWN
    return {"2": QWEN2, "3": QWEN3}.get(found[1], QWEN2_5)


def resized(height: int, width: int, side: int = 28, least: int = 3136, most: int = 12_845_056) -> Size:
    """The size at which Qwen-VL's processor shows a picture: whole patches of `side` pixels, `least` to
    `most` pixels in all (`smart_resize` of transformers' image_processing_qwen2_vl.py; the limits are those
    of the models' preprocessor_config.json)."""
    high, wide = round(height / side) * side, round(width / side) * side
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (max(side, math.floor(each / shrink / side) * side) for each in (height, width))
    elif high * wide < least:
        stretch = math.sqrt(least / (height * width))
        high, wide = (math.ceil(each * stretch / side) * side for each in (height, width))
    return high, wide


def in_our_form(text: str, form: BoxForm, size: Size | None) -> str:
    """A model's text with the boxes that it wrote in its own form as ours. Other text stays as it is.

    A mask line becomes one of the mask codec. Elsewhere the numbers of a box, in JSON or not, become
    thousandths where they are pixels.
    """
    if form is OWN:
        return text
    return _PLACE.sub(lambda found: _place(found, form, size), text)


_NUMBER = r"-?[0-9]{1,6}(?:\.[0-9]{1,9})?"
_GAP = r"[\s,()\[\]]{1,6}"
_RUN = re.compile(rf"(?<![\w.-]){_NUMBER}(?:{_GAP}{_NUMBER}){{0,255}}(?![\w.])")
_KEYS = r"(?:bbox_2d|box_2d|bounding[_ ]?box|bbox|box|mask_text|mask|region|coordinates)"
_SIDE = r"[xy](?:_?(?:min|max)|[012])?|left|top|right|bottom|width|height|w|h"
_SIDE_IS = rf"[\"']?(?P<name>{_SIDE})[\"']?\s{{0,3}}:\s{{0,3}}[\"']?(?P<number>{_NUMBER})"
_SIDE_HERE = re.compile(_SIDE_IS, re.IGNORECASE)
_ANY_SIDE = re.sub(r"\?P<[a-z]+>", "?:", _SIDE_IS)
# A mask line, four named sides, or numbers behind the name of a box.
_PLACE = re.compile(
    r"^(?P<line>[ \t>#*\-]{0,6}[*_`]{0,3}mask[*_`]{0,3}:[ \t*_`]{0,4})(?P<value>[^\s*_`].{0,4000})$"
    rf"|(?<!\w)(?P<sides>{_ANY_SIDE}(?:[\"']?\s{{0,3}},\s{{0,9}}{_ANY_SIDE}){{3}})"
    rf"|(?<!\w)(?P<key>{_KEYS})(?P<is>[\"'*`_ ]{{0,6}}(?:[:=>\uff1a\uff1d]|[ \t]{{0,3}}\n)[*_ ]{{0,4}})"
    rf"(?P<numbers>(?:[\s,;()\[\]\"'`]|\bbox\b|\bfull\b|{_NUMBER}(?![\w.])){{1,400}})(?P<rows>rows)?",
    re.MULTILINE | re.IGNORECASE,
)


def _place(found: re.Match[str], form: BoxForm, size: Size | None) -> str:
    if found["line"] is not None:
        return found["line"] + _mask_value(found["value"], form, size)
    if not form.pixels or found["rows"]:
        return found[0]
    if found["sides"] is not None:
        return _sides(found[0], form, size)
    turned = found["key"].lower() == "box_2d"  # as Gemini has it, y first
    numbers = _RUN.sub(lambda run: _run(run[0], form, size, turned), found["numbers"])
    return found["key"] + found["is"] + numbers


def _mask_value(value: str, form: BoxForm, size: Size | None) -> str:
    """The value of a mask line; as it is where no box is in it, or it has rows."""
    if " rows " in value:
        return value
    numbers: list[float] = []
    for run in _RUN.findall(value):
        of_run = _numbers(run)
        if len(of_run) % 4 == 0:
            numbers += of_run
        elif len(of_run) > 4:
            return value  # who knows which of them are a box
    if not numbers or max(numbers) <= 1:  # shares of the sides are plain
        return value
    found = [form.thousandths(four, size) for four in _fours(numbers)]
    boxes = [box for box in found if box is not None]
    return boxes_text(boxes) if len(boxes) == len(found) else value


def _run(run: str, form: BoxForm, size: Size | None, turned: bool) -> str:
    """Numbers of boxes as thousandths, with what stands between them."""
    numbers = _numbers(run)
    if len(numbers) % 4 or max(numbers) <= 1:
        return run
    written: list[str] = []
    for four in _fours(numbers):
        box = form.thousandths((four[1], four[0], four[3], four[2]) if turned else four, size)
        if box is None:
            return run
        written += _written((box[1], box[0], box[3], box[2]) if turned else box)
    return re.sub(_NUMBER, lambda number: written.pop(0), run)


def _sides(text: str, form: BoxForm, size: Size | None) -> str:
    """Four named numbers, sides of a box or a corner and its extent."""
    named = {found["name"].lower(): float(found["number"]) for found in _SIDE_HERE.finditer(text)}
    names = next((each for each in (*SIDES, *EXTENT) if set(each) == named.keys()), None)
    if names is None or max(named.values()) <= 1:
        return text
    a, b, c, d = (named[name] for name in names)
    box = form.thousandths((a, b, a + c, b + d) if names in EXTENT else (a, b, c, d), size)
    if box is None:
        return text
    x0, y0, x1, y1 = box
    written = dict(zip(names, _written((x0, y0, x1 - x0, y1 - y0) if names in EXTENT else box), strict=True))

    def put(found: re.Match[str]) -> str:
        return found[0][: found.start("number") - found.start()] + written[found["name"].lower()]

    return _SIDE_HERE.sub(put, text)


def _written(numbers: Sequence[float]) -> list[str]:
    return [f"{math.floor(each * 10) / 10:.1f}" for each in numbers]  # a corner and its extent stay inside


def _fours(numbers: Sequence[float]) -> Iterator[Box]:
    for at in range(0, len(numbers), 4):
        x0, y0, x1, y1 = numbers[at : at + 4]
        yield x0, y0, x1, y1


def _numbers(run: str) -> tuple[float, ...]:
    return tuple(float(each) for each in re.findall(_NUMBER, run))
