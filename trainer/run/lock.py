"""One run in a folder at a time: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evlm.errors import TrainingError

LOCK = "run.lock"  # in the run's folder; it stays there, what counts is who holds it
_FAR = 1 << 30  # byte that Windows locks, behind what is read
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
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError:
            pass  # a full disk: whose lock it is cannot be said then
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
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.lseek(handle, 0, os.SEEK_SET)
        who = os.read(handle, 200).decode("utf-8", "replace") or "another process"
        raise TrainingError(
            f"{out}: another run is {doing} there ({who}). Wait for its end, stop it with Ctrl-C or "
            "SIGTERM, or set out= to another folder"
        ) from None
