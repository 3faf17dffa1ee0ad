"""What a hypothetical question is, and the wrong answers that its undesired completions give."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..chain import Chain, chain
from ..edits import Edit, random_edit, remove
from ..question import Question


@dataclass(frozen=True)
class WhatIf(Question):
    """A question whose words name a cause; `form` is its rule, and `edit` a chain of the steps that follow.

    scenario: physical, temporal, causal or story. facts: why it is so. unseen: its wording is of those that
    training never had; held_out: so is its kind (see `rules.Outcome`).
    """

    scenario: str = ""
    facts: tuple[str, ...] = ()
    unseen: bool = False
    held_out: bool = False

    @property
    def null(self) -> bool:
        """Whether the premise changes nothing."""
        return self.edit.result == self.edit.source


def another_outcome(rng: random.Random, edit: Chain) -> Edit:
    """A wrong answer to a hypothetical question: half a chain, the picture as it is, the literal reading
    ("remove" for "dropped"), the same kind of edit of another thing; for a null, a change. Raises ValueError
    where the scene is empty."""
    scene, wrong = edit.source, list[Edit]()
    if edit.steps:
        wrong.append(chain(edit.op, scene, ()))
    if len(edit.steps) > 1:
        wrong.append(chain(edit.op, scene, edit.steps[:-1]))
    wrong += [remove(scene, step.target) for step in edit.steps if step.target in scene.things]
    ops = [step.op for step in edit.steps] or ["recolour", "remove", "move"]
    wrong += [other for op in ops if scene.things and (other := random_edit(rng, op, scene)) is not None]
    kept = [each for each in wrong if each.instruction != edit.instruction]
    if not kept:
        raise ValueError(f"no other outcome than {edit.instruction!r} in this scene; ask for another scene")
    return rng.choice(kept)
