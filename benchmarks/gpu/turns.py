"""Ways to do one thing, timed in turns on one device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timed:
    """seconds: the median of the turns; least, most: of them; peak: bytes of the device at most while it
    ran, everything that lay there included; 0 on a CPU, where torch does not count them."""

    seconds: float
    least: float
    most: float
    peak: int


def in_turns(
    ways: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int, warm: int = 1
) -> dict[str, Timed]:
    """Each way `rounds` times, one after the other, the order turned round each time; before that `warm`
    times without a clock."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    for _ in range(warm):
        for work in ways.values():
            work()
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            _begin(device)
            began = time.perf_counter()
            ways[name]()
            wait(device)
            spent[name].append(time.perf_counter() - began)
            peaks[name] = max(peaks[name], peak_bytes(device))
    return {
        name: Timed(statistics.median(each), min(each), max(each), peaks[name])
        for name, each in spent.items()
    }


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def empty(device: torch.device) -> None:
    """Gives back what no tensor holds."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _begin(device: torch.device) -> None:
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def figures(timed: Mapping[str, Timed], peer: str) -> dict[str, float]:
    """As a step's values: seconds of each way and GB where they are counted; over the peer: how many times
    as fast the others are, and their share of its memory."""
    values: dict[str, float] = {}
    for name, each in timed.items():
        values[f"{name} s"] = each.seconds
        if each.peak:
            values[f"{name} GB"] = each.peak / 1e9
    for name, each in timed.items():
        if name != peer:
            values[f"{name} x"] = timed[peer].seconds / each.seconds
            if each.peak:
                values[f"{name} memory"] = each.peak / timed[peer].peak
    return values
