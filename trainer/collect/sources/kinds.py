"""Which kinds of source there are; the file of each is loaded when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import get_args

from evlm.errors import RecordError

from ..quota import TYPES
from ..recipe import Kind, Source
from .item import Item

KINDS: tuple[str, ...] = get_args(Kind)


def items(number: int, source: Source) -> Iterator[Item]:
    """The rows of a recipe's source number `number`, in the order in which they lie there.

    Raises RecordError for a source that cannot be read, with what was expected; for one row that cannot be
    used it names the row.
    """
    path = Path(source.path).expanduser()
    if not path.exists():
        raise RecordError(f"sources.{number}: {path} does not exist; nothing is downloaded, so put it there")
    module = import_module(f".{source.kind.replace('-', '_')}", __package__)
    seen: set[str] = set()
    for item in islice(module.read(number, path, source), source.rows or None):
        if item.key in seen:
            raise RecordError(f"sources.{number}: {item.key!r:.80} comes twice in {path}; each needs a name")
        seen.add(item.key)
        if item.edit_type is not None and item.edit_type not in TYPES:
            raise RecordError(
                f"sources.{number}: {item.key!r:.80} has the edit type {item.edit_type!r:.40}; expected one "
                f"of {', '.join(TYPES)}, or none"
            )
        yield item
