"""What keeps a step from doing harm: one without a sane gradient is dropped, one that does not fit into
memory is done again in smaller parts."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable
from typing import TypeVar

import torch

from evlm.errors import TrainingError

from ..model.ranks import PeerFailed, Ranks
from .state import Progress

Result = TypeVar("Result")
REMEMBERED = 32  # good steps, which the next one is held against
ENOUGH = 8  # of them, before anything counts as exploding
BAD_STEPS = 3  # in a row, then a run stops
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def skip_reason(
    progress: Progress, loss: float, norm: float = 0.0, explode: float = math.inf, clip: float = 0.0
) -> str | None:
    """Why a step must not be taken, or None; counted in `progress` either way.

    loss: of the whole batch; norm: of its gradient, before it is clipped. Exploding is more than `explode`
    times the median of the last good steps; a norm that is not clipped never is, nor is a loss below
    `explode` nats. Infinity asks for finite numbers alone.
    """
    why = None
    if not math.isfinite(loss) or not math.isfinite(norm):
        why = f"loss {loss}, gradient norm {norm}: not finite"
    elif explode < math.inf and len(progress.norms) >= ENOUGH:
        # Steps that had nothing to learn say nothing about the size of the others.
        moved, level = [each for each in progress.norms if each], statistics.median(progress.losses)
        usual = statistics.median(moved) if moved else norm
        if norm > max(explode * usual, clip):
            why = f"gradient norm {norm:.4g}: more than {explode:g} times the usual {usual:.4g}"
        elif abs(loss) > explode * max(level, 1.0):
            why = f"loss {loss:.4g}: more than {explode:g} times the usual {level:.4g}"
    if why is None:
        progress.norms = [*progress.norms, norm][-REMEMBERED:]
        progress.losses = [*progress.losses, abs(loss)][-REMEMBERED:]
        progress.in_a_row = 0
    else:
        progress.dropped += 1
        progress.in_a_row += 1
    return why


def check_in_a_row(progress: Progress, reasons: str, remedy: str) -> None:
    """Raises TrainingError where the last BAD_STEPS steps were all dropped."""
    if progress.in_a_row >= BAD_STEPS:
        raise TrainingError(f"{BAD_STEPS} steps in a row without a sane gradient ({reasons}); {remedy}")


def within_memory(
    attempt: Callable[[int | None], Result],
    rows: int,
    micro_batch: int | None,
    ranks: Ranks,
    device: torch.device,
    halved: Callable[[int], None],
) -> tuple[Result, int | None]:
    """(what attempt(micro_batch) returned, the micro-batch that it took): each time that memory runs out, on
    any rank, all try again with half of it.

    attempt: one whole step that may be begun again; micro_batch None is all of the `rows` of a rank. halved:
    told each new number. Raises TrainingError where one row at a time is too much.
    """
    while True:
        try:
            return attempt(micro_batch), micro_batch
        except PeerFailed:
            reason = "another process ran out of it"
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason = str(error).partition("\n")[0] or "MemoryError"
            ranks.fail(device)
        # Out of the except block, so that the failed attempt's tensors are no longer held by its traceback.
        gc.collect()
        ranks.reset()
        backend = getattr(torch, device.type)
        if hasattr(backend, "empty_cache"):
            backend.empty_cache()
        now = min(micro_batch or rows, rows)
        if now <= 1:
            raise TrainingError(
                f"out of memory with one row at a time ({reason:.300}); model.checkpointing, model.dtype "
                "bf16 and model.quantize 4bit are smaller, so are fewer rewards.samples, and eta0.over shifts"
            )
        micro_batch = now // 2
        halved(micro_batch)


def ran_out(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: of a GPU's, or of the CPU's allocator."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )
