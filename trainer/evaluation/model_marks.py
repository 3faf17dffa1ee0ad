"""What tells that a model on the disk is another one by now."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def marks(place: Path) -> list[tuple[str, int, str]]:
    """(path within it, size in bytes, SHA-256 in hex) of a file, or of all files of a folder by name."""
    files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file())
    names = [file.name if file == place else file.relative_to(place).as_posix() for file in files]
    return [(name, file.stat().st_size, sha256_of(file)) for name, file in zip(names, files, strict=True)]


def sha256_of(file: Path) -> str:
    """In hex, of all its bytes: a training may change the last layers alone. A base has gigabytes, and every
    question asks: it is kept for as long as size and time of the file stay."""
    found = file.stat()
    return _hashed(file, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hashed(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as data:
        while block := data.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
