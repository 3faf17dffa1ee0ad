"""A moving scene as a folder: canonical.ply, which every viewer opens, motion.safetensors, cameras.json."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import SceneError
from ..camera import Camera
from ..files import load_gaussians, save_gaussians
from ..files.loaded import LoadedGaussians
from ..motion import Motion, load_motion, save_motion
from ..poses.own import read_own, write_own
from ..splat_scene import SplatScene

CANONICAL, MOTION, CAMERAS = "canonical.ply", "motion.safetensors", "cameras.json"


@dataclass(frozen=True, eq=False)
class Behind:
    """What a folder says besides the Gaussians."""

    motion: Motion
    cameras: tuple[Camera, ...]
    background: tuple[float, float, float]


def read_folder(folder: Path) -> tuple[LoadedGaussians, Behind]:
    """Raises SceneError: a file is missing or damaged, or they are of different scenes."""
    for name in (CANONICAL, MOTION):
        if not (folder / name).is_file():
            raise SceneError(f"{folder}: half of a moving scene: {name} is missing; copy the whole folder")
    found = load_gaussians(folder / CANONICAL)
    motion = load_motion(folder / MOTION, len(found.gaussians))
    path = folder / CAMERAS
    cameras, background = read_own(path) if path.is_file() else ((), (0.0, 0.0, 0.0))
    return found, Behind(motion, cameras, background)


def check_new(folder: Path) -> None:
    """Raises SceneError: the folder holds something, or its name is not its own (`.`, `/`), so that it cannot
    be written beside itself first."""
    if folder.name in ("", ".."):
        raise SceneError(f"{folder}: name a folder to write, as {folder / 'scene'}")
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise SceneError(f"{folder} exists: name another folder, or an empty one")


def holds_a_scene(folder: Path) -> bool:
    """Whether a moving scene lies in a folder, and nothing else."""
    found = {each.name for each in folder.iterdir()}
    return {CANONICAL, MOTION} <= found <= {CANONICAL, MOTION, CAMERAS}


@contextmanager
def written(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A folder beside it to write into, which takes its name when all is there. replace: the place of a
    folder that holds something, too. Raises SceneError: as `check_new`, or it cannot be written."""
    if not replace:
        check_new(folder)
    before, beside = (  # `forget_parts` knows them
        folder.with_name(f".{folder.name[:40]}.{secrets.token_hex(8)}.tmp") for _ in range(2)
    )
    try:
        beside.mkdir(parents=True)
        yield beside
        if folder.is_dir():
            folder.rename(before)
        try:
            beside.rename(folder)
        except BaseException:
            if before.is_dir():
                before.rename(folder)
            raise
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise SceneError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def save_folder(
    folder: Path, scene: SplatScene, like: Path | None = None, replace: bool = False
) -> tuple[str, ...]:
    """Writes a moving scene: the folder has its name only when it is whole.

    like: the folder of ours that it came from, whose cameras' file, and whose motion's where that is the
    same, are copied byte by byte. replace: as `written`. Returns what the format lost, in words. Raises
    SceneError: the scene stands still, the folder holds something, or cannot be written."""
    if scene.motion is None:
        raise SceneError(f"{folder}: the scene stands still: write it as a .ply")
    with written(folder, replace) as beside:
        notes = save_gaussians(beside / CANONICAL, scene.gaussians, scene.source)
        if like is not None and _moves_alike(like / MOTION, scene.motion):
            shutil.copyfile(like / MOTION, beside / MOTION)
        else:
            save_motion(beside / MOTION, scene.motion)
        if like is not None and (like / CAMERAS).is_file():
            shutil.copyfile(like / CAMERAS, beside / CAMERAS)
        else:
            write_own(beside / CAMERAS, scene.cameras, scene.background)
    return notes


def _moves_alike(path: Path, motion: Motion) -> bool:
    if not path.is_file():
        return False
    try:
        found = load_motion(path, len(motion.moving))
    except SceneError:
        return False
    one, other = found.tensors(), motion.tensors()
    return (
        found.kind == motion.kind
        and torch.equal(found.keys.times, motion.keys.times)
        and one.keys() == other.keys()
        and all(torch.equal(tensor, other[name].cpu()) for name, tensor in one.items())
    )
