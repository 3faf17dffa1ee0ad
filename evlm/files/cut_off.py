"""Whether an MP4 or MOV ends before its index."""

from __future__ import annotations

import os
from pathlib import Path


def cut_off(path: Path) -> str:
    """What there is to add where an MP4 or MOV lacks its index, which most writers put at the end."""
    try:
        with path.open("rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            while at + 8 <= size:
                file.seek(at)
                head = file.read(16)
                if head[4:8] == b"moov":
                    return ""
                if not at and head[4:8] != b"ftyp":
                    return ""
                length = int.from_bytes(head[:4], "big")
                if length == 1:  # the length follows, as a longer number
                    length = int.from_bytes(head[8:], "big")
                at += length if length >= 8 else size
    except OSError:
        return ""
    return ": it is cut off, and its index, which stands at the end, is lost; copy or download it again"
