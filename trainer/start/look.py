"""What lies in a dataset folder: which files of rows, in which form, and what can be learned from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evlm.errors import EVLMError, RecordError
from evlm.records import ROWS_FILE

from ..data.check import detected
from ..data.files import PARQUET, SUFFIXES
from ..data.formats import INFO_FILE
from ..data.stream import Source, Stream

_NO_ROWS = (INFO_FILE, "dataset_infos.json", "state.json", "config.json", "package.json")
_SPLIT = re.compile(r"(?:^|[-_.])(test|val|valid|validation|dev|eval)(?:[-_.]|$)", re.IGNORECASE)
MOST = 64  # files of rows that are looked at


@dataclass(frozen=True)
class Part:
    """A file or folder of rows. rows: all of them, that are learned from (of ours those of the split train);
    labelled: that say whether they are desired; desired: that are, or say nothing. validation: such rows of
    that split, by which alone a run measures; foreign rows do not have it. pictures: places for pictures in
    the first rows, each."""

    path: Path
    form: str
    rows: int
    labelled: int
    desired: int
    validation: int = 0
    pictures: float = 0.0

    @property
    def undesired(self) -> int:
        return self.rows - self.desired


@dataclass(frozen=True)
class Found:
    """parts: what can be learned from. refused: what cannot, and why, one line each."""

    parts: list[Part] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def sum(self, what: str) -> int:
        return sum(getattr(part, what) for part in self.parts)


def look(folder: Path) -> Found:
    """All files of rows in a folder, or the one that is named; every row is read once or twice, no picture
    is. Raises RecordError where there is nothing to learn from."""
    found = Found()
    for path in _candidates(folder):
        try:
            form, split = detected(path), _SPLIT.search(path.stem)
            if split and path != folder and form != "evlm":  # our rows say their split themselves
                found.refused.append(
                    f"{path}: by its name rows of the split {split[1]!r}, to be measured and not learned; to "
                    "learn them, name the file itself"
                )
                continue
            found.parts.append(_part(path, form))
        except EVLMError as error:
            found.refused.append(f"{path}: {error}")
    if not found.parts:
        why = "; ".join(found.refused[:3]) or f"no file of rows ({', '.join(SUFFIXES)}) is in it"
        raise RecordError(f"{folder}: nothing to learn from: {why}. docs/data.md says which forms are known")
    return found


def held_out(found: Found, share: float) -> int:
    """Desired rows that a share of the questions holds: few, where many rows ask the same."""
    return sum(
        _count(
            lambda part=part: Stream(  # type: ignore[misc]
                [Source(part.path, form=part.form, desired=True, heldout=share, held=True)], 1
            )
        )
        for part in found.parts
    )


def _candidates(folder: Path) -> list[Path]:
    """Dataset folders of ours and files that may hold rows: in the folder, else in its folder data."""
    if not folder.exists():
        raise RecordError(f"{folder}: there is no such folder")
    if folder.is_file():
        return [folder]
    if any((folder / name).is_file() for name in (ROWS_FILE, PARQUET)):
        return [folder]
    for place in (folder, folder / "data"):
        files = sorted(file for file in place.glob("*") if file.suffix in SUFFIXES and file.is_file())
        files = [file for file in files if file.name not in _NO_ROWS and not file.name.startswith(".")]
        inner = sorted(p.parent for n in (ROWS_FILE, PARQUET) for p in place.glob(f"*/{n}"))
        if files or inner:
            return [*files, *dict.fromkeys(inner)][:MOST]
    return []


def _part(path: Path, form: str) -> Part:
    splits = ("train",) if form == "evlm" else ()

    def count(**which: bool) -> int:
        return _count(lambda: Stream([Source(path, form=form, splits=splits, **which)], 1))  # type: ignore[arg-type]

    everything = Stream([Source(path, form=form, splits=splits)], 1)
    rows = everything.counts[0]
    some = [everything.draw(at).item for at in range(min(rows, 8))]
    seen = [len(item.paths()) if form == "evlm" else len(item.images) + len(item.videos) for item in some]  # type: ignore[union-attr]
    validation = 0
    if form == "evlm":
        held = Source(path, form=form, splits=("validation",), desired=True)
        validation = _count(lambda: Stream([held], 1))
    return Part(
        path, form, rows, count(labelled=True), count(desired=True), validation, sum(seen) / max(1, len(seen))
    )


def _count(stream: Callable[[], Stream]) -> int:
    """Rows of a stream; 0 where it has none. A bad row was named when all of them were read."""
    try:
        return stream().counts[0]
    except RecordError:
        return 0
