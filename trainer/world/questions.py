"""Questions: an edit hidden behind few words and references, so that only the right reading finds it.

A question with a reference is ambiguous by construction: `k` counts the answers that the original and the
words leave open when the pictures are withheld and even the kind of edit is known. All of them are equally
likely, so a blind reader scores 1/k at best. (Of a replacement k counts shapes alone, though half of them
bring another colour and texture too.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .edits import GLOBAL, MIX, OPERATIONS, Edit, moves, neighbour, random_edit, recolour, swap_thing
from .render import render, render_frames
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
    Split,
    Thing,
    random_look,
    random_scene,
    random_thing,
)

# The paper's Table 6: what the references are -> what the original is.
CATEGORIES = ("image", "image+text", "video", "image->video", "video+text", "text")
FRAMES = 4  # of every video here

LIKE = ("", "like this", "match this", "same here", "make it so")
MOODS = {
    "icy": "cyan",
    "royal": "purple",
    "fiery": "orange",
    "golden": "yellow",
    "mossy": "green",
    "rosy": "pink",
}
SHAPE_MOODS = {"heroic": "star", "lovely": "heart", "precious": "diamond"}
WORDS = {
    "weather": {
        "clear": ("clear weather", "cheerful"),
        "rain": ("make it rain", "stormy"),
        "snow": ("let it snow", "wintry"),
        "fog": ("some fog", "gloomy"),
        "night": ("at night", "spooky"),
    },
    "ground": {
        "grey": ("grey ground", "on concrete"),
        "sand": ("sand ground", "beach please"),
        "grass": ("grass ground", "on a meadow"),
        "sea": ("sea ground", "on the water"),
    },
    "restyle": {
        "sketch": ("as a sketch", "hand drawn"),
        "black and white": ("no colours", "timeless"),
        "sepia": ("in sepia", "vintage"),
        "negative": ("as negative", "turn inside out"),
    },
}


@dataclass(frozen=True)
class Ref:
    """A reference: one scene, four (a 2 x 2 grid), or words. A video when `frames` > 1."""

    scenes: tuple[Scene, ...] = ()
    text: str = ""
    frames: int = 1

    @property
    def kind(self) -> str:
        return "text" if not self.scenes else "video" if self.frames > 1 else "image"

    def pixels(self, size: int = 64) -> NDArray[np.uint8]:
        """uint8 [frames, size, size, 3]."""
        if len(self.scenes) == 1:
            return render_frames(self.scenes[0], size, self.frames)
        tiles = [render(s, size // 2) for s in self.scenes]
        return np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])[None]


@dataclass(frozen=True)
class Question:
    """One question with one answer. `hint` says what the references tell, for the trace; `decisive`: whether
    the answer cannot be had without the visual reference."""

    edit: Edit
    category: str
    form: str
    prompt: str
    refs: tuple[Ref, ...]
    k: int
    hint: str
    decisive: bool

    @property
    def frames(self) -> int:
        return FRAMES if self.category.endswith("->video") else 1


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
        question = _ask_words(rng, edit) if category == "text" else _ask_picture(rng, edit, category)
        if question is not None:
            return question


def shared(a: Thing, b: Thing) -> int:
    """How many of shape, colour and texture two things share."""
    return sum(x == y for x, y in zip(a.look, b.look, strict=True))


def open_changes(
    things: tuple[Thing, ...], scene: Scene, key: str, alike: int = 3
) -> list[tuple[str, str, str]]:
    """The looks that one of `things` may take by another shape, colour or texture (`key`), when no other
    thing of the scene may share `alike` attributes with the outcome."""
    values = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}[key]
    ways = [
        (thing, replace(thing, **{key: value}))
        for thing in things
        for value in values
        if value != getattr(thing, key)
    ]
    return [
        new.look for old, new in ways if all(shared(t, new) < alike for t in scene.things if t is not old)
    ]


def name_of(thing: Thing, scene: Scene) -> str:
    """The shortest words that mean this thing alone: its shape, its colour, its texture, or its whole
    label."""
    for key in ("shape", "colour", "texture"):
        value = getattr(thing, key)
        if sum(getattr(t, key) == value for t in scene.things) == 1:
            return value if key == "shape" else f"{value} one"
    return thing.label


# --- with a picture or a video
# ---------------------------------------------------------------------------------------


def _ask_picture(rng: random.Random, edit: Edit, category: str) -> Question | None:
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
        same = " and ".join(k for k in ("shape", "colour", "texture") if k != key)
        value = getattr(outcome, key)
        hint = f"it shares {same} with the {target.label} ; its {key} is {value}"
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
        hint = f"it is the {edit.target.label} , now at the {CELLS[edit.outcome.cell]}"
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
    if edit.op == "restyle":
        other = replace(other, style=edit.value)
    else:
        other = replace(other, **{edit.op: edit.value})
    k = {"weather": len(WEATHERS), "ground": len(GROUNDS), "restyle": len(STYLES)}[edit.op] - 1
    if worded:
        text = rng.choice((f"{word} only", f"only the {word}"))
        refs, prompt = (Ref((other,), frames=frames), Ref(text=text)), rng.choice(LIKE)
    else:
        refs, prompt = (
            (Ref((other,), frames=frames),),
            rng.choice((f"this {word}", f"same {word}", f"{word} like this")),
        )
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
    said, shown = (wrong, edit.value) if picture_wins else (edit.value, wrong)
    shape, _, texture = random_look(rng)
    rule = "picture wins" if picture_wins else "words win"
    hint = (
        f"the words say {said} but the picture {shown} ; {rule} , so {edit.value} for the {edit.target.label}"
    )
    refs = (_seen(rng, edit, (shape, shown, texture), frames), Ref(text=rule))
    k = (
        sum(colour != said for _, colour, _ in open_changes((edit.target,), edit.source, "colour"))
        if picture_wins
        else 1
    )
    return Question(edit, category, "conflict", f"{said} {name}", refs, k, hint, picture_wins)


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


# --- with words alone
# --------------------------------------------------------------------------------------------------


def _ask_words(rng: random.Random, edit: Edit) -> Question | None:
    """Words alone, 1-4 of them: a name, a mood, a sign in the picture itself, or a text beside a shorter
    prompt."""
    prompt, text, hint, edit2 = "", "", "", edit
    if edit.op in GLOBAL:
        prompt = rng.choice(WORDS[edit.op].get(edit.value, ()) or ("",))
        if not prompt:
            return None
        hint = f"the words mean {edit.value}"
    elif edit.op == "add":
        assert edit.outcome is not None
        text = f"a {edit.outcome.size} {edit.outcome.label} at the {CELLS[edit.outcome.cell]}"
        prompt, hint = rng.choice(("", "add it", "please add")), f"the words describe {text}"
    else:
        assert edit.target is not None
        said = _name_edit(rng, edit)
        if said is None:
            return None
        prompt, text, hint, edit2 = said
        if edit2.split != edit.split or len(prompt.split()) > 4:
            return None
    refs = (Ref(text=text),) if text else ()
    return Question(edit2, "text", "text", prompt, refs, 1, hint, False)


def _name_edit(rng: random.Random, edit: Edit) -> tuple[str, str, str, Edit] | None:
    """(prompt, text, hint, the edit meant) of an edit of one thing."""
    scene, target = edit.source, edit.target
    assert target is not None
    name, label = name_of(target, scene), target.label
    big = [t for t in scene.things if t.size == "large"]
    alone = len(big) == 1 and big[0] is target
    if edit.op == "recolour":
        if scene.sign and rng.random() < 0.7:
            if scene.sign == target.colour:
                return None
            meant = recolour(scene, target, scene.sign)
            if meant.outcome is not None and any(t.look == meant.outcome.look for t in scene.things):
                return None
            return (
                rng.choice((f"{name} like the sign", f"sign says {name}")),
                "",
                f"the sign in the picture says {scene.sign}",
                meant,
            )
        mood = next((m for m, c in MOODS.items() if c == edit.value), None)
        if mood and alone and rng.random() < 0.7:
            prompt = rng.choice((f"make it {mood}", f"something {mood}"))
            return prompt, "", f"{mood} means {edit.value} ; the large one is the {label}", edit
        if mood and rng.random() < 0.5:
            return f"{mood} {name}", "", f"{mood} means {edit.value} ; the words mean the {label}", edit
    if edit.op == "replace":
        assert edit.outcome is not None
        shape = edit.outcome.shape
        mood = next((m for m, s in SHAPE_MOODS.items() if s == shape), None)
        kept = swap_thing(scene, target, (shape, target.colour, target.texture))
        if kept.outcome is not None and any(t.look == kept.outcome.look for t in scene.things):
            return None
        if mood and alone and rng.random() < 0.8:
            return f"make it {mood}", "", f"{mood} means a {shape} ; the large one is the {label}", kept
        if rng.random() < 0.5:
            return f"{name} into {shape}", "", f"the words mean the {label} and a {shape} like it", kept
        return (
            rng.choice(("swap", "swap it", "exchange")),
            f"the {name} for a {edit.outcome.label}",
            f"the words mean the {label}",
            edit,
        )
    if edit.op in ("recolour", "retexture"):
        prompt = rng.choice(("{1} {0}", "{0} {1}", "make {0} {1}")).format(name, edit.value)
    elif edit.op == "remove":
        prompt = rng.choice(("no {}", "lose the {}", "without {}")).format(name)
    else:
        prompt = rng.choice(("{0} {1}", "move {0} {1}")).format(name, edit.value)
    return prompt, "", f"the words mean the {label}", edit
