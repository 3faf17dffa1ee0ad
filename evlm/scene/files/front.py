"""The one door to files of Gaussians: what a file is, its content says; how one is written, its suffix."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ...errors import SceneError
from ...files.pictures import write_atomically
from ..gaussians import Gaussians
from . import compressed_ply, ksplat, ply, ply_write, splat, spz
from .loaded import LoadedGaussians, PlySource, checked_count
from .ply_header import read_header

SUFFIXES = (".ply", ".compressed.ply", ".splat", ".spz")  # written; .ksplat is read besides
_ELSEWHERE = "`npx @playcanvas/splat-transform IN OUT.ply` turns many others into a .ply"


def load_gaussians(path: str | os.PathLike[str]) -> LoadedGaussians:
    """Reads a .ply (Inria's layout, or PlayCanvas' compressed one), .splat, .spz or .ksplat.

    Raises SceneError: no such file, another kind of file, one that is damaged or promises more than it holds,
    a mesh or a point cloud.
    """
    path = Path(path)
    name = str(path)
    try:
        if path.is_dir():
            raise SceneError(f"{name}: is a folder, expected a file of Gaussians")
        if path.exists() and not path.is_file():  # asked before it is opened: a pipe would wait for a writer
            raise SceneError(f"{name}: is no file")
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise SceneError(f"{name}: cannot be read ({error.strerror or error})") from error


def _read(file: IO[bytes], size: int, path: Path) -> LoadedGaussians:
    name, suffix = str(path), path.suffix.lower()
    start = file.read(4096)
    file.seek(0)
    if suffix == ".splat" and not _is_marked(start):
        return splat.read_splat(file, size, name)
    start = start[:4]
    if start[:3] == b"ply":
        header = read_header(file, name)
        read = compressed_ply.read_compressed if compressed_ply.is_compressed(header) else ply.read_ply
        return read(file, header, size, name)
    if start[:2] == b"\x1f\x8b" or start == b"NGSP":
        return spz.read_spz(file, size, name)
    if suffix == ".ksplat":
        return ksplat.read_ksplat(file, size, name)
    if not size:
        raise SceneError(f"{name}: is empty")
    wanted = f"expected {', '.join(SUFFIXES)} or .ksplat"
    if suffix in (".ply", ".spz"):
        raise SceneError(f"{name}: begins with {start!r}, which no {suffix} does: it is damaged or misnamed")
    raise SceneError(f"{name}: {suffix or 'a file without a suffix'} is not read, {wanted}; {_ELSEWHERE}")


def _is_marked(start: bytes) -> bool:
    """Whether a file is of another kind than its suffix .splat, by its first bytes: that one has no mark of
    its own, and may begin with any number."""
    if start[:4] in (b"ply\n", b"ply\r", b"NGSP"):
        return True
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 4) == b"NGSP"
    except zlib.error:
        return False


def save_gaussians(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    source: PlySource | None = None,
    origin: Tensor | None = None,
) -> tuple[str, ...]:
    """Writes Gaussians by the path's suffix: .ply, .compressed.ply, .splat or .spz (version 3).

    Args:
        gaussians: [N], of any device and float type.
        source: `LoadedGaussians.source` of the file that they came from. To a .ply its properties, comments
            and other elements are written again, and rows that did not change are the same bytes.
        origin: int64 [N], the row of the source that each Gaussian came from, -1 for a new one; None where
            none was added or removed.

    Returns what the format lost, in words. The file has its name only when it is whole; one that stood there
    before stays as it was where writing fails.

    Raises:
        SceneError: no Gaussians, numbers that are not finite, a suffix that is not written, an origin that
            does not fit, a position that the format cannot hold, a disk that is full.
    """
    path = Path(path)
    name = str(path)
    checked_count(name, len(gaussians))
    bad = len(gaussians) - int(gaussians.finite().sum())
    if bad:
        raise SceneError(
            f"{name}: {bad} of {len(gaussians)} Gaussians have numbers that are not finite, or a rotation of "
            "0; nothing was written"
        )
    plain = gaussians.detached().to("cpu").to(torch.float32)
    rows = None if origin is None else origin.cpu().numpy()
    notes: tuple[str, ...] = ()

    def write(file: IO[bytes]) -> None:
        nonlocal notes
        notes = _write(file, path, plain, source, rows)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise SceneError(
            f"{name}: cannot be written ({error.strerror or error}); nothing was changed"
        ) from error
    return notes


def _write(
    file: IO[bytes], path: Path, gaussians: Gaussians, source: PlySource | None, origin: np.ndarray | None
) -> tuple[str, ...]:
    name = path.name.lower()
    if name.endswith(".compressed.ply"):
        return compressed_ply.write_compressed(file, gaussians)
    if name.endswith(".ply"):
        ply_write.write_ply(file, gaussians, source, origin)
        return ()
    if name.endswith(".splat"):
        return splat.write_splat(file, gaussians)
    if name.endswith(".spz"):
        return spz.write_spz(file, gaussians, str(path))
    raise SceneError(f"{path}: {path.suffix or 'no suffix'} is not written, use {', '.join(SUFFIXES)}")
