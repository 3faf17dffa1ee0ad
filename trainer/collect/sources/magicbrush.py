"""`magicbrush`: Hugging Face's osunlp/MagicBrush, `data/{train,dev}-*.parquet`. Its turns about one COCO
picture are one group. The test set asks in its own words never to be trained on, so it is not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evlm.errors import RecordError

from ..recipe import Source
from . import tables
from .item import Item
from .rows import pair, table_rows

_NEEDED = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError."""
    files = [file for file in tables.files(path, "**/*.parquet") if file.name.startswith(("train", "dev"))]
    if not files:
        raise RecordError(
            f"sources.{number}: {path} has no train-*.parquet or dev-*.parquet; the test set is "
            "not for training"
        )
    for place, data in table_rows(number, source, files, _NEEDED):
        key = f"{data['img_id']}-{data['turn_index']}"
        yield pair(
            place, key, data["img_id"], data["source_img"], data["target_img"], data["instruction"],
            extra={"turn": data["turn_index"]},
        )  # fmt: skip
