"""`hqedit`: Hugging Face's UCSC-VLAA/HQ-Edit, parquet. A row is two items, there and back, of one group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..recipe import Source
from . import tables
from .item import Item
from .rows import pair, table_rows

_NEEDED = ("input", "input_image", "edit", "inverse_edit", "output", "output_image")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError."""
    for place, data in table_rows(number, source, tables.files(path, "**/*.parquet"), _NEEDED):
        one, other = (data["input_image"], data["input"]), (data["output_image"], data["output"])
        ways = (
            (place.key, one, other, data["edit"]),
            (f"{place.key}-back", other, one, data["inverse_edit"]),
        )
        for key, (original, before), (edited, after), instruction in ways:
            captions = {"original": before, "edited": after}
            yield pair(place, key, place.key, original, edited, instruction, extra={"captions": captions})
