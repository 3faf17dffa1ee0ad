"""Core's samplers by name, and the noise levels that KSampler steps through."""

from __future__ import annotations

from typing import Any

import torch


class KSampler:
    SAMPLERS = ("euler", "euler_ancestral")
    SCHEDULERS = ("simple", "normal")

    def __init__(
        self,
        model: Any,
        steps: int,
        device: torch.device,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float | None = None,
        model_options: Any = None,
    ) -> None:
        self.sigmas = torch.linspace(1, 0, steps + 1) * (denoise or 1)


def sampler_object(name: str) -> str:
    return name
