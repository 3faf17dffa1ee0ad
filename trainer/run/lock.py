"""One run in a folder at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evlm.errors import TrainingError
from evlm.files.lock import sign, taken

LOCK = "run.lock"  # in the run's folder; it stays there, what counts is who holds it
_held: set[Path] = set()  # of this process


@contextmanager
def locked(out: Path, doing: str = "training") -> Iterator[None]:
    """Inside, no other process trains in this folder; one that holds it already may ask again. doing: what
    those are about that lock it. Raises TrainingError where another does, or where the folder cannot be
    written."""
    path = out.resolve() / LOCK
    if path in _held:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error.strerror}); choose another `out`") from error
    try:
        _take(handle, out, doing)
        _held.add(path)
        sign(handle)
        yield
    finally:
        _held.discard(path)
        os.close(handle)


def check_free(out: Path) -> None:
    """Raises TrainingError where another process trains in this folder; nothing is written."""
    path = out.resolve() / LOCK
    if not path.is_file() or path in _held:
        return
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except OSError:
        return  # that it cannot be written is said elsewhere
    try:
        _take(handle, out)
    finally:
        os.close(handle)


def _take(handle: int, out: Path, doing: str = "training") -> None:
    if (who := taken(handle)) is not None:
        raise TrainingError(
            f"{out}: another run is {doing} there ({who}). Wait for its end, stop it with Ctrl-C or "
            "SIGTERM, or set out= to another folder"
        )
