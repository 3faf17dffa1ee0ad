"""`python -m trainer data sources PATH`: as which kinds of source a folder or table can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from evlm.errors import ConfigError, RecordError

from .recipe import LICENSES, Source
from .sources import tables
from .sources.item import Item
from .sources.kinds import KINDS, items

_TOLD = ("columns", "prompts", "diptychs")  # what needs more than a path, or takes any folder of pictures


class Found(NamedTuple):
    """kind: as a recipe names it. rows: that can be read. fields: how many rows have each. problem: of the
    first row that cannot be, after those."""

    kind: str
    rows: int
    fields: dict[str, int]
    problem: str = ""


def recognised(path: Path, kind: str = "auto") -> list[Found]:
    """As every kind whose first row can be read. Raises RecordError where there are none, with what its
    tables have."""
    kinds = [each for each in KINDS if each not in _TOLD] if kind == "auto" else [kind]
    found, reasons = [], []
    for each in kinds:
        try:
            found.append(_read(path, each))
        except (RecordError, ConfigError) as error:
            reasons.append(str(error))
    if found:
        named = {each.kind for each in found}  # a folder's originals/ is no clip
        return [each for each in found if each.kind != "frames" or "folder" not in named]
    if kind != "auto":
        raise RecordError(reasons[0])
    raise RecordError(
        f"{path}: no kind of source is recognised"
        + (f"; for kind 'columns', its table has {', '.join(names)}" if (names := _columns(path)) else "")
        + " (docs/dataset.md has the kinds)"
    )


def lines(path: Path, found: list[Found]) -> Iterator[str]:
    """What is said of them."""
    for each in found:
        licence = LICENSES.get(each.kind, "yours to say (license:)")
        fields = ", ".join(f"{name} {count:,}" for name, count in each.fields.items())
        yield f"{each.kind}: {each.rows:,} rows of {path}; {fields}; licence {licence}"
        if each.problem:
            yield f"  then: {each.problem}"


def _read(path: Path, kind: str) -> Found:
    rows, fields = 0, Counter[str]()
    try:
        for item in items(0, Source(kind, str(path), license="unknown")):  # type: ignore[arg-type]
            rows += 1
            fields.update(_fields(item))
    except RecordError as error:
        if not rows:
            raise
        return Found(kind, rows, dict(fields), str(error))
    if not rows:
        raise RecordError(f"{path}: nothing lies there")
    return Found(kind, rows, dict(fields))


def _fields(item: Item) -> Iterator[str]:
    yield "clips" if item.original.kind == "video" else "pictures"
    for name in ("edited", "reference", "instruction", "region", "edit_type"):
        if getattr(item, name):
            yield name
    yield from (name for name in ("captions", "scenario") if name in item.extra)


def _columns(path: Path) -> list[str]:
    try:
        _, first = next(tables.rows(tables.files(path)[0]))
    except (RecordError, StopIteration):
        return []
    return sorted(map(str, first))[:40]
