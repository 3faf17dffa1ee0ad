"""The exact reader of outcomes: whether a picture shows what follows from the cause."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..reader import Picture, edit_right, scene_right
from ..render import render
from .question import WhatIf


class Verdict(NamedTuple):
    """right: the places that the steps touch show what they leave there; scene: so does all the rest, each
    thing, every free cell, ground, weather and style."""

    right: bool
    scene: bool


def outcome_right(picture: Picture, question: WhatIf, frame: int = 0) -> Verdict:
    """Reads a picture ([S, S, 3], uint8 or floats in 0..1) as the answer to a hypothetical question. Of a
    null both verdicts are of the whole scene; of a drift, which moves things by a few units, right is that
    the picture lies nearer to the result than to the source."""
    edit = question.edit
    whole = scene_right(picture, edit.result, frame)
    if getattr(edit, "steps", ()):
        return Verdict(edit_right(picture, edit, frame), whole)
    if question.null:
        return Verdict(whole, whole)
    pixels = np.asarray(picture) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    after, before = (
        np.square(render(scene, len(pixels), frame) / 255.0 - pixels).mean()
        for scene in (edit.result, edit.source)
    )
    moved = bool(after < before)
    return Verdict(moved, moved and whole)
