"""What a command is given, checked before it works for hours: numbers in their limits, places to write to."""

from __future__ import annotations

import os
from pathlib import Path

from evlm.errors import ConfigError

MOST = 10**9
SEEDS = (0, 2**31 - 1)  # that every generator takes


def check_whole(name: str, value: int | None, low: int = 1, high: int = MOST) -> None:
    """A flag's number must lie within its limits; None is one that was not given. Raises ConfigError."""
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name} {value!s:.40}: expected {low:,} to {high:,}")


def check_folder(name: str, folder: Path) -> None:
    """Files must be able to be written into the folder, which may still have to be made; nothing is written
    now. Raises ConfigError."""
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return
        why = "it is no folder" if not there.is_dir() else "it may not be written to"
    except (OSError, ValueError, StopIteration) as error:
        there, why = folder, getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"{name} {str(folder)!r:.120}: nothing can be written to {str(there)!r:.120} ({why})")
