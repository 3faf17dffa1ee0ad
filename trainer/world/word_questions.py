"""Questions in words alone: a name, a mood, a sign in the picture, or a text beside a shorter prompt."""

from __future__ import annotations

import random

from .edits import GLOBAL, Edit, recolour, swap_thing
from .question import Question, Ref, name_of
from .scene import (
    CELLS,
)

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


def word_question(rng: random.Random, edit: Edit) -> Question | None:
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
        phrase = _name_edit(rng, edit)
        if phrase is None:
            return None
        prompt, text, hint, edit2 = phrase
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
