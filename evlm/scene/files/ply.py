"""Gaussians in a .ply as Inria's code lays them out, in any order of properties, with what else it holds.

x y z, f_dc_0..2, f_rest_0.. (all of red, then green, then blue), opacity as a logit, scale_0..2 as
logarithms, rot_0..3 as w x y z. Normals and unknown properties are kept for writing.
"""

from __future__ import annotations

from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import COEFFICIENTS
from .loaded import LoadedGaussians, PlySource, checked_count, finite_logits, finite_scales, gathered
from .ply_body import read_body
from .ply_header import PlyElement, PlyHeader

MEANS = ("x", "y", "z")
COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALES = ("scale_0", "scale_1", "scale_2")
QUAT = ("rot_0", "rot_1", "rot_2", "rot_3")
NEEDED = (*MEANS, *COLOUR, "opacity", *SCALES, *QUAT)


def rest_names(degree: int) -> list[str]:
    """Of the harmonics above the constant one, as a file of that degree numbers them."""
    return [f"f_rest_{index}" for index in range(3 * (COEFFICIENTS[degree] - 1))]


def read_ply(file: IO[bytes], header: PlyHeader, size: int, name: str) -> LoadedGaussians:
    """The Gaussians of a .ply whose header was read. Raises SceneError: it holds none, or is damaged."""
    vertex = header.element("vertex")
    if vertex is None:
        found = ", ".join(each.name for each in header.elements) or "none"
        raise SceneError(f"{name}: has no element 'vertex', only {found}: it holds no Gaussians")
    degree = _degree(header, vertex, name)
    count = checked_count(name, vertex.count)
    body = read_body(file, header, ("vertex",), size, name)
    rows = body.tables["vertex"]

    sh = np.empty((count, COEFFICIENTS[degree], 3), np.float32)
    sh[:, 0] = _columns(rows, COLOUR)
    rest = sh[:, 1:]
    for index, each in enumerate(rest_names(degree)):
        channel, coefficient = divmod(index, rest.shape[1])
        rest[:, coefficient, channel] = as_read(each, rows[each])
    gaussians, good, notes = gathered(
        name,
        _columns(rows, MEANS),
        _columns(rows, SCALES),
        _columns(rows, QUAT),
        as_read("opacity", rows["opacity"]),
        sh,
    )
    kept = _inexact(rows, {*NEEDED, *rest_names(degree)})
    lines = body.lines
    if good is not None:
        kept = kept[good]
        lines = None if lines is None else tuple(np.array(lines, object)[good])
    source = PlySource(header, body.before, body.after, kept, degree, lines)
    return LoadedGaussians(gaussians, "ply", source, notes)


def as_read(name: str, column: np.ndarray) -> np.ndarray:
    """A property as Gaussians hold it: float32, an opacity or an extent of infinity made finite."""
    with np.errstate(over="ignore"):
        values = column.astype(np.float32)
    if name == "opacity":
        return finite_logits(values)
    return finite_scales(values) if name in SCALES else values


def _columns(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([as_read(name, rows[name]) for name in names], 1)


def _degree(header: PlyHeader, vertex: PlyElement, name: str) -> int:
    """Of the harmonics. Raises SceneError: the vertices are no Gaussians."""
    kinds = dict(vertex.properties)
    missing = [each for each in NEEDED if each not in kinds]
    if missing:
        raise SceneError(_no_gaussians(header, vertex, missing, name))
    rest = [each for each in kinds if each.startswith("f_rest_")]
    degrees = {3 * (k - 1): degree for degree, k in enumerate(COEFFICIENTS)}
    if len(rest) not in degrees or set(rest) != set(rest_names(degrees[len(rest)])):
        raise SceneError(
            f"{name}: has {len(rest)} properties f_rest_..., expected f_rest_0 on, 0, 9, 24 or 45 of them "
            "(harmonics of degree 0 to 3); cut higher ones off with `npx @playcanvas/splat-transform "
            "in.ply -H 3 out.ply`"
        )
    odd = [each for each in (*NEEDED, *rest) if str(kinds[each])[0] != "f"]
    if odd:
        raise SceneError(
            f"{name}: property {odd[0]} is {kinds[odd[0]] or 'a list'}, expected float or double"
        )
    return degrees[len(rest)]


def _no_gaussians(header: PlyHeader, vertex: PlyElement, missing: list[str], name: str) -> str:
    names = vertex.names()
    lacks = f"{name}: its vertices have no {', '.join(missing)}"
    if not names & {"opacity", *SCALES, *QUAT} and set(MEANS) <= names:
        face = header.element("face")
        if face is not None and face.count:
            return (
                f"{lacks}: it is a mesh, not Gaussians; render it from some cameras and fit a scene to the "
                "pictures, or turn it into splats elsewhere"
            )
        return (
            f"{lacks}: it is a point cloud, not Gaussians; give it as the points that a fit to photographs "
            "begins with"
        )
    if missing == ["scale_2"]:
        return f"{lacks}: flat Gaussians (2DGS) are not read; save them with three scales"
    return f"{lacks}: expected a .ply of 3D Gaussian Splatting, with {', '.join(NEEDED)}"


def _inexact(rows: np.ndarray, held: set[str]) -> np.ndarray:
    """[M] structured: the columns that Gaussians do not hold, or not to the last bit."""
    names = []
    for name in rows.dtype.names or ():
        column = rows[name]
        exact = name in held and column.dtype.itemsize == 4
        if not exact or as_read(name, column).tobytes() != column.astype(np.float32).tobytes():
            names.append(name)
    kept = np.empty(len(rows), [(name, rows.dtype[name]) for name in names])
    for name in names:
        kept[name] = rows[name]
    return kept
