"""What stages do with one row, made where the row is: in this process or in another one that has no more than
the folder's path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .masks import MaskFinder
from .near import phash
from .pairs import compared
from .pictures import Pictures
from .recipe import Masks
from .stages import Result


def cores() -> int:
    """How many pictures are worked on at once: numpy and the decoders leave the lock to others."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def comparing(out: str) -> Callable[[Any], Result]:
    """Of the paths before and after."""
    return lambda each: compared(Path(out) / each[0], Path(out) / each[1])


def hashing(out: str) -> Callable[[Any], Result]:
    """Of a path."""
    return lambda path: {"phash": phash(Path(out) / path)}


class Masking:
    """Of `rows.mask_task`. settings: those of the recipe's `masks`. flush: brings the masks to the disk."""

    def __init__(self, out: str, settings: dict[str, Any], frames: int) -> None:
        pictures = Pictures(Path(out), frames)
        self.finder, self.flush = MaskFinder(Path(out), Masks(**settings), pictures), pictures.flush

    def __call__(self, task: dict[str, Any]) -> Result:
        return self.finder.find(task)
