"""The rows of a .ply, checked against the file's size before anything is made for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import numpy as np

from ...errors import SceneError
from .ply_header import PlyElement, PlyHeader

_BLOCK = 4096  # ascii rows at a time
_LONGEST = 64  # characters of a number


@dataclass(frozen=True, eq=False)
class PlyBody:
    """tables: element -> its rows, [count] structured, of those that were wanted. before, after: the bytes
    around them. lines: of an ascii file, the wanted element's."""

    tables: dict[str, np.ndarray]
    before: bytes
    after: bytes
    lines: tuple[bytes, ...] | None = None


def read_body(file: IO[bytes], header: PlyHeader, wanted: tuple[str, ...], size: int, name: str) -> PlyBody:
    """The wanted elements, which stand one behind the other in this order.

    file: stands behind the header. size: of the whole file in bytes. Raises SceneError: an element that is
    missing, lists before the rows that are wanted, more rows than the file has bytes for.
    """
    names = [each.name for each in header.elements]
    if not set(wanted) <= set(names):
        missing = ", ".join(sorted(set(wanted) - set(names)))
        raise SceneError(f"{name}: has no element {missing}, only {', '.join(names) or 'none'}")
    first = names.index(wanted[0])
    if tuple(names[first : first + len(wanted)]) != wanted:
        raise SceneError(
            f"{name}: its elements are {', '.join(names)}, expected {', '.join(wanted)} in order"
        )
    ahead = header.elements[: first + len(wanted)]
    listed = [each.name for each in ahead if each.has_lists]
    if listed:
        raise SceneError(
            f"{name}: {listed[0]!r} has lists of numbers and stands before the Gaussians; open it in a splat "
            "editor (SuperSplat) and save it as .ply"
        )
    left = size - header.size
    needed = sum(_least(header, each) * each.count for each in ahead)
    if needed > left:
        counts = ", ".join(f"{each.count} {each.name}" for each in ahead)
        raise SceneError(
            f"{name}: promises {counts} rows, which take {needed} bytes, and has {left}: it was cut off; "
            "copy or download it again"
        )
    if header.ascii:
        return _read_text(file, header, ahead, first, name)
    before = _exactly(file, sum(_least(header, each) * each.count for each in ahead[:first]), name)
    tables = {
        each.name: np.frombuffer(
            _exactly(file, _least(header, each) * each.count, name), header.row_type(each), each.count
        )
        for each in ahead[first:]
    }
    return PlyBody(tables, before, file.read())


def _least(header: PlyHeader, element: PlyElement) -> int:
    """Bytes of a row: exactly of a binary one, at least of a line."""
    return 2 * len(element.properties) if header.ascii else header.row_type(element).itemsize


def _exactly(file: IO[bytes], count: int, name: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise SceneError(f"{name}: ended while it was read, {count - len(data)} bytes early")
    return data


def _read_text(
    file: IO[bytes], header: PlyHeader, ahead: tuple[PlyElement, ...], first: int, name: str
) -> PlyBody:
    lines = file.read().splitlines(keepends=True)
    skipped = sum(each.count for each in ahead[:first])
    before, at = b"".join(lines[:skipped]), skipped
    tables: dict[str, np.ndarray] = {}
    kept: tuple[bytes, ...] = ()
    for element in ahead[first:]:
        kept = tuple(lines[at : at + element.count])
        if len(kept) < element.count:
            raise SceneError(
                f"{name}: promises {element.count} {element.name} rows and has {len(kept)} lines of them: it "
                "was cut off; copy or download it again"
            )
        tables[element.name] = _numbers(kept, header.row_type(element), name)
        at += element.count
    return PlyBody(tables, before, b"".join(lines[at:]), kept)


def _numbers(lines: tuple[bytes, ...], row: np.dtype, name: str) -> np.ndarray:
    columns = row.names or ()
    table = np.empty(len(lines), row)
    for start in range(0, len(lines), _BLOCK):
        words = [line.split() for line in lines[start : start + _BLOCK]]
        for number, each in enumerate(words, start):
            if len(each) != len(columns) or max(map(len, each), default=0) > _LONGEST:
                raise SceneError(f"{name}: row {number + 1} has {len(each)} numbers, expected {len(columns)}")
        if not columns:
            continue
        try:
            numbers = np.array(words).astype(np.float64)
        except ValueError as error:
            raise SceneError(f"{name}: rows {start + 1} to {start + len(words)}: {error}") from error
        with np.errstate(invalid="ignore"):
            for at, column in enumerate(columns):
                table[column][start : start + len(words)] = numbers[:, at]
    return table
