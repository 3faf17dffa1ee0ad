"""Paths that a dataset names: relative, and inside its folder, whatever links lie on the way."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from ..errors import RecordError

_HELD = 512  # folders remembered; rows that follow each other share them
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PLAIN = re.compile(r"[\w-][\w .,()+=@-]*(?:/[\w-][\w .,()+=@-]*)*")  # no "..", no "//", no hidden names


def inside(folder: str | os.PathLike[str], path: str) -> Path:
    """folder/path, where path is relative and stays in the folder, links followed. Raises RecordError."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or ".." in parts
        or "\\" in path
        or ":" in path
        or not path.isprintable()
    ):
        raise RecordError(
            f"path {path!r:.80}: expected a relative path inside the dataset, with forward slashes"
        )
    root = Path(os.path.realpath(folder))
    target = Path(os.path.realpath(root.joinpath(*parts)))
    if root not in target.parents:
        raise RecordError(f"path {path!r:.80} leads out of the dataset folder {root}")
    return root.joinpath(*parts)


def leads_to_its_kind(path: str | os.PathLike[str]) -> bool:
    """Whether a path is no link, or a link to a folder, to a file with the same ending, or to a file of the
    Hugging Face cache, whose names are hashes. A link from elsewhere cannot so hand in any other file."""
    if not os.path.islink(path):
        return True
    target = os.path.realpath(path)
    if os.path.isdir(target):
        return True
    same = os.path.splitext(target)[1].lower() == os.path.splitext(path)[1].lower()
    return os.path.isfile(target) and (same or bool(_BLOB.fullmatch(os.path.basename(target))))


class Inside:
    """`inside` for the thousands of paths of one dataset: a folder is looked at once, not once a path.

    A folder that is reached without links answers from memory which plain files it holds; everything else is
    asked anew, so that a picture which came after the folder was looked at is found.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = folder
        self._root = os.path.realpath(folder)
        self._files: dict[str, frozenset[str] | None] = {}

    def is_file(self, path: str) -> bool:
        """Whether the path leads to a file in the folder. Raises RecordError where it leads out of it."""
        if not _PLAIN.fullmatch(path):
            return inside(self.folder, path).is_file()
        parent, _, name = path.rpartition("/")
        files = self._in(parent)
        if files is not None and name in files:
            return True
        full = os.path.join(self._root, path)
        if files is None or os.path.islink(full):
            return inside(self.folder, path).is_file()
        return os.path.isfile(full)

    def _in(self, parent: str) -> frozenset[str] | None:
        """The plain files of root/parent; None where a link is on the way."""
        if parent not in self._files:
            if len(self._files) >= _HELD:
                del self._files[next(iter(self._files))]
            self._files[parent] = self._look(os.path.join(self._root, *parent.split("/")))
        return self._files[parent]

    def _look(self, where: str) -> frozenset[str] | None:
        where = where.rstrip(os.sep)
        if os.path.realpath(where) != where:
            return None
        try:
            with os.scandir(where) as entries:
                return frozenset(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except OSError:  # no such folder, so nothing in it leads anywhere
            return frozenset()
