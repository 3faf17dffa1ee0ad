"""Questions: an edit hidden behind few words and references, so that only the right reading finds it.

A question with a reference is ambiguous by construction: `k` counts the answers that the original and the
words leave open when the pictures are withheld and even the kind of edit is known. All of them are equally
likely, so a blind reader scores 1/k at best. (Of a replacement k counts shapes alone, though half of them
bring another colour and texture too.)
"""

from __future__ import annotations

import random

from .edits import MIX, OPERATIONS, random_edit
from .picture_questions import picture_question
from .question import CATEGORIES, FRAMES, LIKE, Question, Ref, name_of, shared
from .scene import (
    COLOURS,
    Split,
    random_scene,
)
from .word_questions import word_question

__all__ = ["CATEGORIES", "FRAMES", "LIKE", "Question", "Ref", "ask", "name_of", "shared"]


def ask(rng: random.Random, split: Split, op: str | None = None, category: str | None = None) -> Question:
    """A question of that split. The operation follows the paper's Figure 10 and the category is uniform,
    unless given."""
    op = op or rng.choices(OPERATIONS, list(MIX.values()))[0]
    category = category or rng.choice(CATEGORIES)
    moving = category.endswith("->video")
    while True:
        sign = rng.choice(COLOURS) if rng.random() < 0.1 else None
        scene = random_scene(rng, sign=sign, moving=moving, frames=FRAMES)
        edit = random_edit(rng, op, scene)
        if edit is None or edit.split != split:
            continue
        question = word_question(rng, edit) if category == "text" else picture_question(rng, edit, category)
        if question is not None:
            return question
