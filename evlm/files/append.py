"""Appending to a file that several processes append to at once, without losing or mixing anything."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .lock import knows_no_locks


def append_lines(path: Path, data: bytes) -> None:
    """Adds whole lines to the end of a file, flushed to the disk. Raises OSError; the file is then as it was.

    data: one or more lines, each ended by a newline.
    """
    with _lock(path):
        handle = open_in_place(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
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


def replace_lines(path: Path, gone: Callable[[bytes], bool], data: bytes) -> None:
    """Adds whole lines, and leaves out those for which `gone` is true; the others keep their bytes. Who reads
    meanwhile sees the file as it was, or as it is then. Raises OSError; the file is then as it was."""
    with _lock(path):
        handle = open_in_place(path, os.O_RDWR)
        with os.fdopen(handle, "rb") as file:
            kept = b"".join(line for line in file if not gone(line))
        if kept and not kept.endswith(b"\n"):
            kept += b"\n"
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(part, "wb") as out:
                out.write(kept + data)
                out.flush()
                os.fsync(out.fileno())
            os.chmod(part, stat.S_IMODE(os.stat(path).st_mode))  # who may read and write stays as it was
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def flush_files(paths: Sequence[Path]) -> None:
    """Makes sure that files are on the disk before a line speaks of them. Raises OSError."""
    if len(paths) > 4 and hasattr(os, "sync"):  # ten times faster than one fsync for each of a hundred files
        os.sync()
        return
    for path in paths:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def lock_file(path: str | os.PathLike[str]) -> Path:
    """The file beside `path` that `append_lines` locks."""
    return Path(path).with_suffix(".lock")


def open_in_place(path: Path, flags: int) -> int:
    """A handle of the plain file that lies at `path` itself: a link there, which might lead anywhere, is not
    followed. Raises OSError (ELOOP) for a link, a device, a pipe, or a file that has a second name."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o644)
    try:
        opened, named = os.fstat(handle), os.lstat(path)
        plain = stat.S_ISREG(opened.st_mode) and stat.S_ISREG(named.st_mode)
        if not plain or not os.path.samestat(opened, named) or opened.st_nlink > 1:
            raise OSError(errno.ELOOP, "it is a link, has a second name elsewhere, or is no file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _last_byte(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An exclusive lock between processes, on a file beside the rows; it ends with the process."""
    handle = open_in_place(lock_file(path), os.O_RDWR | os.O_CREAT)
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

            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                if not knows_no_locks(error):
                    raise
        yield
    finally:
        os.close(handle)
