"""The one door to scenes on disk, whether they move or stand still."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...errors import SceneError
from ..camera import Camera
from ..files import load_gaussians
from ..files.loaded import PlySource
from ..gaussians import Gaussians
from ..motion import Motion
from ..splat_scene import SplatScene
from .folder import CANONICAL, MOTION, read_folder
from .sequence import frames_of, read_sequence

PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt")
_WAY_IN = (
    "a pickle may run code and is not opened. The way in is to fit the scene anew from its pictures: "
    "python -m evlm scene fit PICTURES OUT"
)
_EXPECTED = f"a folder of ours ({CANONICAL}, {MOTION}), or of one .ply a time (f_00000.ply ...)"


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A scene from disk. kind: "moving" (our folder), "plys" (one .ply a time), else as LoadedGaussians'.
    motion: None of a scene that stands still. cameras: the folder's own. source: of a .ply what writing
    untouched rows needs. path: the file that holds the Gaussians, of `plys` the folder. size: bytes of all
    files. notes: what was dropped or guessed, in words."""

    gaussians: Gaussians
    kind: str
    path: Path
    size: int
    motion: Motion | None = None
    cameras: tuple[Camera, ...] = ()
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    source: PlySource | None = None
    notes: tuple[str, ...] = ()

    def scene(self) -> SplatScene:
        return SplatScene(
            self.gaussians,
            self.cameras,
            background=self.background,
            notes=self.notes,
            source=self.source,
            motion=self.motion,
        )


def is_moving(path: str | os.PathLike[str]) -> bool:
    """Whether a path means a scene that moves: its folder, or the canonical.ply in one."""
    path = Path(path)
    return path.is_dir() or (path.name == CANONICAL and (path.parent / MOTION).is_file())


def load_scene(path: str | os.PathLike[str]) -> LoadedScene:
    """Reads a file of Gaussians, or a scene that moves: our folder (or its canonical.ply), or a folder with
    one .ply a time. Raises SceneError: none of them, damaged, or a checkpoint that is a pickle."""
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise SceneError(f"{path}: {_WAY_IN}")
    if not is_moving(path):
        found = load_gaussians(path)
        size = path.stat().st_size
        return LoadedScene(found.gaussians, found.kind, path, size, source=found.source, notes=found.notes)
    folder = path if path.is_dir() else path.parent
    if (folder / CANONICAL).is_file() or (folder / MOTION).is_file():
        ours, behind = read_folder(folder)
        return LoadedScene(
            ours.gaussians, "moving", folder / CANONICAL, _size(folder.iterdir()), behind.motion,
            behind.cameras, behind.background, ours.source, ours.notes,
        )  # fmt: skip
    frames = frames_of(folder)
    if len(frames) > 1:
        first, motion = read_sequence(folder, frames)
        return LoadedScene(
            first.gaussians, "plys", folder, _size(frames), motion, source=first.source, notes=first.notes
        )
    some = sorted(islice(folder.rglob("*"), 10_000))  # the folder may be anybody's home
    pickled = next((each for each in some if each.suffix in PICKLES), None)
    if pickled is not None:
        raise SceneError(f"{pickled}: {_WAY_IN}")
    raise SceneError(f"{folder}: is no scene that moves; expected {_EXPECTED}")


def _size(files: object) -> int:
    return sum(each.stat().st_size for each in files if each.is_file())  # type: ignore[attr-defined]
