"""Work on many frames in pieces that fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import ModelError

T = TypeVar("T")


def in_chunks(count: int, size: int, work: Callable[[slice], T]) -> tuple[list[T], list[str]]:
    """Calls work(frames) for consecutive slices of range(count), at most `size` long.

    Out of memory halves the size and the same frames are tried again.

    Returns:
        The results in order, and a note for every halving.

    Raises:
        ModelError: a single frame does not fit.
    """
    results: list[T] = []
    notes: list[str] = []
    start, size = 0, min(size, count)
    while start < count:
        chunk = slice(start, min(start + size, count))
        done = _try(work, chunk)
        if done is not None:
            results.append(done[0])
            start = chunk.stop
            continue
        # Here the exception is gone, and with it the frames that held the memory.
        _free()
        tried = chunk.stop - chunk.start
        if tried == 1:
            raise ModelError(
                "out of memory with a single frame; give a smaller mask, load the model in fp16, "
                "or free other models"
            )
        size = tried // 2
        notes.append(f"out of memory with {tried} frames at once: went on with {size}")
    return results, notes


def _try(work: Callable[[slice], T], chunk: slice) -> tuple[T] | None:
    try:
        return (work(chunk),)
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return None


def _out_of_memory(error: BaseException) -> bool:
    """CUDA and ROCm have a class for it; Apple's backend and the CPU only say so."""
    message = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        "out of memory" in message or "can't allocate memory" in message
    )


def _free() -> None:
    gc.collect()
    backends = [(torch.cuda, torch.cuda), (torch.mps, torch.backends.mps)]
    if hasattr(torch, "xpu"):
        backends.append((torch.xpu, torch.xpu))
    for backend, there in backends:
        if there.is_available():
            backend.empty_cache()
