"""What `python -m evlm scene fit` writes is none of what it reads, and nothing that nobody gave up; of a fit
that is stopped, what is done."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import EVLMError
from .outputs import expanded, same_file


def check_written(options: argparse.Namespace, out: Path) -> None:
    """Raises EVLMError: OUT or --preview is a file that is read, OUT holds points, --preview is no picture's
    name, or something that is there and that --overwrite does not give up. Of a fit that goes on it is its
    own."""
    read = [each for each in (options.points, options.cameras, options.images) if each is not None]
    _refuse(out, read)
    if _holds_points(out):
        raise EVLMError(f"{out} holds points or a mesh, no Gaussians: it is not replaced; name another file")
    if options.preview is None:
        return
    from ..files.pictures import WRITTEN_SUFFIXES

    preview = expanded(options.preview)
    if preview.suffix.lower() not in WRITTEN_SUFFIXES:
        raise EVLMError(f"--preview {preview}: expected a name that ends in {', '.join(WRITTEN_SUFFIXES)}")
    _refuse(preview, [*read, out])
    begun = out.with_name(out.name + ".fit.safetensors").exists()
    if os.path.lexists(preview) and (preview.is_dir() or not (options.overwrite or begun)):
        raise EVLMError(f"--preview {preview} exists: name another file, or add --overwrite")


def check_cameras(options: argparse.Namespace) -> None:
    """Raises EVLMError: the cameras are words for an orbit, which no photographs were taken from."""
    asked = options.cameras
    if asked.partition(":")[0] in ("orbit", "cone") and not os.path.lexists(expanded(asked)):
        raise EVLMError(
            f"{asked}: a scene is fitted to photographs, and an orbit has none; name a folder of photographs "
            "with their cameras (COLMAP, nerfstudio, Blender, LLFF)"
        )


def check_photographs(options: argparse.Namespace, photographs: Sequence[Callable[[], Any]]) -> None:
    """Raises EVLMError: --preview is one of the photographs."""
    if options.preview is not None:
        _refuse(expanded(options.preview), [each.path for each in photographs if hasattr(each, "path")])


@contextmanager
def kept(state: Path) -> Iterator[None]:
    """Says where what is done of a fit lies when somebody stops it."""
    try:
        yield
    except KeyboardInterrupt:
        if state.exists():
            print(
                f"stopped: what is done is kept in {state}; the same command goes on from there", flush=True
            )
        raise


def _holds_points(path: Path) -> bool:
    """Whether a .ply is none of Gaussians: cameras may name it as what they begin with."""
    if path.suffix.lower() != ".ply" or not path.is_file():
        return False
    from ..scene.files.ply_header import read_header

    try:
        with path.open("rb") as file:
            vertex = read_header(file, str(path)).element("vertex")
    except (EVLMError, OSError):
        return False
    return vertex is not None and {"x", "y", "z"} <= vertex.names() and "opacity" not in vertex.names()


def _refuse(path: Path, read: Sequence[str | Path]) -> None:
    if any(same_file(path, each) for each in read):
        raise EVLMError(f"{path} is read by this command: name another file")
