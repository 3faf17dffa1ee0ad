"""Measures the whole chain, from request to picture, with the exact reader of the world; no model judges
another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..world.doubles import DOUBLE
from ..world.questions import Question
from ..world.reader import edit_right
from ..world.rows import to_request
from .check_reasoner import of_kind
from .parallel_map import parallel_map
from .reasoner import questions


@dataclass(frozen=True)
class Outcome:
    """right: the picture, by the exact reader; planned: the instruction; outside: the greatest change outside
    the mask; seconds: of all steps."""

    right: bool = False
    planned: bool = False
    outside: float = 0.0
    seconds: float = 0.0


def check(
    folder: Path,
    rows: int = 500,
    seed: int = 3,
    log: Callable[[str], None] = print,
    jobs: int | None = None,
) -> dict[str, float]:
    """Shares in 0..1 by name: of the world's mix, and beside it of double questions. `folder` holds
    reasoner/, detector/, segmenter/ and editor/."""
    asked = questions("test", rows, seed) + of_kind("double", rows // 5, seed)
    results = parallel_map(partial(_load, folder), edit_one, asked, lambda text: log(f"chain: {text}"), jobs)
    right: dict[str, list[bool]] = defaultdict(list)
    for question, result in zip(asked, results, strict=True):
        if question.edit.op != DOUBLE:
            right["chain"].append(result.right)
        right[f"chain, {question.edit.op}"].append(result.right)
    seconds = sorted(result.seconds for result in results)
    return {
        **{name: _share(values) for name, values in sorted(right.items())},
        "chain, plan": _share([result.planned for result in results]),
        "chain, outside the mask": max(result.outside for result in results),
        "chain, seconds an edit (median)": seconds[len(seconds) // 2],
    }


def edit_one(pipeline: Any, question: Question) -> Outcome:
    """One question through all five steps. No plan at all is wrong, and not the end of the measurement."""
    from evlm.errors import TraceError

    request = to_request(question)
    try:
        result = pipeline.run(request)
    except TraceError:
        return Outcome()
    outside = 0.0
    if result.mask is not None:
        changed = (result.edited - request.original).abs().amax(-1)
        outside = float((changed * (result.mask == 0)).max())
    planned = result.plan.instruction == question.edit.instruction
    return Outcome(picture_right(question, result.edited), planned, outside, sum(result.seconds.values()))


def _load(folder: Path) -> Any:
    from evlm.pipeline import Pipeline

    roles = ("reasoner", "detector", "segmenter", "editor")
    return Pipeline.load({role: folder / role for role in roles}, device="cpu")


def picture_right(question: Question, edited: torch.Tensor) -> bool:
    """Whether the exact reader finds the edit in every frame of [F, H, W, 3]."""
    return all(edit_right(frame.numpy(), question.edit, f) for f, frame in enumerate(edited))


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)
