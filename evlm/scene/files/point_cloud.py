"""Coloured points from a .ply: what COLMAP, a scanner or a phone exports, a start for fitting."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ...errors import SceneError
from ..points import Points
from .loaded import checked_count
from .ply import MEANS
from .ply_body import read_body
from .ply_header import read_header

_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


def load_points(path: str | os.PathLike[str]) -> Points:
    """The vertices of a .ply with their colours: 0..255 in whole numbers, 0..1 in floats; grey without.

    Raises SceneError: no .ply, no x y z, damaged, or no point has finite numbers.
    """
    path = Path(path)
    name = str(path)
    try:
        if path.exists() and not path.is_file():
            raise SceneError(f"{name}: is no file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = read_header(file, name)
            vertex = header.element("vertex")
            if vertex is None or not set(MEANS) <= vertex.names():
                raise SceneError(f"{name}: has no vertices with x, y and z: it holds no points")
            checked_count(name, vertex.count)
            rows = read_body(file, header, ("vertex",), size, name).tables["vertex"]
    except OSError as error:
        raise SceneError(f"{name}: cannot be read ({error.strerror or error})") from error
    with np.errstate(over="ignore"):
        positions = np.stack([rows[each].astype(np.float32) for each in MEANS], 1)
    named = next((names for names in _COLOURS if set(names) <= vertex.names()), None)
    notes = [] if named else ["the points have no colours; grey is taken"]
    colours = np.full_like(positions, 0.5)
    for at, each in enumerate(named or ()):
        colours[:, at] = _shares(rows[each], dict(vertex.properties)[each])
    good = np.isfinite(np.concatenate([positions, colours], 1)).all(axis=1)
    if not good.any():
        raise SceneError(f"{name}: none of its {len(good)} points has finite numbers")
    if not good.all():
        notes.append(f"{int((~good).sum())} of {len(good)} points have numbers that are not finite; left out")
    return Points(
        torch.from_numpy(positions[good]), torch.from_numpy(colours[good]).clamp(0, 1), tuple(notes)
    )


def _shares(column: np.ndarray, kind: str | None) -> np.ndarray:
    """0..1, by the type that the header gives: an ascii file's bytes are read as int64."""
    if str(kind)[0] == "f":
        return column.astype(np.float32)
    full = 65535.0 if kind == "u2" else 255.0
    return (column / full).astype(np.float32)
