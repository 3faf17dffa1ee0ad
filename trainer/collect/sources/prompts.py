"""`prompts`: a file of lines {instruction, original | picture, edit_type?, group?} for a maker: of an
original (a path beside the file) it draws the edited picture; of a picture in words both, as a diptych."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.safe_paths import inside

from ...data.files import read_lines
from ..recipe import Source
from .folder import media
from .item import Item, Media, Order

_FIELDS = ("instruction", "original", "picture", "edit_type", "group")
_DIPTYCH = (
    "A diptych: two pictures of one size side by side, without a frame and without words. The left one shows "
    "{picture}. The right one is the very same picture after this edit: {instruction}. Nothing else differs."
)


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """An item a line. Raises RecordError."""
    for line, data in read_lines(path):
        where = f"sources.{number}: {path}, line {line}"
        if isinstance(data, RecordError):
            raise RecordError(f"{where}: {data}")
        _check(where, data)
        key, original = str(line), data.get("original") or ""
        if original:
            before = _file(number, key, path.parent, original, where)
            orders = [None, Order(data["instruction"], before.file)]
        else:
            said = _DIPTYCH.format(picture=_plain(data["picture"]), instruction=_plain(data["instruction"]))
            orders = [Order(said, None, 0), Order(said, None, 1)]
            before = Media(f"{number}/{key}/original", "image", _undrawn(where), path, line, orders[0])
        yield Item(
            key, f"{number}/{data.get('group') or original or key}", before, source.license, "prompts",
            edited=Media(f"{number}/{key}/edited", "image", _undrawn(where), path, line, orders[1]),
            instruction=data["instruction"], edit_type=data.get("edit_type") or None,
            source_url=source.source_url,
        )  # fmt: skip


def _check(where: str, data: Any) -> None:
    if not isinstance(data, dict):
        raise RecordError(f"{where}: expected an object, got {data!r:.60}")
    for name, value in data.items():
        if name not in _FIELDS:
            raise RecordError(f"{where}: {name!r:.40} is not known; known are {', '.join(_FIELDS)}")
        if not isinstance(value, str | None):
            raise RecordError(f"{where}: {name} {value!r:.40}: expected text")
    if not (data.get("instruction") or "").strip() or bool(data.get("original")) == bool(data.get("picture")):
        raise RecordError(f"{where}: expected 'instruction', and 'original' or 'picture', got {data!r:.80}")


def _file(number: int, key: str, folder: Path, name: str, where: str) -> Media:
    try:
        file = inside(folder, name)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
    if not file.is_file():
        raise RecordError(f"{where}: {file} does not exist")
    found = media(number, key, "original", file)
    if found.kind != "image":
        raise RecordError(f"{where}: {file} is no picture; a maker draws none of a clip")
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(". ")


def _undrawn(where: str) -> Callable[[], bytes]:
    def load() -> bytes:
        raise RecordError(f"{where}: it is not drawn yet")

    return load
