"""A folder that one process works in at a time; the hold ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EVLMError

LOCK = "lock"  # in the folder; what counts is who holds it, not that it is there
_FAR = 1 << 30  # byte that Windows locks, behind what is read
_KNOWS_NONE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)}


class HeldError(EVLMError):
    """Another process works in a folder."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Makes the folder where it is not there, and holds it. Raises HeldError where another process does,
    OSError where it cannot be written."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            if (who := taken(handle)) is not None:
                raise HeldError(f"the same command is at work already ({who}): wait for its end, or stop it")
            if _still_there(folder / LOCK, handle):
                sign(handle)
                yield
                return
        finally:
            os.close(handle)


def taken(handle: int) -> str | None:
    """Takes the lock of an open file; None, or who has it. On a disk that knows no locks nobody has it."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, _FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if knows_no_locks(error):
            return None
        os.lseek(handle, 0, os.SEEK_SET)
        return os.read(handle, 200).decode("utf-8", "replace") or "another process"
    return None


def knows_no_locks(error: OSError) -> bool:
    """Whether the file system has no locks at all (Lustre without flock, NFS without a lock daemon): who
    works there has to see to it alone, which is better than not to work there."""
    return error.errno in _KNOWS_NONE


def sign(handle: int) -> None:
    """Says in the file who holds it."""
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        pass  # a full disk: whose lock it is cannot be said then


def _still_there(path: Path, handle: int) -> bool:
    """Whether the file that was opened is the one of that name: who ended meanwhile took the folder away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False
