"""What an edit gives, with everything in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from .plan.trace import Plan, Trace

if TYPE_CHECKING:
    from .boxes import Box


@dataclass(frozen=True)
class PlannedStep:
    """One edit of a plan and its place. boxes: of its targets, in pixels. mask: float [F, H, W] in 0..1, or
    None for the whole frame."""

    plan: Plan
    boxes: tuple[Box, ...]
    mask: Tensor | None


@dataclass(frozen=True)
class Result:
    """One edit with everything in between.

    text: what the reasoner wrote, as it wrote it. boxes: in pixels, those that agreed with the plan.
    object_masks: float [N, F, H, W], or None where nothing was segmented. mask: float [F, H, W] in 0..1;
    None: the whole frame. edited: float [F, H, W, 3] in 0..1, equal to the original bit for bit where the
    mask is 0.
    crops: what the editor cut out and worked on. seconds: of each step that ran. notes: decisions, in words.
    held_back: why nothing was painted (`plan.doubt`), and edited is the original; empty: it was.
    steps: each edit of the plan with its own boxes and mask.
    """

    trace: Trace
    plan: Plan
    text: str
    boxes: tuple[Box, ...]
    object_masks: Tensor | None
    mask: Tensor | None
    edited: Tensor
    crops: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held_back: str = ""
    steps: tuple[PlannedStep, ...] = ()


@dataclass(frozen=True)
class Planned:
    """Everything before the edit: where it goes and what was decided. Fields as `Result`'s.

    doubt: why nothing should be painted by this plan unless somebody says so (`plan.doubt`), or empty.
    """

    trace: Trace
    text: str
    boxes: tuple[Box, ...]
    object_masks: Tensor | None
    mask: Tensor | None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubt: str = ""
    steps: tuple[PlannedStep, ...] = ()


@dataclass(frozen=True)
class Changes:
    """What somebody who looked at a plan wants otherwise; what is empty stays the plan's.

    instruction: in place of the plan's. targets: labels in place of the plan's, whose own place is then not
    asked. boxes: in pixels, in place of the detector's; the steps of a plan stay, and the local ones take
    those that belong to them (`place.for_steps`).
    """

    instruction: str = ""
    targets: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None

    def applied(self, trace: Trace) -> Trace:
        """The trace with its plan changed."""
        plan = trace.plan
        if self.instruction:
            plan = plan.as_one(instruction=self.instruction, confidence=None)
        if self.targets:
            plan = plan.as_one(targets=self.targets, scope="local", mask_text=None, confidence=None)
        elif self.boxes is not None:
            plan = _at_boxes(plan, self.boxes)
        return replace(trace, plan=plan)


def _at_boxes(plan: Plan, boxes: Sequence[Box]) -> Plan:
    """The plan with boxes in place of its own place: of several steps the local ones take theirs, and one
    that has none keeps what the plan says. Where none is local, all become so."""
    from .place import for_steps

    if not plan.several:
        return plan.as_one(scope="local", mask_text=None)
    local = [step.scope == "local" for step in plan.steps]
    meant = {box.step for box in for_steps(plan, boxes)}
    steps = [
        step.as_one(scope="local", mask_text=None) if number in meant and (here or not any(local)) else step
        for number, (step, here) in enumerate(zip(plan.steps, local, strict=True), 1)
    ]
    changed = Plan.of_steps(steps, plan.repairs)
    return replace(changed, trust=plan.trust, confidence=plan.confidence)
