"""`anyedit`: AnyEdit's `*.json` of {edit, "edited object", input, output, edit_type, visual_input,
image_file, edited_file}, pictures in the folders beside it: coco/train2014, flux_coco_images,
anyedit_datasets/TYPE. What a `visual_*` edit is shown beside the original is its reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.safe_paths import inside

from ..recipe import Source
from . import tables
from .columns import picture
from .item import Item
from .rows import Place, pair, table_rows

_NEEDED = ("edit", "edit_type", "image_file", "edited_file")
_FOLDERS = ("", "coco/train2014", "flux_coco_images", "anyedit_datasets")
_TYPES = {
    "add": "addition", "remove": "removal", "replace": "transformation", "color_alter": "transformation",
    "appearance_alter": "transformation", "action_change": "transformation", "material_change": "texture",
    "style_change": "style", "tune_transfer": "weather", "movement": "layout", "resize": "layout",
    "rotation_change": "layout", "relation": "layout",
}  # fmt: skip
"""tune_transfer is season, time of day and weather."""


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Raises RecordError. Rows of one source picture are one group."""
    root = path if path.is_dir() else path.parent
    files = [file for file in tables.files(path, "*.json") if file.suffix == ".json"]
    for place, data in table_rows(number, source, files, _NEEDED):
        kind, original = str(data["edit_type"]), data["image_file"]
        beside = place._replace(file=root / place.file.name)
        captions = {name: data[column] for name, column in (("original", "input"), ("edited", "output"))
                    if _said(data.get(column))}  # fmt: skip
        shown = data.get("visual_input")
        more = {} if not _said(shown) else {"reference": picture(
            number, place.key, "reference", beside.file, _found(place, root, kind, shown), str(place)
        )}  # fmt: skip
        yield pair(
            beside, place.key, original, _found(place, root, kind, original),
            _found(place, root, kind, data["edited_file"]), data["edit"],
            region=_said(data.get("edited object")), edit_type=_TYPES.get(kind),
            extra={"edit_type": kind, **({"captions": captions} if captions else {})}, **more,
        )  # fmt: skip


def _said(value: Any) -> str:
    """A text; the set writes "None" where there is none."""
    return value.strip() if isinstance(value, str) and value.strip() not in ("", "None") else ""


def _found(place: Place, root: Path, kind: str, name: Any) -> str:
    """A picture's path in the set: rows name the file alone, or its folder, too."""
    if not isinstance(name, str) or not name:
        raise RecordError(f"{place}: a picture called {name!r:.60}: expected a file's name")
    for folder in (*_FOLDERS, f"anyedit_datasets/{kind}"):
        try:
            if inside(root, f"{folder}/{name}" if folder else name).is_file():
                return f"{folder}/{name}" if folder else name
        except RecordError as error:
            raise RecordError(f"{place}: {error}") from None
    raise RecordError(
        f"{place}: {name!r:.80} is in none of {root}, {', '.join(_FOLDERS[1:])}, anyedit_datasets/{kind:.40}"
    )
