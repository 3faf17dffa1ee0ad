"""Memory that a window has left goes back to the system: a long run stays as small as its first window."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Frames, and encoders with threads of their own, leave holes that glibc keeps; other systems do not."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another libc
            return
