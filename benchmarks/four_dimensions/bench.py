"""What all questions are answered with, and what an answer says."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from trainer.bundle.check_clips import Knows

from .answers import ROLES

ANOTHER = 1_000_000  # numbers on lies the question that takes the place of one that cannot be told


class Outcome(NamedTuple):
    """Fields as `Answer`'s."""

    right: bool = False
    shown: float = 0.0
    most: bool = False
    why: str = ""
    instructions: tuple[str, ...] = ()
    place: float | None = None


class Bench:
    """The models of a folder, in one thread."""

    def __init__(self, folder: Path) -> None:
        from evlm.pipeline import Pipeline

        torch.set_num_threads(1)
        self.pipeline = Pipeline.load({role: folder / role for role in ROLES}, device="cpu")

    def told(self, trace: Any) -> Any:
        """The same models behind a reasoner that answers so."""
        pipeline = copy(self.pipeline)
        pipeline.reasoner = Knows()
        pipeline.reasoner.trace = trace
        return pipeline
