"""What a part of the check is made of: steps that each measure one thing, and the bars they are held to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Setting:
    """toy: small shapes, a round each, to prove on a CPU that all of it runs; no bar is judged then.
    rounds: turns of each way. comfyui: the folder of one."""

    device: torch.device
    toy: bool
    rounds: int
    comfyui: Path | None = None

    @property
    def warm(self) -> int:
        """Turns before the clock starts; a toy's times are nobody's."""
        return 0 if self.toy else 1

    @property
    def half(self) -> torch.dtype:
        """float32 on a CPU, which imitates shorter types."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16


@dataclass(frozen=True)
class Bar:
    """A value of a step and what it has to be: at least `limit`, or with `most` at most."""

    value: str
    limit: float
    most: bool = False

    def met(self, values: dict[str, float]) -> bool:
        found = values[self.value]
        return found <= self.limit if self.most else found >= self.limit

    def __str__(self) -> str:
        return f"{self.value} {'<=' if self.most else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Step:
    """One measurement. minutes: what it may take on a large card, models included; needs: packages beyond
    torch and transformers; lacks: what else is not here, "needs ...", if anything is not: another
    card, a ComfyUI; that is said, and is no failure. apart: it only waits for a process of its own."""

    name: str
    minutes: float
    run: Callable[[], dict[str, float]]
    bars: tuple[Bar, ...] = ()
    needs: tuple[str, ...] = ()
    cuda: bool = field(default=False)
    lacks: str = ""
    apart: bool = field(default=False)

    def why_not(self, setting: Setting) -> str:
        """Why it cannot be measured here, or nothing."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"needs {', '.join(missing)}, not installed here"
        if self.cuda and setting.device.type != "cuda":
            return "needs a CUDA card"
        return self.lacks
