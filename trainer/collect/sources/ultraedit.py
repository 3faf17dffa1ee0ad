"""`ultraedit`: Hugging Face's BleachNick/UltraEdit_500k, `data/FreeForm-*.parquet`; the region set has
the same columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..recipe import Source
from . import tables
from .item import Item
from .rows import pair, table_rows

_NEEDED = ("idx", "edit_prompt", "source_image", "edited_image", "edit_object", "source_caption",
           "target_caption")  # fmt: skip
_SCORES = ("clip_sim_source", "clip_sim_target", "clip_sim_dir", "clip_sim_image", "dinov2_sim", "ssim")


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Rows of one caption are one group: nothing else says which picture it is."""
    for place, data in table_rows(number, source, tables.files(path, "**/*.parquet"), _NEEDED):
        yield pair(
            place, str(data["idx"]), data["source_caption"] or data["idx"], data["source_image"],
            data["edited_image"], data["edit_prompt"], region=data["edit_object"] or "",
            extra={"captions": {"original": data["source_caption"], "edited": data["target_caption"]},
                   "scores": {name: data[name] for name in _SCORES if data.get(name) is not None}},
        )  # fmt: skip
