"""The same work on many items, by as many processes as there are cores; each makes its model once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_model: Any = None  # of this process


def parallel_map(
    make: Callable[[], Any],
    work: Callable[[Any, Item], Result],
    items: Sequence[Item],
    log: Callable[[str], None],
    jobs: int | None = None,
) -> list[Result]:
    """[work(make(), item) for each item], in order. make, work, items and results must be picklable.

    jobs: processes, None for one a core; 1 stays in this one.
    """
    jobs = min(jobs or os.cpu_count() or 1, len(items))
    if jobs <= 1:
        model = make()
        return [work(model, item) for item in items]
    results: list[Result] = []
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (make,)) as pool:
        for result in pool.imap(_Call(work), items, chunksize=4):
            results.append(result)
            if len(results) % 250 == 0:
                log(f"{len(results)} of {len(items)} done")
    return results


class _Call:
    def __init__(self, work: Callable[[Any, Any], Any]) -> None:
        self.work = work

    def __call__(self, item: Any) -> Any:
        return self.work(_model, item)


def _begin(make: Callable[[], Any]) -> None:
    import torch

    global _model
    torch.set_num_threads(1)
    _model = make()
