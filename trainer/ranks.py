"""The processes that train together: one, or those that `accelerate launch` started.

A step's losses are divided by the counts of the whole effective batch, so gradients and losses of the ranks
add up to what one process would have computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. With one of them nothing is sent anywhere."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch.distributed where it was started, else this process alone."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share: every count-th item."""
        return list(items[self.rank :: self.count])

    def gather(self, values: Tensor) -> Tensor:
        """All ranks' values [n, ...], rank after rank; n may differ from rank to rank."""
        if self.count == 1:
            return values
        import torch.distributed as dist

        sizes = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(values)], device=values.device))
        longest = max(int(size) for size in sizes)
        padded = values.new_zeros((longest, *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])

    def before(self, own: int, device: torch.device) -> int:
        """How many rows the lower ranks have: where this rank's begin among the gathered ones."""
        if self.count == 1:
            return 0
        return int(self.gather(torch.tensor([own], device=device))[: self.rank].sum())

    def total(self, value: float, device: torch.device) -> float:
        """Sum over the ranks."""
        if self.count == 1:
            return value
        return float(self.gather(torch.tensor([value], dtype=torch.float64, device=device)).sum())

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the ranks' gradients in place; a parameter that had none on a rank counts as 0 there."""
        if self.count == 1:
            return
        import torch.distributed as dist

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
