"""The exact reader of outcomes: whether a picture shows what follows from the cause."""

from __future__ import annotations

from typing import NamedTuple

from ..reader import Picture, edit_right, scene_right
from .question import WhatIf


class Verdict(NamedTuple):
    """right: the places that the steps touch show what they leave there; scene: so does all the rest, each
    thing, every free cell, ground, weather and style."""

    right: bool
    scene: bool


def outcome_right(picture: Picture, question: WhatIf, frame: int = 0) -> Verdict:
    """Reads a picture ([S, S, 3], uint8 or floats in 0..1) as the answer to a hypothetical question. Where no
    step says what changes (a null, a drift), both verdicts are of the whole scene."""
    whole = scene_right(picture, question.edit.result, frame)
    steps = getattr(question.edit, "steps", ())
    return Verdict(edit_right(picture, question.edit, frame) if steps else whole, whole)
