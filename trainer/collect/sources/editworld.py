"""`editworld`: `{generated_img,video_img,human_select_img}/group_N/` with `sampleK_ori.png`,
`sampleK_tar.png` and `img_txt.json` of {"sampleK": {"instuction": ...}}, spelt so; the right spelling is
taken, too. A sample that says its `category` (Long-Term, Physical-Trans, ...) has a scenario; the published
ones do not all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from ...data.files import parse
from ..recipe import Source
from .item import Item
from .rows import Place, pair
from .scenarios import scenario_of

BRANCHES = ("generated_img", "video_img", "human_select_img")
TEXTS = "img_txt.json"


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError."""
    roots = [root for root in (path, path / "editworld") if any((root / each).is_dir() for each in BRANCHES)]
    files = sorted(file for root in roots[:1] for each in BRANCHES for file in root.glob(f"{each}/*/{TEXTS}"))
    if not files:
        raise RecordError(f"sources.{number}: {path} has no {TEXTS} in the groups of {', '.join(BRANCHES)}")
    for file in files:
        try:
            content = parse(file.read_bytes())
        except RecordError as error:
            raise RecordError(f"sources.{number}: {file}: {error}") from None
        if not isinstance(content, dict):
            raise RecordError(f"sources.{number}: {file}: expected an object of samples")
        for row, (name, data) in enumerate(content.items()):
            yield _pair(Place(number, source, file, row), file, name, data)


def _pair(place: Place, file: Path, name: str, data: Any) -> Item:
    said = data.get("instuction") or data.get("instruction") if isinstance(data, dict) else None
    branch, group = file.parts[-3], file.parts[-2]
    key = f"{branch}-{group}-{name}"
    extra = {"branch": branch, **scenario_of(data.get("category") if isinstance(data, dict) else None)}
    return pair(place, key, key, f"{name}_ori.png", f"{name}_tar.png", said, extra=extra)
