"""The header of a .ply: elements, their properties, and the lines as they stood."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO

import numpy as np

from ...errors import SceneError

MAX_HEADER = 64 * 1024
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}


@dataclass(frozen=True)
class PlyElement:
    """One kind of row. properties: (name, numpy's type without byte order); None for a list's type."""

    name: str
    count: int
    properties: tuple[tuple[str, str | None], ...]

    @property
    def has_lists(self) -> bool:
        return any(kind is None for _, kind in self.properties)

    def names(self) -> set[str]:
        return {name for name, _ in self.properties}


@dataclass(frozen=True)
class PlyHeader:
    """lines: as they stood, each with its line end, from `ply` to `end_header`."""

    format: str
    elements: tuple[PlyElement, ...]
    lines: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """In bytes; what follows is data."""
        return sum(map(len, self.lines))

    @property
    def ascii(self) -> bool:
        return self.format == "ascii"

    def element(self, name: str) -> PlyElement | None:
        return next((each for each in self.elements if each.name == name), None)

    def row_type(self, element: PlyElement) -> np.dtype:
        """Of one row of a binary file. Numbers of an ascii file are read as double and int64."""
        if self.ascii:
            return np.dtype([(n, "f8" if str(kind)[0] == "f" else "i8") for n, kind in element.properties])
        return np.dtype([(n, _ORDERS[self.format] + str(kind)) for n, kind in element.properties])


def read_header(file: IO[bytes], name: str) -> PlyHeader:
    """The header of a .ply that is read from its beginning; the file then stands at the data.

    name: of the file, for errors. Raises SceneError: no .ply, a header that does not end within 64 kB, or
    one that says something that no .ply says.
    """
    start = file.read(MAX_HEADER)
    lines = []
    at = 0
    while True:
        end = start.find(b"\n", at)
        if end < 0:
            raise SceneError(
                f"{name}: its header has no end_header within {MAX_HEADER} bytes; it is no .ply, or damaged"
            )
        lines.append(start[at : end + 1])
        at = end + 1
        if len(lines) == 1 and lines[0].strip() != b"ply":
            raise SceneError(f"{name}: begins with {lines[0][:20]!r}, expected 'ply': it is no .ply")
        if lines[-1].strip() == b"end_header":
            break
    file.seek(at)
    return _parsed(tuple(lines), name)


def _parsed(lines: tuple[bytes, ...], name: str) -> PlyHeader:
    form = ""
    elements: list[PlyElement] = []
    for line in lines[1:-1]:
        words = line.decode("ascii", "replace").split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _ORDERS and not form:
            form = words[1]
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"[0-9]{1,18}", words[2], re.ASCII):
            elements.append(PlyElement(words[1], int(words[2]), ()))
        elif words[0] == "property" and elements:
            last = elements[-1]
            listed = len(words) == 5 and words[1] == "list" and {words[2], words[3]} <= set(TYPES)
            if not listed and not (len(words) == 3 and words[1] in TYPES):
                raise SceneError(f"{name}: its header says {_said(line)}, which is no property of a .ply")
            if words[-1] in last.names():
                raise SceneError(f"{name}: its header has the property {words[-1]!r} of {last.name!r} twice")
            pair = (words[-1], None if listed else TYPES[words[1]])
            elements[-1] = PlyElement(last.name, last.count, (*last.properties, pair))
        else:
            raise SceneError(
                f"{name}: its header says {_said(line)}; expected format, element and property lines"
            )
    if not form:
        raise SceneError(f"{name}: its header says no format; expected one of {', '.join(_ORDERS)}")
    if len({each.name for each in elements}) < len(elements):
        raise SceneError(f"{name}: its header names an element twice")
    return PlyHeader(form, tuple(elements), lines)


def _said(line: bytes) -> str:
    return repr(line.decode("ascii", "replace").strip()[:60])
