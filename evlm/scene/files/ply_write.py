"""Gaussians to a .ply: as Inria's code lays them out, or as the file lay that they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS, Gaussians
from .loaded import PlySource
from .ply import COLOUR, MEANS, QUAT, SCALES, as_read, rest_names
from .ply_header import PlyElement, PlyHeader

_BLOCK = 65_536  # rows at a time
_NORMALS = ("nx", "ny", "nz")


def write_ply(
    file: IO[bytes], gaussians: Gaussians, source: PlySource | None = None, origin: np.ndarray | None = None
) -> None:
    """Writes them, rows in their order.

    source: the file they came from; its order of properties, its comments, other elements, and of each
    Gaussian what it holds besides, are written again, and rows that did not change are the same bytes.
    origin: int64 [N], the row of the source that each came from, -1 for new ones; None: row i from row i.

    Raises SceneError: an origin that does not fit.
    """
    columns = _columns(gaussians)
    if source is None:
        names = [*MEANS, *_NORMALS, *COLOUR, *rest_names(gaussians.degree), "opacity", *SCALES, *QUAT]
        lines = [b"ply\n", b"format binary_little_endian 1.0\n", b"element vertex %d\n" % len(gaussians)]
        lines += [b"property float %s\n" % name.encode() for name in names]
        file.write(b"".join([*lines, b"end_header\n"]))
        for block in _blocks(len(gaussians)):
            out = np.zeros(block.stop - block.start, [(name, "<f4") for name in names])
            for name, column in columns.items():
                out[name] = column[block]
            file.write(out.tobytes())
        return
    header = _header(source, gaussians)
    origin = _origin(source, len(gaussians), origin)
    file.write(b"".join(header.lines) + source.before)
    vertex = header.element("vertex")
    assert vertex is not None
    row = header.row_type(vertex)
    for block in _blocks(len(gaussians)):
        part = {name: column[block] for name, column in columns.items()}
        out, same = _rows(row, part, source, origin[block])
        if source.lines is None:
            file.write(out.tobytes())
        else:
            same &= gaussians.degree == source.degree
            more = block.stop < len(gaussians)
            file.writelines(_texts(out, same, source.lines, origin[block], more))
    file.write(source.after)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(count, start + _BLOCK))


def _columns(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Property -> float32 [N], views."""
    named = {}
    for names, tensor in ((MEANS, gaussians.means), (SCALES, gaussians.log_scales), (QUAT, gaussians.quats)):
        named.update({name: tensor[:, at].numpy() for at, name in enumerate(names)})
    named["opacity"] = gaussians.logits.numpy()
    sh = gaussians.sh.numpy()
    named.update({name: sh[:, 0, at] for at, name in enumerate(COLOUR)})
    above = COEFFICIENTS[gaussians.degree] - 1
    for index, name in enumerate(rest_names(gaussians.degree)):
        channel, coefficient = divmod(index, above)
        named[name] = sh[:, 1 + coefficient, channel]
    return named


def _origin(source: PlySource, count: int, origin: np.ndarray | None) -> np.ndarray:
    if origin is None:
        if count != len(source):
            raise SceneError(
                f"{count} Gaussians for a file of {len(source)}: say by `origin` which row each came from"
            )
        return np.arange(count)
    if origin.shape != (count,) or origin.dtype != np.int64:
        raise SceneError(f"origin is {list(origin.shape)} {origin.dtype}, expected [{count}] int64")
    if count and (origin.min() < -1 or origin.max() >= len(source)):
        raise SceneError(
            f"origin holds {origin.min()} to {origin.max()}, expected -1 to {len(source) - 1}: rows of the "
            "file"
        )
    return origin


def _header(source: PlySource, gaussians: Gaussians) -> PlyHeader:
    """The file's own header, with another count or other harmonics where they changed."""
    old = source.header
    vertex = old.element("vertex")
    assert vertex is not None
    count = len(gaussians)
    if count == vertex.count and gaussians.degree == source.degree:
        return old
    rest = [] if gaussians.degree == source.degree else rest_names(gaussians.degree)
    dropped = set() if gaussians.degree == source.degree else set(rest_names(source.degree))
    kinds = dict(vertex.properties)
    kind = "double" if kinds["f_dc_0"] == "f8" else "float"
    lines: list[bytes] = []
    properties: list[tuple[str, str | None]] = []
    inside = False
    for line in old.lines:
        words = line.split()
        end = line[len(line.rstrip(b"\r\n")) :]
        if words[:1] == [b"element"]:
            inside = words[1] == b"vertex"
            if inside:
                line = b"element vertex %d" % count + end
        name = words[2].decode("ascii", "replace") if inside and words[:1] == [b"property"] else ""
        if name in dropped:
            continue
        lines.append(line)
        if name:
            properties.append((name, kinds[name]))
        if name == COLOUR[-1]:
            lines += [f"property {kind} {each}".encode() + end for each in rest]
            properties += [(each, kinds["f_dc_0"]) for each in rest]
    changed = PlyElement("vertex", count, tuple(properties))
    elements = tuple(changed if each.name == "vertex" else each for each in old.elements)
    return PlyHeader(old.format, elements, tuple(lines))


def _rows(
    row: np.dtype, columns: dict[str, np.ndarray], source: PlySource, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(rows as they are written, bool: those in which nothing changed of what is kept inexactly)."""
    out = np.zeros(len(origin), row)
    old = origin >= 0
    same = old.copy()
    kept = source.rows[origin[old]]
    known = kept.dtype.names or ()
    for name in row.names or ():
        if name not in columns:
            if name in known:
                out[name][old] = kept[name]
            continue
        out[name] = columns[name]
        if name in known:
            was = as_read(name, kept[name])
            equal = was.view(np.uint32) == columns[name][old].view(np.uint32)
            where = np.flatnonzero(old)
            out[name][where[equal]] = kept[name][equal]
            same[where[~equal]] = False
    return out, same


def _texts(
    out: np.ndarray, same: np.ndarray, lines: tuple[bytes, ...], origin: np.ndarray, more: bool
) -> Iterator[bytes]:
    """more: whether further rows follow. A file's last line may have no end: another one behind it does."""
    for at, (row, kept, number) in enumerate(zip(out, same, origin.tolist(), strict=True), 1):
        line = lines[number] if kept else " ".join(map(_text, row.tolist())).encode("ascii") + b"\n"
        open_end = not line.endswith((b"\n", b"\r")) and (more or at < len(out))
        yield line + b"\n" if open_end else line


def _text(number: float) -> str:
    """The shortest that reads back the same."""
    if isinstance(number, int):
        return str(number)
    with np.errstate(over="ignore"):
        single = np.float32(number)
    return str(single) if float(single) == number else repr(number)
