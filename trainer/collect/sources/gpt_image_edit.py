"""`gpt-image-edit`: UCSC-VLAA's GPT-Image-Edit-1.5M, its tars unpacked in `gpt-edit/`, and the lists of its
training in `training_json/`: {image: [input, output], conversations: [{from, value}]}, paths from the folder
that belongs to the list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from evlm.errors import RecordError

from ..recipe import Source
from .item import Item
from .rows import Place, pair, table_rows

LISTS = {
    "hqedit_gpt_edit": "hqedit/edit",
    "hqedit_gpt_generate": "hqedit/generate",
    "omniedit_gpt": "omniedit",
    "omniedit_gpt_rewrite": "omniedit",
    "complexedit_gpt": "omniedit/complex-edit",
    "ultraedit_gpt": "ultraedit",
}
"""The folder of each list's pictures, in `gpt-edit/`."""


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Two instructions for one input are one group."""
    files = [file for name in LISTS if (file := path / "training_json" / f"{name}.json").is_file()]
    if not files:
        raise RecordError(
            f"sources.{number}: {path} has none of {', '.join(LISTS)} (.json) in training_json/"
        )
    for place, data in table_rows(number, source, files, ("image", "conversations")):
        yield _pair(place, path / "gpt-edit" / LISTS[place.file.stem], data)


def _pair(place: Place, root: Path, data: dict[str, Any]) -> Item:
    pictures, said = data["image"], data["conversations"]
    if not isinstance(pictures, list) or len(pictures) != 2:
        raise RecordError(f"{place}: image {pictures!r:.80}: expected [input, output]")
    asked = [each.get("value") for each in said if isinstance(each, dict) and each.get("from") == "human"] \
        if isinstance(said, list) else []  # fmt: skip
    if len(asked) != 1 or not isinstance(asked[0], str):
        raise RecordError(f"{place}: conversations {said!r:.80}: expected one question by human")
    group = f"{LISTS[place.file.stem]}/{PurePosixPath(str(pictures[0])).name}"
    return pair(
        place._replace(file=root / place.file.name), place.key, group, pictures[0], pictures[1],
        asked[0].replace("<image>", ""), extra={"list": place.file.stem},
    )  # fmt: skip
