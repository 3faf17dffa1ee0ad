"""`evlm edit` with every part real but the models: a plan for the middle of the picture, painted green."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.__main__ import main
from evlm.boxes import Box
from evlm.edit import Edited, EditSettings
from evlm.edit.masked import composite
from evlm.pipeline import Pipeline
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace
from evlm.reason.reasoner import Reasoned

PAINT = (0.15, 0.55, 0.25)  # inside every gamut here


@dataclass
class Plans:
    """A reasoner that plans to edit the middle of any picture, and keeps what it was asked."""

    requests: list[Any] = field(default_factory=list)

    def reason(self, request: Any, *_: Any, **__: Any) -> Reasoned:
        self.requests.append(request)
        height, width = request.original.shape[1:3]
        where = torch.zeros(height, width)
        where[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        plan = Plan("paint the middle green", ("middle",), BoxSpans().encode(where), "local")
        return Reasoned("", 0, 0.0, trace=Trace("", "", "", plan))


class Middle:
    """A detector that finds it in every frame of a clip: the plan's place stays where it is."""

    def ground(self, frames: Tensor, labels: Any, *_: Any, **__: Any) -> list[Box]:
        height, width = frames.shape[1:3]
        corners = map(float, (width // 4, height // 4, width - width // 4, height - height // 4))
        box = Box(labels[0], 0.9, *corners)
        return [replace(box, frame=frame) for frame in range(len(frames))] if len(frames) > 1 else []


class Paints:
    """An editor that paints the mask green, with a hard edge."""

    defaults = EditSettings(steps=1)

    def edit(self, frames: Tensor, _: str, mask: Any = None, **__: Any) -> Edited:
        return Edited(composite(frames, torch.tensor(PAINT).expand_as(frames), mask, feather=0), frames)


@dataclass
class EditCommand:
    """Runs `evlm edit` on a file; out: the folder with the results. requests: what the reasoner saw."""

    out: Path
    requests: list[Any]

    def __call__(self, image: Path | str, *more: str) -> int:
        return main(["edit", "--image", str(image), "--prompt", "x", *more, "--out", str(self.out)])

    @property
    def edited(self) -> Path:
        return next(self.out.glob("edited.*"))


def edit_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    plans = Plans()
    load: Callable[..., Pipeline] = lambda *_, **__: Pipeline(plans, Middle(), None, Paints())  # noqa: E731
    monkeypatch.setattr(Pipeline, "load", load)
    return EditCommand(tmp_path / "out", plans.requests)
