"""`folder`: `originals/*.{png,jpg,webp,mp4,...}` and, with the same stems, `references/` and `edited/`; or
`pairs.jsonl` of {original, edited?, reference?, instruction?, region?, edit_type?, group?}, with {prompt?,
references?, texts?} where somebody asked for the edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.safe_paths import inside, leads_to_its_kind

from ...data.files import read_lines
from ..recipe import Source
from .item import Asked, Item, Media, MediaKind

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CLIPS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".gif")
PAIRS = "pairs.jsonl"
_TEXTS = ("original", "edited", "reference", "instruction", "region", "edit_type", "group", "prompt")
_LISTS = ("references", "texts")  # of what was asked, beside its prompt
_FIELDS = (*_TEXTS, *_LISTS)


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """Items of a folder. Raises RecordError."""
    if (path / PAIRS).is_file():
        yield from _pairs(number, path, source)
        return
    originals = _by_stem(number, path / "originals")
    if not originals:
        raise RecordError(
            f"sources.{number}: {path} has neither {PAIRS} nor a picture or clip in originals/ "
            f"({', '.join((*PICTURES, *CLIPS))})"
        )
    others = {name: _by_stem(number, path / folder) for name, folder in
              (("reference", "references"), ("edited", "edited"))}  # fmt: skip
    for name, files in others.items():
        lonely = sorted(files.keys() - originals.keys())
        if lonely:
            raise RecordError(
                f"sources.{number}: {files[lonely[0]]} has no original called {lonely[0]!r:.60}, so no row "
                f"has it as its {name}"
            )
    for stem, file in originals.items():
        pictures = {name: media(number, stem, name, files[stem]) for name, files in others.items()
                    if stem in files}  # fmt: skip
        yield Item(
            stem,
            f"{number}/{stem}",
            media(number, stem, "original", file),
            source.license,
            "folder",
            edited=pictures.get("edited"),
            reference=pictures.get("reference"),
            source_url=source.source_url,
        )


def media(number: int, key: str, name: str, file: Path) -> Media:
    """A file as what it is by its ending: what it holds is found when it is opened."""
    kind: MediaKind = "video" if file.suffix.lower() in CLIPS or file.is_dir() else "image"
    load: Callable[[], Path] = lambda: file  # noqa: E731
    return Media(f"{number}/{key}/{name}", kind, load, file)


def _by_stem(number: int, folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.startswith(".") or file.suffix.lower() not in (*PICTURES, *CLIPS):
            continue
        if not leads_to_its_kind(file):
            raise RecordError(
                f"sources.{number}: {file} is a link to a file of another kind; put a copy there"
            )
        if file.stem in found:
            raise RecordError(
                f"sources.{number}: {found[file.stem].name} and {file.name} in {folder} have one name; "
                "rename one of them"
            )
        found[file.stem] = file
    return found


def _pairs(number: int, path: Path, source: Source) -> Iterator[Item]:
    for line, data in read_lines(path / PAIRS):
        where = f"sources.{number}: {path / PAIRS}, line {line}"
        if isinstance(data, RecordError):
            raise RecordError(f"{where}: {data}")
        yield _pair(number, path, source, str(line), data, where)


def _pair(number: int, path: Path, source: Source, key: str, data: Any, where: str) -> Item:
    if not isinstance(data, dict) or not data.get("original"):
        raise RecordError(f"{where}: expected an object with 'original', got {data!r:.60}")
    unknown = sorted(map(str, data.keys() - set(_FIELDS)))
    if unknown:
        raise RecordError(f"{where}: {unknown[0]!r:.40} is not known; known are {', '.join(_FIELDS)}")
    texts: dict[str, Any] = {name: data.get(name) or "" for name in _TEXTS}
    lists = {name: data.get(name) or [] for name in _LISTS}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise RecordError(f"{where}: {name} {text!r:.40}: expected text")
    for name, several in lists.items():
        if not isinstance(several, list) or not all(
            isinstance(each, str) and each.strip() for each in several
        ):
            raise RecordError(f"{where}: {name} {several!r:.40}: expected a list of texts")
    if texts["reference"] and lists["references"]:
        raise RecordError(f"{where}: reference and references: give one of them")

    def shown(name: str, text: str) -> Media:
        try:
            file = inside(path, text)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
        if not file.exists():
            raise RecordError(f"{where}: {file} does not exist")
        return media(number, key, name, file)

    pictures = {name: shown(name, texts[name]) for name in ("original", "edited", "reference") if texts[name]}
    beside = [shown(f"reference {at}", text) for at, text in enumerate(lists["references"], 1)]
    if "reference" in pictures and (texts["prompt"] or lists["texts"]):
        beside = [pictures["reference"]]
    asked = Asked(texts["prompt"].strip(), tuple(beside), tuple(lists["texts"]))
    return Item(
        key,
        f"{number}/{texts['group'] or texts['original']}",
        pictures["original"],
        source.license,
        "folder",
        edited=pictures.get("edited"),
        reference=pictures.get("reference"),
        instruction=texts["instruction"],
        region=texts["region"],
        edit_type=texts["edit_type"] or None,
        source_url=source.source_url,
        asked=asked if asked != Asked() else None,
    )
