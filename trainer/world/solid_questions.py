"""Questions about stills of solids, in the flat world's forms: pictures of one solid, words, or both.

The forms are those of `picture_questions` and `word_questions` that need no flat picture (no sign, no grid,
no clip, no mood); the sky is a whole-picture edit in the place of style.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .question import LIKE
from .scene import CELLS, COLOURS, SIZES, TEXTURES, Split
from .solid import SOLIDS, Solid, SolidScene
from .solid_edits import MIX, WHOLE, moves, swap_solid
from .solid_stills import SolidStill, Stand, draw_still, random_stand, seen
from .word_questions import WORDS

CATEGORIES = ("image", "image+text", "text")
KEYS = {"recolour": "colour", "retexture": "texture", "replace": "shape"}
VALUES: dict[str, tuple[str, ...]] = {"shape": SOLIDS, "colour": COLOURS, "texture": TEXTURES}
SKY_WORDS = {
    "blue": ("blue sky", "sky blue"),
    "orange": ("orange sky", "sunset"),
    "pink": ("pink sky", "dawn please"),
    "purple": ("purple sky", "at dusk"),
}


@dataclass(frozen=True)
class SolidRef:
    """A reference: a traced scene from a stand, or words."""

    scene: SolidScene | None = None
    stand: Stand | None = None
    text: str = ""
    samples: int = 2

    @property
    def kind(self) -> str:
        return "text" if self.scene is None else "image"

    def pixels(self, size: int = 64) -> NDArray[np.uint8]:
        """uint8 [1, size, size, 3]."""
        assert self.scene is not None and self.stand is not None
        return seen(self.scene, self.stand, size, self.samples)[0][None]


Maker = Callable[[random.Random, "SolidStill", str], "SolidQuestion | None"]


@dataclass(frozen=True)
class SolidQuestion:
    """As `Question`, about a still. frames: always one."""

    edit: SolidStill
    category: str
    form: str
    prompt: str
    refs: tuple[SolidRef, ...]
    k: int
    hint: str
    decisive: bool
    frames: int = 1


def ask_solid(
    rng: random.Random,
    split: Split,
    op: str | None = None,
    category: str | None = None,
    stand: Stand | None = None,
) -> SolidQuestion:
    """A question of that split. The operation follows the paper's Figure 10, the category is uniform, and the
    stand is one near the front, unless given. A whole scene's "restyle" is asked as the sky."""
    op = {"restyle": "sky"}.get(op or "", op) or rng.choices(list(MIX), list(MIX.values()))[0]
    category = category or rng.choice(CATEGORIES)
    while True:
        edit = draw_still(rng, op, split, front=True, stand=stand)
        found = _asked(rng, edit, category)
        if found is not None:
            return found


def _asked(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion | None:
    if category == "text":
        return _in_words(rng, edit)
    worded = category == "image+text"
    if edit.op in WHOLE:
        return _whole(rng, edit, category, worded)
    changes: tuple[Maker, Maker] = (_change, _change_by_words)
    makers: dict[str, tuple[Maker, Maker]] = {
        "remove": (_remove, _remove_by_words),
        "add": (_add, _add_by_words),
        "move": (_move, _move_by_words),
    }
    return makers.get(edit.op, changes)[worded](rng, edit, category)


def name_of(solid: Solid, scene: SolidScene) -> str:
    """The shortest words that mean this solid alone."""
    for key in VALUES:
        value = getattr(solid, key)
        if sum(getattr(s, key) == value for s in scene.solids) == 1:
            return value if key == "shape" else f"{value} one"
    return solid.label


def _shared(a: Solid, b: Solid) -> int:
    return sum(x == y for x, y in zip(a.look, b.look, strict=True))


def _open(solids: tuple[Solid, ...], scene: SolidScene, key: str, alike: int = 3) -> int:
    """How many looks one of `solids` may take by another `key`, when no other solid of the scene may share
    `alike` attributes with the outcome."""
    ways = [(s, replace(s, **{key: v})) for s in solids for v in VALUES[key] if v != getattr(s, key)]  # type: ignore[arg-type]
    return sum(all(_shared(t, new) < alike for t in scene.solids if t is not old) for old, new in ways)


def _look(rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(SOLIDS), rng.choice(COLOURS), rng.choice(TEXTURES)


def _picture(
    rng: random.Random,
    edit: SolidStill,
    look: tuple[str, str, str],
    cell: int | None = None,
    size: str | None = None,
) -> SolidRef:
    """One solid alone, in the original's setting, from a stand of its own near the front."""
    solid = Solid(*look, size or rng.choice(SIZES), 0.0, 0.0)
    solid = solid.at_cell(rng.randrange(9) if cell is None else cell)
    stand = random_stand(rng, edit.split or "train", front=True)
    return SolidRef(replace(edit.source, solids=(solid,)), stand, samples=edit.samples)


def _change(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion | None:
    """Recolour, retexture or replace as a picture alone can ask it."""
    scene, target, outcome = edit.source, edit.target, edit.outcome
    assert target is not None and outcome is not None
    key = KEYS[edit.op]
    twin = _shared(target, outcome) == 2 and rng.random() < 0.6
    if twin:
        if any(_shared(s, outcome) >= 2 for s in scene.solids if s is not target):
            return None
        k = _open(scene.solids, scene, key, alike=2)
        hint = f"like the {target.label} , but its {key} is {getattr(outcome, key)}"
        ref = _picture(rng, edit, outcome.look)
        return SolidQuestion(edit, category, "twin", rng.choice(LIKE), (ref,), k, hint, True)
    refs = (_picture(rng, edit, target.look), _picture(rng, edit, outcome.look))
    prompt = rng.choice(("this to that", "first becomes second", "one into two"))
    hint = f"the first is the {target.label} , the second a {outcome.label}"
    return SolidQuestion(edit, category, "pair", prompt, refs, _open(scene.solids, scene, key), hint, True)


def _remove(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    assert edit.target is not None
    prompt = rng.choice(("without this", "not this", "lose this", "remove this"))
    ref, k = _picture(rng, edit, edit.target.look), len(edit.source.solids)
    return SolidQuestion(edit, category, "twin", prompt, (ref,), k, f"it is the {edit.target.label}", True)


def _add(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    new = edit.outcome
    assert new is not None
    prompt = rng.choice(("add this", "this too", "also this", "one more"))
    k = _new_looks(edit.source) * len(SIZES) * len(edit.source.free_cells())
    ref = _picture(rng, edit, new.look, new.cell, new.size)
    hint = f"a {new.size} {new.label} at the {CELLS[new.cell]}"
    return SolidQuestion(edit, category, "place", prompt, (ref,), k, hint, True)


def _new_looks(scene: SolidScene) -> int:
    return len(SOLIDS) * len(COLOURS) * len(TEXTURES) - len(scene.solids)


def _move(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    target, outcome = edit.target, edit.outcome
    assert target is not None and outcome is not None
    ref = _picture(rng, edit, target.look, outcome.cell, target.size)
    k = sum(len(moves(edit.source, s)) for s in edit.source.solids)
    way = f"from the {CELLS[target.cell]} to the {CELLS[outcome.cell]}"
    prompt = rng.choice(("over here", "move here", "put it there"))
    hint = f"it is the {target.label} , {way}"
    return SolidQuestion(edit, category, "place", prompt, (ref,), k, hint, True)


def _whole(rng: random.Random, edit: SolidStill, category: str, worded: bool) -> SolidQuestion:
    """Weather, ground or sky taken from a picture that differs in more than that."""
    ref = _picture(rng, edit, _look(rng))
    assert ref.scene is not None
    scene = replace(ref.scene, **{edit.op: edit.value})  # type: ignore[arg-type]
    refs: tuple[SolidRef, ...] = (replace(ref, scene=scene),)
    k, word = len(WHOLE[edit.op]) - 1, edit.op
    prompt = rng.choice((f"this {word}", f"same {word}", f"{word} like this"))
    if worded:
        refs += (SolidRef(text=rng.choice((f"{word} only", f"only the {word}"))),)
        prompt = rng.choice(LIKE)
    return SolidQuestion(edit, category, "whole", prompt, refs, k, f"its {word} is {edit.value}", True)


def _change_by_words(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    """The words say which solid, the picture what of it becomes."""
    target, outcome = edit.target, edit.outcome
    assert target is not None and outcome is not None
    name, key = name_of(target, edit.source), KEYS[edit.op]
    k = _open((target,), edit.source, key)
    if edit.op == "replace":
        text = rng.choice((f"swap the {name}", f"instead of the {name}", f"replace the {name}"))
        hint = f"the words mean the {target.label} ; here is a {outcome.label}"
        prompt, look = rng.choice(("for this", "with this", "use this")), outcome.look
    else:
        shape, colour, texture = _look(rng)
        look = (shape, edit.value, texture) if key == "colour" else (shape, colour, edit.value)
        text = rng.choice(
            (f"only the {key} of the {name}", f"the {name} : {key}", f"its {key} for the {name}")
        )
        hint = f"the words mean the {target.label} ; the {key} here is {edit.value}"
        prompt = rng.choice(LIKE)
    refs = (_picture(rng, edit, look), SolidRef(text=text))
    return SolidQuestion(edit, category, "words", prompt, refs, k, hint, True)


def _remove_by_words(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion | None:
    """The picture shares one attribute with one solid, and the words say which attribute."""
    assert edit.target is not None
    i = rng.randrange(3)
    key = tuple(VALUES)[i]
    values = [s.look[i] for s in edit.source.solids]
    if values.count(edit.target.look[i]) > 1:
        return None
    look = list(_look(rng))
    look[i] = edit.target.look[i]
    text = rng.choice((f"the one of this {key}", f"whatever has its {key}"))
    refs = (_picture(rng, edit, (look[0], look[1], look[2])), SolidRef(text=text))
    k, prompt = sum(values.count(v) == 1 for v in values), rng.choice(("remove it", "gone", "away with it"))
    hint = f"the {key} is {look[i]} , as the {edit.target.label}"
    return SolidQuestion(edit, category, "words", prompt, refs, k, hint, k > 1)


def _add_by_words(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    new = edit.outcome
    assert new is not None
    text = rng.choice((f"at the {CELLS[new.cell]}", f"place it {CELLS[new.cell]}"))
    refs = (_picture(rng, edit, new.look, size=new.size), SolidRef(text=text))
    prompt, k = rng.choice(("add this", "this too", "also this")), _new_looks(edit.source) * len(SIZES)
    hint = f"a {new.size} {new.label} , and the words say {CELLS[new.cell]}"
    return SolidQuestion(edit, category, "words", prompt, refs, k, hint, True)


def _move_by_words(rng: random.Random, edit: SolidStill, category: str) -> SolidQuestion:
    assert edit.target is not None
    text = rng.choice((f"go {edit.value}", f"one step {edit.value}", f"to go {edit.value}"))
    refs = (_picture(rng, edit, edit.target.look), SolidRef(text=text))
    k = sum(edit.value in moves(edit.source, s) for s in edit.source.solids)
    prompt = rng.choice(("move this", "this one", "shift it"))
    hint = f"it is the {edit.target.label} ; the words say {edit.value}"
    return SolidQuestion(edit, category, "words", prompt, refs, k, hint, k > 1)


def _in_words(rng: random.Random, edit: SolidStill) -> SolidQuestion | None:
    """Words alone, 1-4 of them, or a text beside a shorter prompt."""
    prompt, text = "", ""
    if edit.op in WHOLE:
        prompt = rng.choice((SKY_WORDS if edit.op == "sky" else WORDS[edit.op])[edit.value])
        hint = f"the words mean {edit.value}"
    elif edit.op == "add":
        assert edit.outcome is not None
        text = f"a {edit.outcome.size} {edit.outcome.label} at the {CELLS[edit.outcome.cell]}"
        prompt, hint = rng.choice(("", "add it", "please add")), f"the words describe {text}"
    else:
        assert edit.target is not None
        name, hint = name_of(edit.target, edit.source), f"the words mean the {edit.target.label}"
        if edit.op == "replace":
            new, target = edit.outcome, edit.target
            assert new is not None
            kept = swap_solid(edit.source, target, (new.shape, target.colour, target.texture))
            taken = any(kept.outcome is not None and s.look == kept.outcome.look for s in edit.source.solids)
            if rng.random() < 0.5 and kept.split == edit.split and not taken:
                edit = replace(edit, edit=kept)
                prompt, hint = f"{name} into {new.shape}", f"{hint} and a {new.shape} like it"
            else:
                prompt, text = rng.choice(("swap", "swap it", "exchange")), f"the {name} for a {new.label}"
        elif edit.op in ("recolour", "retexture"):
            prompt = rng.choice(("{1} {0}", "{0} {1}", "make {0} {1}")).format(name, edit.value)
        elif edit.op == "remove":
            prompt = rng.choice(("no {}", "lose the {}", "without {}")).format(name)
        else:
            prompt = rng.choice(("{0} {1}", "move {0} {1}")).format(name, edit.value)
        if len(prompt.split()) > 4:
            return None
    refs = (SolidRef(text=text),) if text else ()
    return SolidQuestion(edit, "text", "text", prompt, refs, 1, hint, False)
