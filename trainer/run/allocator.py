"""How the process gets its memory on a CPU."""

from __future__ import annotations

import ctypes
import platform

_TRIM, _MMAP = -1, -3  # mallopt's numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD


def keep_memory() -> bool:
    """From here on glibc keeps what is freed for the next tensor; whether it does.

    As it is, a large block goes back to the system when it is freed, and the system hands each page of the
    next one out anew, zeroed: a fifth to a third of the time in the layers (benchmarks/README.md). The peak
    stays what it was. Other allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP, 1 << 25)) and bool(mallopt(_TRIM, 1 << 30))  # 32 MiB is the most that it takes
