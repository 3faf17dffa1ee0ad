"""`smartedit`: SmartEdit's synthetic pairs, `SyntheticData/SyntheticData_info_new.json` of {"0000":
{origin_img_path, target_img_path, instruction: [..]}}, paths from the folder above."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from ...data.files import parse
from ..recipe import Source
from .item import Item
from .rows import Place, pair

INFO = "SyntheticData_info_new.json"


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. One of a pair's instructions is taken, by its name; the others are in the extra."""
    found = [each for each in (path / INFO, path / "SyntheticData" / INFO) if each.is_file()]
    if not found:
        raise RecordError(f"sources.{number}: {path} has no {INFO}, nor in SyntheticData/")
    try:
        content = parse(found[0].read_bytes())
    except RecordError as error:
        raise RecordError(f"sources.{number}: {found[0]}: {error}") from None
    if not isinstance(content, dict):
        raise RecordError(f"sources.{number}: {found[0]}: expected an object of pairs by their number")
    root = found[0].parent.parent / INFO  # paths begin with SyntheticData/
    for row, (key, data) in enumerate(content.items()):
        yield _pair(Place(number, source, root, row), key, data)


def _pair(place: Place, key: str, data: Any) -> Item:
    names = ("origin_img_path", "target_img_path", "instruction")
    if not isinstance(data, dict) or any(name not in data for name in names):
        raise RecordError(f"{place} ({key!r:.20}): expected {', '.join(names)}, got {data!r:.80}")
    said = data["instruction"] if isinstance(data["instruction"], list) else [data["instruction"]]
    if not said:
        raise RecordError(f"{place} ({key!r:.20}): no instruction")
    at = zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(said)
    original, edited = data["origin_img_path"], data["target_img_path"]
    also = [each for number, each in enumerate(said) if number != at]
    return pair(place, key, original, original, edited, said[at], extra={"also": also} if also else {})
