"""Several edits of a scene, one after the other, as one edit with exact truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evlm.plan.form import COMPOUND, MOST_STEPS

from .edits import GLOBAL, Edit, split_of
from .render import render_frames
from .scene import Scene, Split, composition_split, scene_split

KEEP = "keep the picture as it is"


@dataclass(frozen=True)
class Chain(Edit):
    """Up to four edits. Each step's source is the result of the one before; `target` and `outcome` are None,
    for they are the steps'. Without steps the picture stays as it is."""

    steps: tuple[Edit, ...] = ()

    @property
    def scope(self) -> str:
        return "global" if any(step.scope == "global" for step in self.steps) else "local"

    @property
    def roomy(self) -> bool:
        return any(step.roomy for step in self.steps)

    def region(self, size: int = 64, frames: int = 1) -> NDArray[np.bool_] | None:
        """The union of the steps' regions: bool [size, size]; None where one is the whole picture, or nothing
        changes."""
        regions = [step.region(size, frames) for step in self.steps]
        found = [region for region in regions if region is not None]
        return np.logical_or.reduce(found) if found and len(found) == len(regions) else None

    def pictures(self, size: int = 64, frames: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(source, result), each uint8 [frames, size, size, 3]: what is left when each step has drawn in its
        own region on the picture of the one before."""
        before = render_frames(self.source, size, frames)
        after = before if self.steps else render_frames(self.result, size, frames)
        for step in self.steps:
            drawn, region = render_frames(step.result, size, frames), step.region(size, frames)
            after = drawn if region is None else np.where(region[None, :, :, None], drawn, after)
        return before, after

    @property
    def split(self) -> Split | None:
        """By the rule of a single edit, with the compositions of all steps and the scene that is asked
        about."""
        things = [t for step in self.steps for t in (step.target, step.outcome) if t is not None]
        return split_of(scene_split(self.source), {composition_split(thing.look) for thing in things})


def chain(op: str, source: Scene, steps: Sequence[Edit]) -> Chain:
    """The steps as one edit of kind `op`. Raises ValueError where they are too many, or one does not begin
    where the one before ended."""
    if len(steps) > MOST_STEPS:
        raise ValueError(f"{len(steps)} steps: a chain has at most {MOST_STEPS}")
    now = source
    for step in steps:
        if step.source != now:
            raise ValueError(f"{step.instruction!r} does not begin where the step before it ended")
        now = step.result
    order = COMPOUND.join(step.instruction for step in steps) or KEEP
    targets = dict.fromkeys(label for step in steps for label in step.targets)
    return Chain(op, source, now, order, tuple(targets), steps=tuple(steps))


def onto(edit: Edit, scene: Scene) -> Edit:
    """The edit of one thing (or its addition) made on another scene, which holds the same thing. Raises
    ValueError."""
    if edit.op in GLOBAL or isinstance(edit, Chain):
        raise ValueError(f"{edit.op} is no edit of one thing")
    others = tuple(thing for thing in scene.things if thing != edit.target)
    if len(others) != len(scene.things) - (edit.target is not None):
        raise ValueError(f"the scene has no {edit.targets[0]} to {edit.op}")
    new = edit.outcome
    if new is not None and new.cell not in replace(scene, things=others).free_cells():
        raise ValueError(f"{edit.instruction!r}: its cell is taken")
    if edit.target is None:
        assert new is not None
        things = tuple(sorted((*scene.things, new), key=lambda thing: thing.cell))
    elif new is None:
        things = others
    else:
        things = tuple(new if thing == edit.target else thing for thing in scene.things)
    return replace(edit, source=scene, result=replace(scene, things=things))
