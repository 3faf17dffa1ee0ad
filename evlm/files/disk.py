"""What a disk says when it does not take a file: in words, and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import PictureError

_FULL = "make room"
_CLOSED = "allow writing there, close what has it open, or name another folder"
_GONE = "the disk does not answer: look whether it is whole and connected"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"{_FULL}, the quota is used up",
    errno.EFBIG: "files may not be so large there: lift the limit (ulimit -f), or name a folder of another "
    "file system",
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EBUSY: _CLOSED,
    errno.EROFS: "it is mounted for reading only: mount it for writing, or name another folder",
    errno.ENOENT: "its folder was taken away: bring it back, or name another",
    errno.ENOTDIR: "a part of the path is no folder: name another",
    errno.EEXIST: "a part of the path is no folder: name another",
    errno.EIO: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    getattr(errno, "ESTALE", errno.EIO): _GONE,
    errno.EMFILE: "too many files are open: lift the limit (ulimit -n)",
    errno.ENFILE: "too many files are open: close other programs",
    errno.ENAMETOOLONG: "name a folder with a shorter path",
}
_WRITES_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def remedy(error: OSError, again: str) -> str:
    """ "(why); what to do, and `again`"; where nobody knows what to do, `again` alone."""
    return f"({why(error)}); {', and '.join(filter(None, [_REMEDIES.get(error.errno or 0), again]))}"


def why(error: Exception) -> str:
    """The system's own words, without names of temporary files."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def unwritten(path: Path, error: Exception, again: str = "run it again") -> PictureError:
    """What is said of a file that cannot be written. again: how what is done goes on, once it can."""
    if isinstance(error, OSError):
        return PictureError(f"{path}: cannot be written {remedy(error, again)}")
    return PictureError(f"{path}: cannot be written ({error})")


def refused(folder: Path, path: Path, error: OSError, again: str) -> PictureError:
    """As `unwritten`, of work that reads other files, too. folder: all that is written lies in it. path: what
    was on its way."""
    name = error.filename if isinstance(error.filename, str) else None
    if name is None or error.errno in _WRITES_ONLY or _within(name, folder):
        return unwritten(path, error, again)
    return PictureError(f"{name}: cannot be read ({why(error)}); bring it back, and {again}")


def _within(name: str, folder: Path) -> bool:
    return Path(name).absolute().is_relative_to(folder.absolute())
