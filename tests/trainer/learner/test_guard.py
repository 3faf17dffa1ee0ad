"""Steps that would do harm are dropped, and what does not fit into memory is done in smaller parts."""

from __future__ import annotations

import gc
import math

import pytest
import torch

from evlm.errors import TrainingError
from trainer.learner.guard import ENOUGH, REMEMBERED, skip_reason, within_memory
from trainer.learner.state import Progress
from trainer.model.ranks import Ranks

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays() -> None:
    """Each halving collects garbage, and would look at all that earlier tests have imported."""
    gc.collect()
    gc.freeze()


def test_what_is_not_finite_is_dropped_and_counted() -> None:
    progress = Progress()
    for loss, norm in ((math.nan, 1.0), (1.0, math.inf)):
        assert "not finite" in str(skip_reason(progress, loss, norm, 1000, 1.0))
    assert (progress.dropped, progress.in_a_row, progress.norms) == (2, 2, [])
    assert skip_reason(progress, 1.0, 1.0, 1000, 1.0) is None
    assert (progress.dropped, progress.in_a_row, progress.norms) == (2, 0, [1.0])


def test_what_explodes_is_dropped_once_there_is_something_to_hold_it_against() -> None:
    progress = Progress()
    assert skip_reason(progress, 1.0, 1e9, 100, 1.0) is None, "the first steps tell what is usual"
    progress = Progress()
    for _ in range(ENOUGH):
        assert skip_reason(progress, -2.0, 0.001, 100, 1.0) is None
    assert skip_reason(progress, 2.0, 0.9, 100, 1.0) is None, "a norm that is not clipped does no harm"
    assert "more than 100 times the usual 0.001" in str(skip_reason(progress, 2.0, 1.1, 100, 1.0))
    assert skip_reason(progress, 199.0, 0.1, 100, 1.0) is None
    assert "more than 100 times the usual 2" in str(skip_reason(progress, -201.0, 0.1, 100, 1.0))
    assert (progress.dropped, progress.in_a_row) == (2, 1)
    for _ in range(2 * REMEMBERED):
        skip_reason(progress, 2.0, 0.1, 100, 1.0)
    assert len(progress.norms) == len(progress.losses) == REMEMBERED


def test_steps_that_had_nothing_to_learn_make_no_other_one_explode() -> None:
    progress = Progress()
    for norm in (0.0, 3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0):
        assert skip_reason(progress, 1.0, norm, 100, 1.0) is None
    assert skip_reason(progress, 1.0, 5.0, 100, 1.0) is None
    assert "times the usual" in str(skip_reason(progress, 1.0, 500.0, 100, 1.0))
    progress = Progress()
    for norm in (*[0.0] * ENOUGH, 7.0):
        assert skip_reason(progress, 1.0, norm, 100, 1.0) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"),
        MemoryError(),
    ],
)
def test_the_micro_batch_halves_until_it_fits(error: Exception) -> None:
    told: list[int] = []

    def attempt(size: int | None) -> str:
        if size is None or size > 2:
            raise error
        return f"with {size}"

    assert within_memory(attempt, 9, None, Ranks(), CPU, told.append) == ("with 2", 2)
    assert told == [4, 2]
    assert within_memory(attempt, 9, 2, Ranks(), CPU, told.append) == ("with 2", 2)
    assert told == [4, 2]


def test_one_row_that_is_too_much_and_other_errors_are_raised() -> None:
    def full(size: int | None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    told: list[int] = []
    with pytest.raises(TrainingError, match=r"one row at a time \(CUDA out of memory\).*bf16"):
        within_memory(full, 4, None, Ranks(), CPU, told.append)
    assert told == [2, 1]

    def other(size: int | None) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(other, 4, None, Ranks(), CPU, told.append)


def test_the_cpu_allocator_says_what_is_expected_of_it() -> None:
    def attempt(size: int | None) -> int:
        torch.empty(1 << 62 if size is None else 1, dtype=torch.uint8)
        return 1

    assert within_memory(attempt, 4, None, Ranks(), CPU, lambda size: None) == (1, 2)
