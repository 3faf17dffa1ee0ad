"""`ip2p`: Hugging Face's timbrooks/instructpix2pix-clip-filtered, `data/train-*.parquet`. Its card names no
licence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..recipe import Source
from . import tables
from .item import Item
from .rows import pair, table_rows

_NEEDED = ("original_prompt", "original_image", "edit_prompt", "edited_prompt", "edited_image")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Rows of one caption are one group: nothing else says which picture it is."""
    for place, data in table_rows(number, source, tables.files(path, "**/*.parquet"), _NEEDED):
        captions = {"original": data["original_prompt"], "edited": data["edited_prompt"]}
        yield pair(
            place, place.key, data["original_prompt"] or place.key, data["original_image"],
            data["edited_image"], data["edit_prompt"], extra={"captions": captions},
        )  # fmt: skip
