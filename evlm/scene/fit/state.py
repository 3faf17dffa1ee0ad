"""A fit on its way, as one safetensors file: all that the next iteration needs, and what it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import CheckpointError, SceneError
from ...files.pictures import write_atomically
from ...models.safetensors_file import read_header
from ..gaussians import Gaussians

if TYPE_CHECKING:
    from .fitting import Fitting

FORMAT = "evlm-fit-1"
REMEDY = "delete it to begin anew"


def fingerprint(fitting: Fitting) -> str:
    """Of what a fit was given: Gaussians, rows, cameras, settings; photographs by their files' names, sizes
    and times."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in [*fitting.source.tensors().values(), fitting.moving]:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for camera in fitting.cameras:
        said = (camera.view.tolist(), camera.intrinsics.tolist(), camera.width, camera.height, camera.name)
        digest.update(repr(said).encode())
    digest.update(files_of(fitting.photographs))
    digest.update(repr(sorted(asdict(fitting.settings).items())).encode())
    return digest.hexdigest()


def files_of(photographs: Sequence[Callable[[], Tensor]]) -> bytes:
    """Of photographs that are files: their names, sizes and times."""
    said = b""
    for read in photographs:
        if (path := getattr(read, "path", None)) is not None:
            found = path.stat()
            said += repr((str(path.resolve()), found.st_size, found.st_mtime_ns)).encode()
    return said


def write_state(path: Path, fitting: Fitting, belongs: str) -> None:
    """As `save_tensors`."""
    tensors = {"home": fitting.home, "pull": fitting.pull}
    for name, tensor in fitting.owned.tensors().items():
        tensors |= {
            name: tensor,
            f"{name}.1": fitting.adam.first[name],
            f"{name}.2": fitting.adam.second[name],
        }
    save_tensors(path, tensors, belongs, fitting.done)


def save_tensors(path: Path, tensors: dict[str, Tensor], belongs: str, done: int) -> None:
    """Whole or not at all: written beside, then put in its place. done: iterations. Raises SceneError: it
    cannot be written."""
    from safetensors.torch import save

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = save(ready, {"format": FORMAT, "of": belongs, "done": str(done)})
    try:
        write_atomically(path, lambda file: file.write(whole))
    except OSError as error:
        raise SceneError(f"{path}: the fit's state cannot be written: {error.strerror or error}") from error


def read_state(path: Path, fitting: Fitting, belongs: str) -> None:
    """Takes a fit to where the file left it. Raises SceneError: of another fit, or damaged."""
    tensors, done = load_tensors(path, belongs)
    device = fitting.source.means.device

    def taken(name: str) -> Tensor:
        if name not in tensors:
            raise SceneError(f"{path}: the fit's state has no {name}; {REMEDY}")
        return tensors[name].to(device)

    names = list(fitting.owned.tensors())
    owned = Gaussians(**{name: taken(name) for name in names})
    moments = [{name: taken(f"{name}.{which}") for name in names} for which in (1, 2)]
    home, pull = taken("home"), taken("pull")
    fits = all(m[n].shape == owned.tensors()[n].shape for m in moments for n in names)
    if not fits or len(home) != len(owned) or len(pull) != len(owned):
        raise SceneError(f"{path}: the parts of the fit's state do not fit together; {REMEDY}")
    fitting.owned, fitting.home, fitting.pull, fitting.done = owned, home, pull, done
    fitting.adam.first, fitting.adam.second = moments


def load_tensors(path: Path, belongs: str) -> tuple[dict[str, Tensor], int]:
    """(tensors, iterations that were done). Raises SceneError: of another fit, or damaged."""
    from safetensors.torch import load_file

    try:
        said = read_header(path).metadata
        tensors = load_file(path)
    except (CheckpointError, OSError) as error:
        raise SceneError(f"{path}: the fit's state cannot be read ({error}); {REMEDY}") from error
    if said.get("format") != FORMAT:
        raise SceneError(f"{path}: no state of a fit; {REMEDY}, or name another file")
    if said.get("of") != belongs:
        raise SceneError(f"{path}: the state of another fit (other points, cameras or settings); {REMEDY}")
    done = said.get("done", "")
    if not done.isdecimal():
        raise SceneError(f"{path}: the fit's state does not say how far it is ({done!r:.20}); {REMEDY}")
    return tensors, int(done)
