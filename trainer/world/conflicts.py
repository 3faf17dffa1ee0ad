"""Questions whose words and picture disagree: the rule that a text states decides, and without one the words.

That is the system text's own rule: "say so and follow the prompt, unless a note says otherwise". The trace
says what disagrees, and why the one is followed. (`ask` has conflicts of colour with a stated rule among its
recolourings, one in five; these are all kinds of them, as a share of their own.)
"""

from __future__ import annotations

import random
from dataclasses import replace

from .edits import Edit, random_edit
from .question import FRAMES, Question, Ref, name_of, open_changes
from .scene import COLOURS, TEXTURES, Split, random_look, random_scene, random_thing

CONFLICT = "conflict"
CATEGORIES = ("image", "image+text", "video", "image->video", "video+text")  # words alone cannot disagree
RULES = ("picture wins", "words win")
VALUES = {"recolour": COLOURS, "retexture": TEXTURES}


def ask_conflict(rng: random.Random, split: Split, category: str | None = None) -> Question:
    """A question of that split whose form is "conflict". The category is uniform, unless given; those with a
    text state a rule. Raises ValueError for "text"."""
    category = category or rng.choice(CATEGORIES)
    if category not in CATEGORIES:
        raise ValueError(f"{category!r}: words and picture disagree in one of {', '.join(CATEGORIES)}")
    while True:
        op = rng.choice(("recolour", "recolour", "retexture"))
        scene = random_scene(rng, moving=category == "image->video", frames=FRAMES)
        edit = random_edit(rng, op, scene)
        if edit is None or edit.split != split:
            continue
        rule = rng.choice(RULES) if category.endswith("+text") else None
        question = _disagreeing(rng, edit, category, rule)
        if question is not None:
            return question


def _disagreeing(rng: random.Random, edit: Edit, category: str, rule: str | None) -> Question | None:
    assert edit.target is not None
    name = name_of(edit.target, edit.source)
    if len(name.split()) > 3:
        return None
    key = "colour" if edit.op == "recolour" else "texture"
    now = getattr(edit.target, key)
    wrong = rng.choice([value for value in VALUES[edit.op] if value not in (edit.value, now)])
    picture_wins = rule == RULES[0]
    said, shown = (wrong, edit.value) if picture_wins else (edit.value, wrong)
    look = random_look(rng)
    look = (look[0], shown, look[2]) if key == "colour" else (look[0], look[1], shown)
    frames = FRAMES if category.startswith("video") else 1
    thing = random_thing(rng, rng.randrange(9), look, moving=frames > 1, frames=FRAMES)
    refs: tuple[Ref, ...] = (Ref((replace(edit.source, things=(thing,), sign=None),), frames=frames),)
    if rule is not None:
        refs += (Ref(text=rule),)
    changes = open_changes((edit.target,), edit.source, key)
    index = 1 if key == "colour" else 2
    k = sum(each[index] != said for each in changes) if picture_wins else 1
    decided = f"{rule or 'no rule'} , so {edit.value} for the {edit.target.label}"
    hint = f"the words say {said} but the picture {shown} ; {decided}"
    return Question(edit, category, CONFLICT, f"{said} {name}", refs, k, hint, picture_wins)
