"""Double questions: two edits of different things in one request, each asked by its own reference or words.

"like this and no ring", with one picture: the first clause is read with the picture, the second without.
The n-th "this" of the prompt is the n-th reference, be it a picture or a text. Both clauses are said of the
original, so each can be read, grounded and masked there.
"""

from __future__ import annotations

import random

from .chain import Chain, chain, onto
from .edits import MIX, Edit, random_edit
from .picture_questions import picture_question
from .question import CATEGORIES, FRAMES, Question, Ref
from .scene import COLOURS, Scene, Split, random_scene
from .word_questions import word_question

DOUBLE = "double"
# No edit of the whole picture: it would change what the other one is read and measured by. A picture has no
# clause with "this" for a move.
BY_WORDS = ("recolour", "replace", "remove", "retexture", "move")
BY_PICTURE = ("recolour", "replace", "remove", "add", "retexture")
FORMS = {
    "image": ("two references", "reference and words"),
    "video": ("two references", "reference and words"),
    "image->video": ("two references", "reference and words"),
    "image+text": ("reference and text",),
    "video+text": ("reference and text",),
    "text": ("two wordings",),
}


def ask_double(rng: random.Random, split: Split, category: str | None = None) -> Question:
    """A double question of that split; its edit is a `Chain` of two. The category is uniform, unless given.

    Of its `k` the larger of the two clauses' is taken: at least so many answers stay open.
    """
    category = category or rng.choice(CATEGORIES)
    while True:
        form = rng.choice(FORMS[category])
        sign = rng.choice(COLOURS) if rng.random() < 0.1 else None
        scene = random_scene(
            rng, rng.choice((3, 3, 4)), sign=sign, moving=category.endswith("->video"), frames=FRAMES
        )
        pictured = [form == "two references" or form.startswith("reference and"), form == "two references"]
        clauses = [_clause(rng, scene, category, by_picture) for by_picture in pictured]
        if any(clause is None for clause in clauses):
            continue
        pair = [clause for clause in clauses if clause is not None]
        if form == "reference and words" and rng.random() < 0.5:
            pair.reverse()
        edit = both(pair[0].edit, pair[1].edit)
        if edit is not None and edit.split == split:
            return _joined(rng, edit, pair, category, form)


def both(first: Edit, second: Edit) -> Chain | None:
    """The two edits of one scene in a row; None where they touch the same thing or place, or leave two things
    that are called alike."""
    scene = first.source
    if first.target is not None and first.target == second.target:
        return None
    labels = {thing.label for thing in scene.things}
    for one, other in ((first, second), (second, first)):
        new = one.outcome
        # not even the name that the other thing had before: the second sentence would be ambiguous
        if new is not None and new.label in labels - set(one.targets if one.target else ()):
            return None
        if new is not None and other.outcome is not None and new.label == other.outcome.label:
            return None
    try:
        return chain(DOUBLE, scene, (first, onto(second, first.result)))
    except ValueError:  # both go to one cell
        return None


def _clause(rng: random.Random, scene: Scene, category: str, by_picture: bool) -> Question | None:
    """A single question about the scene that a clause of at most four words asks."""
    op = rng.choices(*_mix(BY_PICTURE if by_picture else BY_WORDS))[0]
    edit = random_edit(rng, op, scene)
    if edit is None:
        return None
    if not by_picture:
        asked = word_question(rng, edit)
        return asked if asked is not None and not asked.refs and "this" not in asked.prompt.split() else None
    kind = "video" if category.startswith("video") else "image"
    asked = picture_question(rng, edit, "image->video" if category == "image->video" else kind)
    if asked is None or len(asked.refs) != 1:
        return None
    return asked if "this" in asked.prompt.split() else None


def _mix(ops: tuple[str, ...]) -> tuple[tuple[str, ...], list[float]]:
    return ops, [MIX[op] for op in ops]


def _joined(rng: random.Random, edit: Chain, pair: list[Question], category: str, form: str) -> Question:
    refs: list[Ref] = []
    said: list[str] = []
    for clause in pair:
        if form == "reference and text" and not clause.refs:
            said.append(rng.choice(("this", "do this")))
            refs.append(Ref(text=clause.prompt))
        else:
            said.append(clause.prompt)
            refs += clause.refs
    hint = " . then ".join(clause.hint for clause in pair)
    k = max(clause.k for clause in pair)
    return Question(
        edit,
        category,
        form,
        " and ".join(said),
        tuple(refs),
        k,
        hint,
        any(clause.decisive for clause in pair),
    )
