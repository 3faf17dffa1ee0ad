"""Appending to a file that several processes append to at once, without losing or mixing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def append_lines(path: Path, data: bytes) -> None:
    """Adds whole lines to the end of a file, flushed to the disk. Raises OSError; the file is then as it was.

    data: one or more lines, each ended by a newline.
    """
    with _lock(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        try:
            size = os.fstat(handle).st_size
            if size and _last_byte(handle, size) != b"\n":
                data = (
                    b"\n" + data
                )  # a writer died in the middle of a line: keep our rows apart from its half
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
                os.fsync(handle)
            except BaseException:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


def _last_byte(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An exclusive lock between processes, on a file beside the rows; it ends with the process."""
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.name == "nt":
            import msvcrt

            while True:  # LK_LOCK gives up after ten seconds; a writer of many rows may take longer
                try:
                    msvcrt.locking(handle, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
                    break
                except OSError:
                    continue
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
