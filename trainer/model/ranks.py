"""The processes that train together: one, or those that `accelerate launch` or torchrun started.

A step's losses are divided by the counts of the whole effective batch, so gradients and losses of the ranks
add up to what one process would have computed.

When memory runs out in one process, the others are waiting for its part of a sum. Every exchange begins with
each process saying how much it will give; one that failed says so there, and all begin the step again
together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from evlm.errors import ConfigError

from .shards import PeerFailed, Shards

__all__ = ["PeerFailed", "Ranks", "joined"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. With one of them nothing is sent anywhere. shards: of a model that is
    split over them."""

    rank: int = 0
    count: int = 1
    shards: Shards | None = None

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch.distributed where it was started, else this process alone."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share: a piece of the items, so that all ranks' pieces in order are the items."""
        return list(items[self._border(len(items), self.rank) : self._border(len(items), self.rank + 1)])

    def _border(self, items: int, rank: int) -> int:
        return items * rank // self.count

    def gather(self, values: Tensor) -> Tensor:
        """All ranks' values [n, ...], rank after rank; n may differ from rank to rank."""
        if self.count == 1:
            return values
        import torch.distributed as dist

        sizes = self._sizes(len(values), values.device)
        padded = values.new_zeros((max(sizes), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def before(self, rows: int, device: torch.device) -> int:
        """How many rows the lower ranks have: where this rank's begin among the gathered ones."""
        if self.count == 1:
            return 0
        return int(self.gather(torch.tensor([rows], device=device))[: self.rank].sum())

    def others(self, texts: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], int]:
        """The other ranks' token ids, each int64 [n] on the CPU, rank after rank; and how many of them are
        of lower ranks."""
        if self.count == 1:
            return [], 0
        flat = torch.cat([torch.zeros(0, dtype=torch.long), *texts]).to(device)
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.long, device=device)
        everyone = list(self.gather(flat).cpu().split(self.gather(lengths).tolist()))
        first = self.before(len(texts), device)
        return everyone[:first] + everyone[first + len(texts) :], first

    def total(self, value: float, device: torch.device) -> float:
        """Sum over the ranks."""
        if self.count == 1:
            return value
        kind = torch.float64 if device.type != "mps" else torch.float32
        return float(self.gather(torch.tensor([value], dtype=kind, device=device)).sum())

    def totals(
        self, values: dict[str, float], names: Sequence[str], device: torch.device
    ) -> dict[str, float]:
        """Sums over the ranks by name. names: those that there can be; what no rank has is left out."""
        if self.count == 1:
            return values
        kind = torch.float64 if device.type != "mps" else torch.float32
        pairs = [[values.get(name, 0.0), float(name in values)] for name in names]
        summed = self.gather(torch.tensor([pairs], dtype=kind, device=device)).sum(0).tolist()
        return {name: total for name, (total, there) in zip(names, summed, strict=True) if there}

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so on any rank."""
        return flag if self.count == 1 else self.total(float(flag), device) > 0

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the ranks' gradients in place; a parameter that had none on a rank counts as 0 there."""
        if self.count == 1:
            return
        import torch.distributed as dist

        learning = list(parameters)
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._sizes(0, flat.device)
        dist.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def fail(self, device: torch.device) -> None:
        """Tells the other ranks, which are exchanging something or will, that this one cannot go on with the
        step; each of them raises PeerFailed there."""
        if self.shards is not None:
            self.shards.fail()
        elif self.count > 1:
            try:
                self._sizes(-1, device)
            except PeerFailed:
                return

    def reset(self) -> None:
        """After a step that failed, before it is begun again."""
        if self.shards is not None:
            self.shards.reset()

    def _sizes(self, count: int, device: torch.device) -> list[int]:
        import torch.distributed as dist

        if self.shards is not None:
            self.shards.wait()
        sizes_of_all = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.count)]
        dist.all_gather(sizes_of_all, torch.tensor([count], dtype=torch.long, device=device))
        sizes = [int(size) for size in sizes_of_all]
        if min(sizes) < 0:
            raise PeerFailed
        return sizes


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """(this process among its peers, the device that it computes on).

    device: the recipe's; "auto" on a machine with CUDA is the GPU of this process's number. A process that no
    launcher started is alone, and its device is the recipe's word. Raises ConfigError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:  # torchrun's contract, which accelerate keeps
        yield Ranks(), device
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        raise ConfigError(
            "accelerate was configured with FSDP, whose settings are not read here; launch without it, and "
            "set model.shard: true in the recipe"
        )
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    try:
        yield Ranks(state.process_index, state.num_processes), str(state.device)
    finally:
        state.destroy_process_group()
        PartialState._reset_state()
