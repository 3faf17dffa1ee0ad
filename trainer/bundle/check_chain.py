"""Measures the whole chain, from request to picture, with the exact reader of the world; no model judges
another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

from ..world.questions import Question
from ..world.reader import edit_right
from ..world.rows import to_request
from .reasoner import questions


def check(
    folder: Path, rows: int = 500, seed: int = 3, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Shares in 0..1 by name. `folder` holds reasoner/, detector/, segmenter/ and editor/."""
    from evlm.errors import TraceError
    from evlm.pipeline import Pipeline

    roles = ("reasoner", "detector", "segmenter", "editor")
    pipeline = Pipeline.load({role: folder / role for role in roles})
    right: dict[str, list[bool]] = defaultdict(list)
    planned: list[bool] = []
    outside = 0.0
    seconds: list[float] = []
    for number, question in enumerate(questions("test", rows, seed), 1):
        request = to_request(question)
        try:
            result = pipeline.run(request)
        except TraceError:  # no plan at all: wrong, and not the end of the measurement
            right["chain"].append(False)
            right[f"chain, {question.edit.op}"].append(False)
            planned.append(False)
            continue
        if result.mask is not None:
            changed = (result.edited - request.original).abs().amax(-1)
            outside = max(outside, float((changed * (result.mask == 0)).max()))
        good = picture_right(question, result.edited)
        right["chain"].append(good)
        right[f"chain, {question.edit.op}"].append(good)
        planned.append(result.plan.instruction == question.edit.instruction)
        seconds.append(sum(result.seconds.values()))
        if number % 50 == 0:
            shares = f"{_share(right['chain']):.3f} right, {_share(planned):.3f} planned right"
            log(f"chain: {number} of {rows}, {shares}")
    found = {name: _share(values) for name, values in sorted(right.items())}
    return {
        **found,
        "chain, plan": _share(planned),
        "chain, outside the mask": outside,
        "chain, seconds an edit (median)": sorted(seconds)[len(seconds) // 2],
    }


def picture_right(question: Question, edited: torch.Tensor) -> bool:
    """Whether the exact reader finds the edit in every frame of [F, H, W, 3]."""
    return all(edit_right(frame.numpy(), question.edit, f) for f, frame in enumerate(edited))


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)
