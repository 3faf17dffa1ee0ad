"""A moving scene as one .ply a time, and back: rows that correspond become a table of their ways."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ...errors import SceneError
from ...files.pictures import write_atomically
from ..files import load_gaussians, save_gaussians
from ..files.loaded import LoadedGaussians
from ..motion import Keys, Table
from ..poses.checked import number, read_json, rows
from ..splat_scene import SplatScene
from .folder import written

TIMES = "times.json"
MOST = 2000  # files
BYTES = 2 << 30  # that the frames of one scene may take in memory


def frames_of(folder: Path) -> list[Path]:
    """Its .ply files in the order of the numbers in their names, without hidden ones: macOS puts a `._` file
    beside each on disks of others."""
    found = [each for each in folder.iterdir() if each.suffix.lower() == ".ply" and each.is_file()]
    found = [each for each in found if not each.name.startswith(".")]
    return sorted(found, key=lambda path: [int(part) if part.isdecimal() else part
                                           for part in re.split(r"(\d{1,18})", path.name)])  # fmt: skip


def read_sequence(folder: Path, frames: Sequence[Path]) -> tuple[LoadedGaussians, Table]:
    """(the first, how its rows move). Times stand in times.json, else they are even from 0 to 1. Raises
    SceneError: too many or too large, damaged, or rows that do not correspond."""
    size = sum(each.stat().st_size for each in frames)
    if len(frames) > MOST or size > BYTES:
        raise SceneError(
            f"{folder}: {len(frames)} frames of {size / 1e9:.1f} GB, at most {MOST} of {BYTES / 1e9:.0f} GB "
            "are read together: take every second or fourth of them"
        )
    keys = _keys(folder / TIMES, len(frames))
    first = load_gaussians(frames[0])
    others = [load_gaussians(each).gaussians for each in frames[1:]]
    try:
        return first, Table.of([first.gaussians, *others], keys)
    except SceneError as error:
        raise SceneError(
            f"{folder}: {error}. Frames that were fitted each by itself are single scenes: edit them one by "
            "one, or fit a moving scene from their pictures (scene fit)"
        ) from error


def save_sequence(folder: Path, scene: SplatScene, times: Sequence[float]) -> int:
    """One f_00000.ply a time, and the times beside them; the bytes that were written. Raises SceneError, also
    for times that do not rise: nobody could read them back."""
    if len(times) < 2 or len(times) > MOST:
        raise SceneError(f"{len(times)} times: 2 to {MOST} are written; one alone as a file: OUT.ply")
    Keys(torch.tensor(list(times), dtype=torch.float64))
    with written(folder) as beside:
        for at, time in enumerate(times):
            save_gaussians(beside / f"f_{at:05d}.ply", scene.at(time), scene.source)
        said = json.dumps(list(times)).encode()
        write_atomically(beside / TIMES, lambda file: file.write(said))
        return sum(each.stat().st_size for each in beside.iterdir())


def _keys(path: Path, count: int) -> Keys:
    if not path.is_file():
        return Keys.even(count)
    said = [number(each, f"{path}: time {at}") for at, each in enumerate(rows(read_json(path), str(path)))]
    if len(said) != count:
        raise SceneError(f"{path}: {len(said)} times for {count} frames")
    try:
        return Keys(torch.tensor(said, dtype=torch.float64))
    except SceneError as error:
        raise SceneError(f"{path}: {error}") from error
