"""Traces of questions about stills of solids: the flat world's grammar, and the sky besides."""

from __future__ import annotations

import random
from collections.abc import Collection

import torch

from evlm.plan.trace import Plan, Trace

from .solid import Solid, SolidScene
from .solid_edits import random_solid_edit
from .solid_questions import SolidQuestion
from .solid_stills import SolidStill
from .traces import CODEC, SLIPS, describe_thing, reflection


def write_solid_trace(rng: random.Random, question: SolidQuestion, size: int = 64) -> Trace:
    """The desired trace. The intermediate is wrong in one of seven, and the reflection mends it."""
    edit = question.edit
    slip = _other(rng, edit) if rng.random() < SLIPS else None
    wrong = None if slip is None else slip.instruction
    right = edit.instruction
    return Trace(
        _thinking(question), wrong or right, reflection(rng, question.hint, right, wrong), plan_of(edit, size)
    )


def plan_of(edit: SolidStill, size: int = 64) -> Plan:
    """The exact plan."""
    region = edit.region(size)
    mask_text = None if region is None else CODEC.encode(torch.from_numpy(region))
    return Plan(edit.instruction, edit.targets, mask_text, edit.scope)  # type: ignore[arg-type]


def describe_solids(scene: SolidScene, beside: Solid | None = None, spoken: Collection[str] = ()) -> str:
    """A scene in words, from far left to near right, marked as `traces.describe` does: "large red plain ball
    left ; grass , rain , pink sky"."""
    there = sorted(scene.solids, key=lambda solid: solid.cell)
    words = [describe_thing(solid, True, beside, spoken) for solid in there]
    return f"{' , '.join(words) or 'nothing'} ; {scene.ground} , {scene.weather} , {scene.sky} sky"


def _thinking(question: SolidQuestion) -> str:
    """As the flat world's: references first, so that the original's attributes can be held against them."""
    scenes = [ref.scene for ref in question.refs]
    parts = [f"reference {n} : {describe_solids(s)}" for n, s in enumerate(scenes, 1) if s is not None]
    spoken = {
        word for text in (question.prompt, *(ref.text for ref in question.refs)) for word in text.split()
    }
    first = scenes[0] if scenes else None
    alone = first.solids[0] if first is not None else None
    parts.append(f"original : {describe_solids(question.edit.source, alone, spoken)}")
    return " . ".join([*parts, question.hint])


def _other(rng: random.Random, edit: SolidStill) -> SolidStill | None:
    """Another edit of the same kind that the still shows, with another instruction; None where none came."""
    for _ in range(40):
        other = random_solid_edit(rng, edit.op, edit.source)
        if other is not None and other.instruction != edit.instruction:
            return SolidStill(other, edit.stand, edit.samples)
    return None
