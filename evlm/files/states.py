"""What tells files from what they were before: their names, sizes and times."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def state_of(path: str, out: Path) -> list[Any]:
    """What tells a file, or a folder with what lies in it, from what it was before; but for what is hidden,
    and for the folder of the results."""
    try:
        found = Path(path).expanduser().resolve()
        if not found.is_dir():
            return [str(found), found.stat().st_size, found.stat().st_mtime_ns]
        # A file that is written anew in its place leaves its folder as it was.
        files: list[tuple[str, int, int]] = []
        for folder, folders, names in os.walk(found):
            at = Path(folder)
            folders[:] = [name for name in folders if name[0] != "." and at / name != out.resolve()]
            for each in (at / name for name in names if name[0] != "."):
                size, time = -1, -1  # a link that leads nowhere
                with suppress(OSError):
                    state = each.stat()
                    size, time = state.st_size, state.st_mtime_ns
                files.append((str(each.relative_to(found)), size, time))
        return [str(found), *sorted(files)]
    except OSError:
        return [path]
