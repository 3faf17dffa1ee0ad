"""`diptychs`: a folder of pictures that each show a before and an after, side by side, as image makers draw
them; cut at the seam. Beside them perhaps `diptychs.jsonl` of {picture, instruction?, edit_type?, group?}."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.pictures import load_picture, to_pil
from evlm.files.safe_paths import inside, leads_to_its_kind

from ...data.files import read_lines
from ..diptych import split
from ..recipe import Source
from .folder import PICTURES
from .item import Item, Media

LINES = "diptychs.jsonl"
_FIELDS = ("picture", "instruction", "edit_type", "group")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """An item a picture; what turns out to be no diptych is dropped when it is opened. Raises RecordError."""
    found = list(_lines(number, path)) if (path / LINES).is_file() else [
        (file, {}) for file in sorted(path.iterdir() if path.is_dir() else ())
        if file.suffix.lower() in PICTURES and not file.name.startswith(".")
    ]  # fmt: skip
    if not found:
        raise RecordError(
            f"sources.{number}: {path} has neither {LINES} nor a picture ({', '.join(PICTURES)})"
        )
    for row, (file, said) in enumerate(found):
        if not leads_to_its_kind(file):
            raise RecordError(
                f"sources.{number}: {file} is a link to a file of another kind; put a copy there"
            )
        key = f"{row}-{file.stem}" if said else file.name
        before, after = (Media(f"{number}/{key}/{name}", "image", half(file, side), file, side)
                         for side, name in enumerate(("original", "edited")))  # fmt: skip
        yield Item(
            key, f"{number}/{said.get('group') or file.name}", before, source.license, "diptychs",
            edited=after, instruction=said.get("instruction") or "", edit_type=said.get("edit_type") or None,
            source_url=source.source_url,
        )  # fmt: skip


def _lines(number: int, path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    for line, data in read_lines(path / LINES):
        where = f"sources.{number}: {path / LINES}, line {line}"
        if isinstance(data, RecordError):
            raise RecordError(f"{where}: {data}")
        _check(where, data)
        try:
            file = inside(path, data["picture"])
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
        if not file.is_file():
            raise RecordError(f"{where}: {file} does not exist")
        yield file, data


def _check(where: str, data: Any) -> None:
    if not isinstance(data, dict) or not data.get("picture"):
        raise RecordError(f"{where}: expected an object with 'picture', got {data!r:.60}")
    for name, value in data.items():
        if name not in _FIELDS:
            raise RecordError(f"{where}: {name!r:.40} is not known; known are {', '.join(_FIELDS)}")
        if not isinstance(value, str | None):
            raise RecordError(f"{where}: {name} {value!r:.40}: expected text")


def half(file: Path, side: int) -> Callable[[], bytes]:
    """Reads one side of a diptych, as PNG."""
    return lambda: _halves(file, file.stat().st_mtime_ns)[side]


@lru_cache(4)
def _halves(file: Path, changed: int) -> tuple[bytes, bytes]:
    """Both as PNG: they are asked for one after the other. Raises RecordError, PictureError."""
    found = split(to_pil(load_picture(file)[0]))
    if found is None:
        raise RecordError(f"{file}: no diptych: no seam in its middle has halves that agree")
    return _png(found.left), _png(found.right)


def _png(picture: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
