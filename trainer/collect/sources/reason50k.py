"""`reason50k`: as ReasonBrain's README has it, `{train,val}.jsonl` of {id, category, src_image, tgt_image,
instruction}, pictures in `images/`. Its test.jsonl is not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from ...data.files import read_lines
from ..recipe import Source
from .item import Item
from .rows import Place, pair
from .scenarios import scenario_of

_NEEDED = ("id", "src_image", "tgt_image", "instruction")
_MORE = ("category", "objects", "target_caption")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Rows of one source picture are one group."""
    files = [file for name in ("train.jsonl", "val.jsonl") if (file := path / name).is_file()]
    if not files:
        raise RecordError(f"sources.{number}: {path} has no train.jsonl or val.jsonl")
    for file in files:
        for line, data in read_lines(file):
            place = Place(number, source, file, line - 1)
            if isinstance(data, RecordError):
                raise RecordError(f"{place}: {data}")
            yield _pair(place, data)


def _pair(place: Place, data: Any) -> Item:
    if not isinstance(data, dict) or any(name not in data for name in _NEEDED):
        raise RecordError(f"{place}: expected {', '.join(_NEEDED)}, got {data!r:.80}")
    extra = {name: data[name] for name in _MORE if data.get(name)}
    extra |= scenario_of(data.get("category"))
    original = data["src_image"]
    return pair(
        place, str(data["id"]), original, original, data["tgt_image"], data["instruction"], extra=extra
    )
