"""A REFLECTIVE-EDIT dataset on the disk: rows.jsonl and pictures (`row.Row`).

Raters' nodes and the procedural world write rows, the trainer reads them. Paths in a row are relative to the
dataset folder and stay inside it. Several processes may append to one dataset at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import PictureError, RecordError
from .files.append import append_lines, flush_files, replace_lines
from .files.pictures import to_pil, write_atomically
from .files.safe_paths import Inside, inside
from .row import NO_TRACE, REFERENCE_KINDS, Row, load_paths, row_data, step_rows, unchecked_row
from .row_checks import field_problems, path_problems, row_problems

__all__ = [
    "NO_TRACE",
    "REFERENCE_KINDS",
    "ROWS_FILE",
    "Row",
    "RowWriter",
    "check_row",
    "load_paths",
    "read_rows",
    "row_data",
    "row_problems",
    "step_rows",
    "unchecked_row",
]

ROWS_FILE = "rows.jsonl"


class RowWriter:
    """Appends rows to folder/rows.jsonl, safe with several writers: a lock, a write at the file's end, fsync.

    A row is written after its pictures and only if it passes the checks; a failed write leaves no half line.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def append(self, row: Row, pictures: Mapping[str, Tensor] | None = None) -> None:
        """Writes the pictures, then the row.

        pictures: path (.png) -> frame [H, W, 3], [1, H, W, 3] or mask [H, W], [1, H, W] in 0..1. Paths of the
            row that are not among them must exist already. An existing picture is never changed: the same
            bytes are accepted, others refused.
        Raises RecordError, PictureError.
        """
        self.append_all([(row, pictures or {})])

    def replace(self, gone: Iterable[str], row: Row, pictures: Mapping[str, Tensor] | None = None) -> None:
        """Like `append`, and the rows of these ids go in the same moment; their pictures stay."""
        self.append_all([(row, pictures or {})], frozenset(gone))

    def append_all(
        self, rows: Iterable[tuple[Row, Mapping[str, Tensor]]], gone: frozenset[str] = frozenset()
    ) -> None:
        """Like `append` for many rows, with one lock and one flush: all lines are written, or none. gone: ids
        of rows in whose place these stand."""
        lines, written = [], []
        for row, pictures in rows:
            data = row_data(row)
            # Everything is checked first: no picture may be written for a row that is refused.
            problems = [*field_problems(data), *path_problems(data, Inside(self.folder), set(pictures))]
            unused = set(pictures) - set(row.paths())
            problems += [f"picture {name!r:.80} is not used by the row" for name in sorted(unused)]
            if problems:
                raise RecordError(f"row {row.id!r:.80} is refused: " + "; ".join(problems))
            masks = {row.mask, *(step.get("mask") for step in row.steps)}
            encoded = {name: _png(picture, name, name in masks) for name, picture in pictures.items()}
            written += self._write_pictures(encoded)
            lines.append(json.dumps(data, allow_nan=False) + "\n")
        if not lines:
            return
        path = self.folder / ROWS_FILE
        try:
            flush_files(written)
            if gone:
                replace_lines(path, lambda line: _id_of(line) in gone, "".join(lines).encode())
            else:
                append_lines(path, "".join(lines).encode())
        except OSError as error:
            raise RecordError(f"{path}: cannot be written ({error}); it is as it was before") from error

    def _write_pictures(self, encoded: dict[str, bytes]) -> list[Path]:
        """Writes those that are not there yet, and gives their paths; not yet flushed to the disk."""
        new = {}
        for name, data in encoded.items():
            path = inside(self.folder, name)
            if not path.exists():
                new[path] = data
            elif path.read_bytes() != data:
                raise RecordError(
                    f"{path} exists with another content; a dataset's pictures are never changed"
                )
        for path, data in new.items():
            try:
                write_atomically(path, lambda file, data=data: file.write(data), flush=False)  # type: ignore[misc]
            except OSError as error:
                raise RecordError(f"{path}: cannot be written ({error})") from error
        return list(new)


def read_rows(
    path: str | os.PathLike[str],
    on_problem: Callable[[RecordError], None] | None = None,
    check_files: bool = True,
) -> Iterator[Row]:
    """The rows of a dataset, one at a time.

    path: the dataset folder, or its .jsonl file (paths are then relative to the file's folder).
    on_problem: called with the error of each bad line, which is left out; without it the first one is raised.
    check_files: whether each picture of a row must exist; that paths stay inside is always checked.
    Raises RecordError naming the line and every reason.
    """
    path = Path(path)
    file = path / ROWS_FILE if path.is_dir() else path
    if not file.is_file():
        raise RecordError(f"{file}: no such file; expected a dataset folder with {ROWS_FILE}")
    seen: dict[str, int] = {}
    folder = Inside(file.parent)
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _read_line(line, number, folder, check_files)
                if row.id in seen:
                    raise RecordError(f"line {number}: id {row.id!r:.80} was seen on line {seen[row.id]}")
                seen[row.id] = number
            except RecordError as error:
                problem = RecordError(f"{file}, {error}")
                if on_problem is None:
                    raise problem from None
                on_problem(problem)
            else:
                yield row


def check_row(data: Any, line: int, folder: str | os.PathLike[str] | Inside, check_files: bool = True) -> Row:
    """A row from parsed JSON. Raises RecordError with the line and every problem that was found."""
    problems = row_problems(data, folder, check_files)
    if problems:
        raise RecordError(f"line {line}: " + "; ".join(problems))
    return unchecked_row(data)


def _read_line(line: bytes, number: int, folder: Inside, check_files: bool) -> Row:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8 and bad JSON
        raise RecordError(f"line {number}: not JSON ({error!s:.120})") from None
    return check_row(data, number, folder, check_files)


def _id_of(line: bytes) -> str | None:
    """The id of a line, None of one that is no row."""
    try:
        name = json.loads(line)["id"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


# --- writing ---


def _png(picture: Tensor, name: str, is_mask: bool) -> bytes:
    """8-bit grey for a mask [H, W] or [1, H, W], RGB for a frame [H, W, 3] or [1, H, W, 3]."""
    if not name.endswith(".png"):
        raise RecordError(f"picture {name!r:.80}: expected a path that ends in .png")
    if not isinstance(picture, Tensor):
        raise RecordError(f"picture {name!r:.80}: expected a tensor, got {type(picture).__name__}")
    if picture.ndim > (2 if is_mask else 3) and picture.shape[0] == 1:
        picture = picture[0]
    expected = "[H, W], or [1, H, W]: it is the row's mask" if is_mask else "[H, W, 3] or [1, H, W, 3]"
    if picture.ndim != (2 if is_mask else 3):
        raise RecordError(f"picture {name!r:.80}: shape {tuple(picture.shape)}, expected {expected}")
    try:
        image = to_pil(picture.float()[..., None].expand(-1, -1, 3) if is_mask else picture)
    except PictureError as error:
        raise RecordError(f"picture {name!r:.80}: {error}") from error
    buffer = BytesIO()
    (image.convert("L") if is_mask else image).save(buffer, "PNG")
    return buffer.getvalue()
