"""Boxes in a frame: the labelled `Box`, the box around a mask, how two boxes overlap, clipping.

Corners are (x0, y0, x1, y1) in pixels of the frame; x1 and y1 are exclusive edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A labelled box in pixels of its frame; x1 and y1 are exclusive edges.

    score: in 0..1. by_plan: the plan's own box, whose score is 0 as no detector vouches for it; not part of
        its identity. step: of a plan of several edits, which one it belongs to, from 1; 0: not known
        (`place.for_steps`).
    """

    label: str
    score: float
    x0: float
    y0: float
    x1: float
    y1: float
    frame: int = 0
    by_plan: bool = field(default=False, compare=False)
    step: int = 1

    @property
    def caption(self) -> str:
        """The label with its score, or with the word that it is the plan's own."""
        return f"{self.label} (plan's own)" if self.by_plan else f"{self.label} {self.score:.2f}"

    @property
    def corners(self) -> Corners:
        return self.x0, self.y0, self.x1, self.y1

    def grown(self, dx: float, dy: float) -> Corners:
        """Corners `dx` pixels further out on the left and the right, `dy` above and below."""
        return self.x0 - dx, self.y0 - dy, self.x1 + dx, self.y1 + dy


def bounding_box(on: Tensor) -> tuple[int, int, int, int] | None:
    """Corners of the smallest box around all that is on (not zero) in `on` [H, W]; None where nothing is."""
    rows, columns = torch.nonzero(on.any(1)).flatten(), torch.nonzero(on.any(0)).flatten()
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes, 0..1; 0 for a box without area."""
    both = _shared(a, b)
    return both / max(_area(a) + _area(b) - both, 1e-9)


def share_within(box: Corners, other: Corners) -> float:
    """How much of `box` lies in `other`, 0..1; 0 for a box without area."""
    return _shared(box, other) / max(_area(box), 1e-9)


def clip_corners(corners: Tensor, height: int, width: int) -> Tensor:
    """Corners [..., 4] moved into a frame of height x width pixels; a box outside it is left without area."""
    edge = torch.tensor([width, height, width, height], dtype=corners.dtype, device=corners.device)
    return torch.minimum(corners.clamp(min=0), edge)


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: Corners, b: Corners) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)
