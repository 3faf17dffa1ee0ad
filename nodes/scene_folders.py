"""Scenes, cameras and photographs in ComfyUI's input folder, and files of scenes in its output folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import folders

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = "bundled"  # the name of the scene that comes with the pack
SAMPLE = folders.PACK / "evlm" / "bundled" / "examples" / "evlm_solids.spz"
SUFFIXES = (".ply", ".splat", ".spz", ".ksplat")
WORDS = re.compile(r"(orbit|cone):[0-9a-z:,.\-]{1,80}")  # cameras around the scene, in words
OWN = "own"  # the cameras in a moving scene's folder
CAMERAS = (
    "a file or folder of cameras in ComfyUI's input folder (COLMAP, transforms.json, poses_bounds.npy, "
    "cameras.json), or orbit:24, cone:12"
)
_SAID = (".bin", ".txt", ".json", ".npy", ".ply")  # files whose content decides; photographs: size and time
_found: dict[tuple[Path, str], tuple[Path, ...]] = {}  # of cameras, by their fingerprint: their photographs
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def scenes() -> list[str]:
    """What Load Scene offers: the bundled one, then the files of the input folder and of folders in it."""
    listed = folders.LISTING.entries([folders.inputs()], _look)
    return [BUNDLED, *(entry.name for _, entry in listed if entry.kind == "scene")]


def find(name: object) -> Path:
    """The file of a scene. Raises SceneError for a name that is none."""
    from ..evlm.errors import SceneError

    if name == BUNDLED:
        return SAMPLE
    path = _inside("scene", name)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        raise SceneError(
            f"scene {name!r:.80} is not here: put a {', '.join(SUFFIXES)} into ComfyUI's input folder and "
            "press R to refresh"
        )
    return path


def cameras(said: str, what: str = "cameras") -> str | Path:
    """Words for an orbit, or a path in the input folder. Raises SceneError."""
    from ..evlm.errors import SceneError

    if WORDS.fullmatch(said) or said.strip() == OWN:
        return said
    path = _inside(what, said)
    if not path.exists():
        raise SceneError(f"{what} {said!r:.80} is not in ComfyUI's input folder; expected {CAMERAS}")
    return path


def whole(path: Path) -> Path:
    """All of a scene: of one that moves its folder."""
    from ..evlm.scene.moving import is_moving

    return path.parent if is_moving(path) else path


def points(name: str) -> Path:
    """A .ply of points in the input folder. Raises SceneError."""
    from ..evlm.errors import SceneError

    path = _inside("points", name)
    if path.suffix.lower() != ".ply" or not path.is_file():
        raise SceneError(f"points {name!r:.80}: expected a .ply in ComfyUI's input folder")
    return path


def check_photographs(photographs: Sequence[Callable[[], Tensor]] | None) -> None:
    """A file of cameras names photographs, and these may lie beside its folder. Raises SceneError where that
    is outside the input folder."""
    from ..evlm.errors import SceneError

    root = Path(os.path.realpath(folders.inputs()))
    for each in photographs or ():
        path = getattr(each, "path", None)
        if path is not None and root not in Path(os.path.realpath(path)).parents:
            raise SceneError(
                f"the photograph {path.name!r:.80} lies outside ComfyUI's input folder: put the "
                "photographs' folder beside the cameras' file"
            )


def fingerprint(path: str | Path) -> str:
    """Changes with a file, or with any file of a folder of cameras. Words are their own."""
    if isinstance(path, str):
        return path
    if path.is_file():
        return folders.fingerprint(path)
    digest = hashlib.blake2b(digest_size=16)
    for each in sorted(path.rglob("*")):
        if each.is_file():
            about = each.stat()
            own = folders.fingerprint(each) if each.suffix.lower() in _SAID else about.st_mtime_ns
            said = f"{each.relative_to(path)} {about.st_size} {own}\n"
            digest.update(said.encode("utf-8", "surrogatepass"))  # a name may be no UTF-8
    return digest.hexdigest()


def fingerprint_cameras(path: str | Path) -> str:
    """`fingerprint`, which changes with the photographs, too, wherever the cameras' file has them."""
    said = fingerprint(path)
    return said if isinstance(path, str) else f"{said} {_photographs(path, said)}"


def _photographs(path: Path, said: str) -> str:
    """Names, sizes and times of the photographs that are found. said: of the cameras, so that these are read
    once where all of their photographs are there."""
    from ..evlm.errors import EVLMError
    from ..evlm.scene.poses import load_cameras

    paths = _found.get((path, said))
    if not paths or not all(each.is_file() for each in paths):
        try:
            taken = load_cameras(path).photographs or ()
        except EVLMError:  # the node itself will say it
            return ""
        paths = tuple(dict.fromkeys(each.path for each in taken if hasattr(each, "path")))
        _found.clear()  # a workflow has one file of cameras, or two
        _found[path, said] = paths
    facts = [(str(each), found.st_size, found.st_mtime_ns) for each in paths if (found := each.stat())]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def new_names(prefix: str, endings: Sequence[str]) -> list[Path]:
    """Files of the output folder, prefix_00001 and so on with each ending, of which none is there yet.
    Raises RecordError for a prefix that is none, or leads out of the folder."""
    from ..evlm.errors import RecordError

    parts = prefix.split("/")
    for part in parts:
        if not _PREFIX.fullmatch(part) or part.endswith((".", " ")) or folders.is_device(part):
            raise RecordError(
                f"filename_prefix {prefix!r:.80}: expected names of letters, digits, space, . _ and - (64 at "
                "most), parted by /, as evlm/scene; it lies in ComfyUI's output folder"
            )
    folder = folders.in_output("filename_prefix", "/".join(parts[:-1]))
    stem = re.compile(re.escape(parts[-1]) + r"_(\d{5,9})\..*", re.IGNORECASE)
    there = os.listdir(folder) if folder.is_dir() else []
    numbers = [int(found[1]) for name in there if (found := stem.fullmatch(name))]
    number = max(numbers, default=0) + 1
    return [folder / f"{parts[-1]}_{number:05}{ending}" for ending in endings]


def _inside(what: str, name: object) -> Path:
    from ..evlm.errors import RecordError, SceneError
    from ..evlm.files.safe_paths import inside

    try:
        if not isinstance(name, str):
            raise RecordError(f"expected a name, got {type(name).__name__}")
        return inside(folders.inputs(), name)
    except RecordError as error:
        raise SceneError(
            f"{what} {name!r:.80}: expected a name in ComfyUI's input folder, as scenes/room.ply"
        ) from error
    except (OSError, ValueError) as error:  # a name that is too long
        raise SceneError(f"{what} {name!r:.80}: {error}") from error


def _look(path: Path) -> str | None:
    return "scene" if path.suffix.lower() in SUFFIXES and path.is_file() else None


def problem(check: Callable[..., Any], *names: Any) -> str | None:
    """What is wrong with a name, for `validate_inputs`; nothing is said of a link's."""
    from ..evlm.errors import EVLMError

    if any(name is None for name in names):
        return None
    try:
        check(*names)
    except EVLMError as error:
        return folders.shortened(str(error))
    return None
