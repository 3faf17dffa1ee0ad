"""`omniedit`: Hugging Face's TIGER-Lab/OmniEdit-Filtered-1.2M, parquet. One of a row's prompts is taken, by
its id; the others are in the extra, as are the scores that it was filtered by."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from evlm.errors import RecordError

from ..recipe import Source
from . import tables
from .item import Item
from .rows import pair, table_rows

_NEEDED = ("omni_edit_id", "task", "src_img", "edited_img", "edited_prompt_list")
_SCORES = ("sc_score_1", "sc_score_2", "pq_score", "o_score")
_TYPES = {"removal": "removal", "addition": "addition", "style": "style", "swap": "transformation",
          "attribute_modification": "transformation"}  # fmt: skip


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError."""
    for place, data in table_rows(number, source, tables.files(path, "**/*.parquet"), _NEEDED):
        prompts, key = data["edited_prompt_list"], str(data["omni_edit_id"])
        if not isinstance(prompts, list) or not prompts:
            raise RecordError(f"{place}: edited_prompt_list {prompts!r:.40}: expected a list of instructions")
        at = zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(prompts)
        also = [each for other, each in enumerate(prompts) if other != at]
        scores = {name: data[name] for name in _SCORES if data.get(name) is not None}
        yield pair(
            place, key, key, data["src_img"], data["edited_img"], prompts[at],
            edit_type=_TYPES.get(str(data["task"])),
            extra={"task": data["task"], **({"also": also} if also else {}), "scores": scores},
        )  # fmt: skip
