"""Questions whose references are pictures or videos, alone or with words beside them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from .edits import GLOBAL, Edit, moves, neighbour
from .question import FRAMES, LIKE, Question, Ref, name_of, open_changes, shared
from .scene import (
    CELLS,
    COLOURS,
    DIRECTIONS,
    GROUNDS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    WEATHERS,
    Scene,
    Thing,
    random_look,
    random_scene,
    random_thing,
)


def picture_question(rng: random.Random, edit: Edit, category: str) -> Question | None:
    worded = category.endswith("+text")
    frames = FRAMES if category.startswith("video") else 1
    makers: dict[bool, dict[str, Callable[..., Question | None]]] = {
        False: {
            "recolour": _change,
            "retexture": _change,
            "replace": _change,
            "remove": _remove,
            "add": _add,
            "move": _move,
        },
        True: {
            "recolour": _change_by_words,
            "retexture": _change_by_words,
            "replace": _swap_by_words,
            "remove": _remove_by_words,
            "add": _add_by_words,
            "move": _move_by_words,
        },
    }
    if edit.op in GLOBAL:
        return _whole(rng, edit, category, frames, worded)
    return makers[worded][edit.op](rng, edit, category, frames)


def _seen(
    rng: random.Random,
    edit: Edit,
    look: tuple[str, str, str],
    frames: int,
    cell: int | None = None,
    size: str | None = None,
) -> Ref:
    """A reference with one thing, under the original's ground and weather."""
    cell = rng.randrange(9) if cell is None else cell
    thing = random_thing(rng, cell, look, size, moving=frames > 1, frames=FRAMES)
    return Ref((replace(edit.source, things=(thing,), sign=None),), frames=frames)


def _change(rng: random.Random, edit: Edit, category: str, frames: int) -> Question | None:
    """Recolour, retexture or replace as a picture alone can ask it."""
    assert edit.target is not None and edit.outcome is not None
    scene, target, outcome = edit.source, edit.target, edit.outcome
    key = {"recolour": "colour", "retexture": "texture", "replace": "shape"}[edit.op]
    forms = ["twin"] if shared(target, outcome) == 2 else []
    if frames == 1:
        forms += ["pair"]
        if edit.op == "recolour":
            forms += ["sign", "grid"]
        if edit.op == "retexture":
            forms += ["grid"]
        if "twin" in forms and rng.random() < 0.5:
            forms = ["twin"]
    if not forms:
        return None
    form = rng.choice(forms)
    if form == "twin":
        if any(shared(t, outcome) >= 2 for t in scene.things if t is not target):
            return None
        k = len(open_changes(scene.things, scene, key, alike=2))
        hint = f"like the {target.label} , but its {key} is {getattr(outcome, key)}"
        ref = _seen(rng, edit, outcome.look, frames)
        return Question(edit, category, form, rng.choice(LIKE), (ref,), k, hint, True)
    if form == "pair":
        refs = (_seen(rng, edit, target.look, 1), _seen(rng, edit, outcome.look, 1))
        prompt = rng.choice(("this to that", "first becomes second", "one into two"))
        hint = f"the first is the {target.label} , the second a {outcome.label}"
        return Question(
            edit, category, form, prompt, refs, len(open_changes(scene.things, scene, key)), hint, True
        )
    name = name_of(target, scene)
    prompt = rng.choice(("the {}", "{} like this", "{}")).format(name)
    prompt = prompt if len(prompt.split()) <= 4 else name
    k = len(open_changes((target,), scene, key))
    if form == "sign":
        sign = replace(edit.source, things=(), sign=edit.value, sign_large=True)
        return Question(edit, category, form, prompt, (Ref((sign,)),), k, f"the sign says {edit.value}", True)
    tiles = _grid(rng, edit, key)
    return Question(edit, category, form, prompt, (Ref(tiles),), k, f"all four are {edit.value}", True)


def _grid(rng: random.Random, edit: Edit, key: str) -> tuple[Scene, ...]:
    """Four portraits that share one attribute and no other."""
    while True:
        looks = [random_look(rng) for _ in range(4)]
        if key == "colour":
            looks = [(s, edit.value, t) for s, _, t in looks]
        else:
            looks = [(s, c, edit.value) for s, c, _ in looks]
        others = (0, 2) if key == "colour" else (0, 1)
        if all(len({look[i] for look in looks}) >= 3 for i in others):
            break
    return tuple(replace(edit.source, things=(Thing(*look, "huge", 4),), sign=None) for look in looks)


def _remove(rng: random.Random, edit: Edit, category: str, frames: int) -> Question:
    assert edit.target is not None
    prompt = rng.choice(("without this", "not this", "lose this", "remove this"))
    hint = f"it is the {edit.target.label}"
    return Question(
        edit,
        category,
        "twin",
        prompt,
        (_seen(rng, edit, edit.target.look, frames),),
        len(edit.source.things),
        hint,
        True,
    )


def _new_looks(scene: Scene) -> int:
    return len(SHAPES) * len(COLOURS) * len(TEXTURES) - len(scene.things)


def _add(rng: random.Random, edit: Edit, category: str, frames: int) -> Question:
    assert edit.outcome is not None
    new = edit.outcome
    prompt = rng.choice(("add this", "this too", "also this", "one more"))
    k = _new_looks(edit.source) * len(SIZES) * len(edit.source.free_cells())
    hint = f"a {new.size} {new.label} at the {CELLS[new.cell]}"
    return Question(
        edit,
        category,
        "place",
        prompt,
        (_seen(rng, edit, new.look, frames, new.cell, new.size),),
        k,
        hint,
        True,
    )


def _move(rng: random.Random, edit: Edit, category: str, frames: int) -> Question | None:
    assert edit.target is not None and edit.outcome is not None
    k = sum(len(moves(edit.source, t)) for t in edit.source.things)
    if frames == 1:
        ref = _seen(rng, edit, edit.target.look, 1, edit.outcome.cell, edit.target.size)
        prompt = rng.choice(("over here", "move here", "put it there"))
        way = f"from the {CELLS[edit.target.cell]} to the {CELLS[edit.outcome.cell]}"
        hint = f"it is the {edit.target.label} , {way}"
        return Question(edit, category, "place", prompt, (ref,), k, hint, True)
    start = rng.choice([c for c in range(9) if neighbour(c, edit.value) >= 0])
    dx, dy = DIRECTIONS[edit.value]
    thing = replace(edit.target, cell=start, dx=0, dy=0, vx=dx * 7.0, vy=dy * 7.0)
    ref = Ref((replace(edit.source, things=(thing,), sign=None),), frames=frames)
    prompt = rng.choice(("move like this", "like this", "this way"))
    return Question(
        edit,
        category,
        "motion",
        prompt,
        (ref,),
        k,
        f"it is the {edit.target.label} , moving {edit.value}",
        True,
    )


def _whole(rng: random.Random, edit: Edit, category: str, frames: int, worded: bool) -> Question:
    """Weather, ground or style taken from a scene that differs in more than that."""
    word = {"weather": "weather", "ground": "ground", "restyle": "style"}[edit.op]
    other = random_scene(rng, rng.choice((1, 2)), moving=frames > 1, frames=FRAMES)
    other = replace(other, **{word: edit.value})  # type: ignore[arg-type]
    k = {"weather": len(WEATHERS), "ground": len(GROUNDS), "restyle": len(STYLES)}[edit.op] - 1
    refs: tuple[Ref, ...] = (Ref((other,), frames=frames),)
    if worded:
        text = rng.choice((f"{word} only", f"only the {word}"))
        refs += (Ref(text=text),)
        prompt = rng.choice(LIKE)
    else:
        prompt = rng.choice((f"this {word}", f"same {word}", f"{word} like this"))
    hint = f"its {word} is {edit.value}"
    return Question(edit, category, "whole", prompt, refs, k, hint, True)


def _change_by_words(rng: random.Random, edit: Edit, category: str, frames: int) -> Question | None:
    """The words say which thing and which attribute, the picture says its value; or the two disagree and a
    rule decides."""
    assert edit.target is not None
    key = "colour" if edit.op == "recolour" else "texture"
    name = name_of(edit.target, edit.source)
    shape, colour, texture = random_look(rng)
    if edit.op == "recolour" and rng.random() < 0.2 and len(name.split()) <= 3:
        return _conflict(rng, edit, category, frames, name)
    look = (shape, edit.value, texture) if key == "colour" else (shape, colour, edit.value)
    text = rng.choice((f"only the {key} of the {name}", f"the {name} : {key}", f"its {key} for the {name}"))
    hint = f"the words mean the {edit.target.label} ; the {key} here is {edit.value}"
    refs = (_seen(rng, edit, look, frames), Ref(text=text))
    k = len(open_changes((edit.target,), edit.source, key))
    return Question(edit, category, "words", rng.choice(LIKE), refs, k, hint, True)


def _conflict(rng: random.Random, edit: Edit, category: str, frames: int, name: str) -> Question:
    assert edit.target is not None
    picture_wins = rng.random() < 0.5
    wrong = rng.choice([c for c in COLOURS if c not in (edit.value, edit.target.colour)])
    in_words, in_picture = (wrong, edit.value) if picture_wins else (edit.value, wrong)
    shape, _, texture = random_look(rng)
    rule = "picture wins" if picture_wins else "words win"
    hint = (
        f"the words say {in_words} but the picture {in_picture} ; {rule} , "
        f"so {edit.value} for the {edit.target.label}"
    )
    refs = (_seen(rng, edit, (shape, in_picture, texture), frames), Ref(text=rule))
    k = (
        sum(colour != in_words for _, colour, _ in open_changes((edit.target,), edit.source, "colour"))
        if picture_wins
        else 1
    )
    return Question(edit, category, "conflict", f"{in_words} {name}", refs, k, hint, picture_wins)


def _swap_by_words(rng: random.Random, edit: Edit, category: str, frames: int) -> Question:
    assert edit.target is not None and edit.outcome is not None
    name = name_of(edit.target, edit.source)
    text = rng.choice((f"swap the {name}", f"instead of the {name}", f"replace the {name}"))
    hint = f"the words mean the {edit.target.label} ; here is a {edit.outcome.label}"
    k = len(open_changes((edit.target,), edit.source, "shape"))
    refs = (_seen(rng, edit, edit.outcome.look, frames), Ref(text=text))
    return Question(
        edit, category, "words", rng.choice(("for this", "with this", "use this")), refs, k, hint, True
    )


def _remove_by_words(rng: random.Random, edit: Edit, category: str, frames: int) -> Question | None:
    """The picture shares one attribute with one thing, and the words say which attribute."""
    assert edit.target is not None
    i = rng.randrange(3)
    values = [t.look[i] for t in edit.source.things]
    if values.count(edit.target.look[i]) > 1:
        return None
    k = sum(values.count(value) == 1 for value in values)
    look = random_look(rng)
    look = (*look[:i], edit.target.look[i], *look[i + 1 :])  # type: ignore[assignment]
    key = ("shape", "colour", "texture")[i]
    text = rng.choice((f"the one of this {key}", f"whatever has its {key}"))
    hint = f"the {key} is {look[i]} , as the {edit.target.label}"
    refs = (_seen(rng, edit, look, frames), Ref(text=text))
    return Question(
        edit, category, "words", rng.choice(("remove it", "gone", "away with it")), refs, k, hint, k > 1
    )


def _add_by_words(rng: random.Random, edit: Edit, category: str, frames: int) -> Question:
    assert edit.outcome is not None
    new = edit.outcome
    text = rng.choice((f"at the {CELLS[new.cell]}", f"place it {CELLS[new.cell]}"))
    hint = f"a {new.size} {new.label} , and the words say {CELLS[new.cell]}"
    k = _new_looks(edit.source) * len(SIZES)
    refs = (_seen(rng, edit, new.look, frames, size=new.size), Ref(text=text))
    return Question(
        edit, category, "words", rng.choice(("add this", "this too", "also this")), refs, k, hint, True
    )


def _move_by_words(rng: random.Random, edit: Edit, category: str, frames: int) -> Question:
    assert edit.target is not None
    text = rng.choice((f"go {edit.value}", f"one step {edit.value}", f"to go {edit.value}"))
    k = sum(edit.value in moves(edit.source, t) for t in edit.source.things)
    hint = f"it is the {edit.target.label} ; the words say {edit.value}"
    refs = (_seen(rng, edit, edit.target.look, frames), Ref(text=text))
    return Question(
        edit, category, "words", rng.choice(("move this", "this one", "shift it")), refs, k, hint, k > 1
    )
