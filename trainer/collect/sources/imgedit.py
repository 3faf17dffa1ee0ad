"""`imgedit`: Hugging Face's sysuyy/ImgEdit, `Parquet/*.parquet` of {input_images, output_images, prompt}, or
of several turns in `data`; the tars of Singleturn and Multiturn unpacked where they lie, or above."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from evlm.errors import RecordError
from evlm.files.safe_paths import inside

from ..recipe import Source
from . import tables
from .columns import picture
from .item import Item
from .rows import Place, pair

_FOLDERS = ("", "Singleturn", "Multiturn")
_NAMES = ("input_images", "output_images", "prompt")
_TYPES = {"add": "addition", "remove": "removal", "replace": "transformation", "adjust": "transformation",
          "alter": "transformation", "style": "style"}  # fmt: skip
"""By the first word of a table's name."""


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Edits of one picture, which several tasks have, are one group."""
    root = path if path.is_dir() else path.parent.parent
    for file in tables.files(path, "**/*.parquet"):
        for row, data in tables.rows(file):
            place = Place(number, source, file, row)
            if isinstance(data.get("data"), list):
                for turn, each in enumerate(data["data"]):
                    yield _pair(place, root, each, turn)
            else:
                yield _pair(place, root, data, None)


def _pair(place: Place, root: Path, data: Any, turn: int | None) -> Item:
    if not isinstance(data, dict) or any(name not in data for name in _NAMES):
        raise RecordError(
            f"{place}: expected {', '.join(_NAMES)}, or turns of them in data, got {data!r:.80}"
        )
    shown, made = ([_found(place, root, each) for each in _listed(place, name, data[name])]
                   for name in _NAMES[:2])  # fmt: skip
    task = place.file.stem.rsplit("_part", 1)[0]
    key = place.key if turn is None else f"{place.key}-{turn}"
    beside = place._replace(file=root / place.file.name)
    more = {} if len(shown) == 1 else {
        "reference": picture(place.number, key, "reference", beside.file, shown[1], str(place))
    }  # fmt: skip
    return pair(
        beside, key, PurePosixPath(shown[0]).parent.name, shown[0], made[0], data["prompt"],
        edit_type=_TYPES.get(task.split("_")[0]),
        extra={"task": task, **({} if turn is None else {"turn": turn + 1})}, **more,
    )  # fmt: skip


def _listed(place: Place, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"{place}: {name} {value!r:.60}: expected a list of pictures' paths")
    return value


def _found(place: Place, root: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise RecordError(f"{place}: a picture called {name!r:.60}: expected a path")
    for folder in _FOLDERS:
        try:
            if inside(root, f"{folder}/{name}" if folder else name).is_file():
                return f"{folder}/{name}" if folder else name
        except RecordError as error:
            raise RecordError(f"{place}: {error}") from None
    raise RecordError(f"{place}: {name!r:.80} is not in {root}, Singleturn or Multiturn: unpack its tars")
