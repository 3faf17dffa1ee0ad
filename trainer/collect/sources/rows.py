"""What sources of public sets share: a row by the names of its columns, checked as it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import RecordError

from ..recipe import Source
from . import tables
from .columns import picture
from .item import Item


class Place(NamedTuple):
    """A row: its source's number, its file and its number there."""

    number: int
    source: Source
    file: Path
    row: int

    def __str__(self) -> str:
        return f"sources.{self.number}: {self.file}, row {self.row}"

    @property
    def key(self) -> str:
        """What the row is called where it has no name of its own."""
        return f"{tables.named(self.source.path, self.file)}-{self.row}"


def table_rows(
    number: int, source: Source, files: list[Path], needed: tuple[str, ...]
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Each row of these tables, which must have the columns needed. Raises RecordError."""
    for file in files:
        for row, data in tables.rows(file):
            place = Place(number, source, file, row)
            missing = [name for name in needed if name not in data]
            if missing:
                raise RecordError(
                    f"{place}: no column {missing[0]!r}; a source of kind {source.kind!r} has "
                    f"{', '.join(needed)}, this table {', '.join(sorted(data))[:300]}"
                )
            yield place, data


def pair(
    place: Place, key: str, group: Any, original: Any, edited: Any, instruction: Any, **more: Any
) -> Item:
    """An item of a row. original, edited: cells or paths. more: further fields of Item. Raises
    RecordError."""
    if not isinstance(instruction, str) or not instruction.strip():
        raise RecordError(f"{place}: an instruction of {instruction!r:.40}: expected text")
    pictures = [
        picture(place.number, key, name, place.file, value, str(place))
        for name, value in (("original", original), ("edited", edited))
    ]
    return Item(
        key,
        f"{place.number}/{group}",
        pictures[0],
        place.source.terms,
        place.source.kind,
        edited=pictures[1],
        instruction=instruction.strip(),
        source_url=place.source.source_url,
        **more,
    )
