"""`columns`: any table, by the names that the recipe gives its columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError, RecordError
from evlm.files.safe_paths import inside

from ..recipe import Columns, Source
from . import tables
from .folder import media
from .item import Asked, Item, Media

_PICTURES = ("original", "edited", "reference")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Items of a table, or of a folder of them. Raises RecordError, ConfigError."""
    if source.columns is None:
        raise ConfigError(f"sources.{number}: columns: expected which column is the original")
    for file in tables.files(path):
        for row, data in tables.rows(file):
            yield _item(number, file, row, data, source, source.columns)


def _item(number: int, file: Path, row: int, data: dict[str, Any], source: Source, columns: Columns) -> Item:
    where = f"sources.{number}: {file}, row {row}"
    wanted = {name: column for name, column in vars(columns).items() if column is not None}
    for column in wanted.values():
        if column not in data:
            raise RecordError(f"{where}: no column {column!r:.60}; there are {', '.join(sorted(data))[:300]}")
    key = f"{tables.named(source.path, file)}-{row}"
    pictures = {
        name: picture(number, key, name, file, data[wanted[name]], where)
        for name in _PICTURES
        if name in wanted and data[wanted[name]] is not None
    }
    if "original" not in pictures:
        raise RecordError(f"{where}: the column {columns.original!r:.60} is empty")
    texts = {name: data[wanted[name]] for name in wanted if name not in _PICTURES}
    for name, value in texts.items():
        if not isinstance(value, (str, int, type(None))):
            raise RecordError(f"{where}: {wanted[name]} {value!r:.60}: expected text")
    text = {name: "" if value is None else str(value) for name, value in texts.items()}
    beside = (pictures["reference"],) if "reference" in pictures else ()
    original = data[wanted["original"]]
    same = text.get("group") or (original if isinstance(original, str) else key)
    return Item(
        key,
        f"{number}/{same}",
        pictures["original"],
        source.license,
        path_name(source),
        edited=pictures.get("edited"),
        reference=pictures.get("reference"),
        instruction=text.get("instruction", ""),
        region=text.get("region", ""),
        edit_type=text.get("edit_type") or None,
        source_url=source.source_url,
        asked=Asked(prompt, beside) if (prompt := text.get("prompt", "").strip()) else None,
    )


def picture(number: int, key: str, name: str, file: Path, value: Any, where: str) -> Media:
    """A cell as a picture: bytes in the table, or a path beside it. Raises RecordError."""
    if isinstance(value, tables.Cell):
        return Media(f"{number}/{key}/{name}", "image", value.load, value.file, value.row)
    if not isinstance(value, str):
        raise RecordError(f"{where}: {name} {value!r:.60}: expected a picture, or the path of one")
    try:
        place = inside(file.parent, value)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
    if not place.exists():
        raise RecordError(f"{where}: {place} does not exist")
    return media(number, key, name, place)


def path_name(source: Source) -> str:
    """What rows of a table call their source."""
    return Path(source.path).expanduser().stem or "columns"
