"""Finished work of a scene's edit, so that one that was stopped goes on in the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ...errors import CheckpointError, SceneError
from ...files.pictures import write_atomically
from ...models.safetensors_file import read_header, read_tensors


class Journal(Protocol):
    def recall(self, name: str) -> dict[str, Tensor] | None:
        """What was kept last under a name; None: nothing."""
        ...

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors under a name, in place of what was there."""
        ...

    def drop(self, name: str) -> None:
        """What was kept under a name is needed no more; it may be gone already."""
        ...


class NoJournal:
    """Keeps nothing."""

    def recall(self, name: str) -> None:
        return None

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        return None

    def drop(self, name: str) -> None:
        return None


class FolderJournal:
    """One safetensors file a name, there whole or not at all.

    folder: made when the first thing is kept; it belongs to one edit alone, whose `digest` is in its name.
    A file of it that is damaged is taken away, and made anew. Raises SceneError where it cannot be written.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder = folder / digest

    def recall(self, name: str) -> dict[str, Tensor] | None:
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            return read_tensors(path, read_header(path))
        except CheckpointError:
            self.drop(name)
            return None

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        whole = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(name), lambda file: file.write(whole))
        except OSError as error:
            raise SceneError(
                f"{self._path(name)} cannot be written ({error.strerror or error}): make room there; what is "
                "finished is kept, and the same command goes on"
            ) from error

    def drop(self, name: str) -> None:
        with suppress(OSError):  # it only takes room
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def digest_of(parts: Iterable[object]) -> str:
    """16 hex digits of tensors, by their types, shapes and bytes, and of other things by their repr."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()[:16]
