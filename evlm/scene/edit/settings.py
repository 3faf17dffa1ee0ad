"""How a scene is edited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import SceneError

Schedule = Literal["consistent", "in2n", "direct", "canonical", "iterative", "pseudo3d"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
IN_TIME: Schedule = "pseudo3d"  # of a scene that moves, unless another is said: benchmarks.scene_in_time_edit


@dataclass(frozen=True)
class SceneEdit:
    """schedule: "consistent", all views are painted, the scene is fitted to the mean of what was painted so
        far, and again from what it then shows; "in2n", one view is painted anew every `every` steps of one
        long fit (Instruct-NeRF2NeRF's dataset update, the paper's recipe); "direct", all views are painted
        once; and for scenes that move "canonical", the views of one time are painted first, those of the
        other times from what the scene then shows at them; "iterative", as "in2n" over places and times; and
        "pseudo3d", one place's clip first, carried by depth to the others (Instruct 4D-to-4D's recipe).
    views: at most so many are painted. times: of a scene that moves, at so many of its times. longest:
        pixels of their longer side.
    strengths: of the rounds of `consistent`; 1 begins from noise, less from what the scene shows.
    settled: a further round is left out when the last one lowered what views and paintings disagree by less
        than this share.
    every, updates: of `in2n` and `iterative`: steps of the fit between two paintings, and paintings a view.
    sweeps: of the colours' closed-form fit, before Adam. steps: of Adam, a view and round.
    decay: what the learning rates have fallen to at the end of a round. anchor: weight of what holds means
        and scales where they were; 0 where the plan changes the shape.
    seed: of the order of the views.
    growth: how many times the selected rows there may be in the end: above 1 rows that show nothing go, and
        copies come where detail lacks, for edits that change a shape. 1 keeps every row.

    Raises SceneError: a value outside its range.
    """

    schedule: Schedule = "consistent"
    views: int = 24
    times: int = 4
    longest: int = 512
    strengths: tuple[float, ...] = (1.0, 0.6, 0.3)
    settled: float = 0.1
    every: int = 10
    updates: float = 2.5
    sweeps: int = 3
    steps: int = 4
    decay: float = 0.1
    anchor: float = 0.0
    seed: int = 0
    growth: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise SceneError(f"schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}")
        ranges = {
            "views": (1, 1000),
            "times": (1, 1000),
            "longest": (16, 4096),
            "settled": (0, 1),
            "every": (1, 10_000),
            "updates": (0.01, 100),
            "sweeps": (0, 100),
            "steps": (0, 10_000),
            "decay": (1e-4, 1),
            "anchor": (0, 1e6),
            "growth": (1, 100),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:  # false for NaN, too
                raise SceneError(f"{name} {value!r:.40}: expected {low} to {high}")
        if not self.strengths or not all(0 < strength <= 1 for strength in self.strengths):
            raise SceneError(f"strengths {self.strengths!r:.60}: expected one or more above 0 and at most 1")
