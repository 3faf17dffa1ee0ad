"""Asks the rules' questions: a scene that the rule fits, a wording, earlier panels where it is a story."""

from __future__ import annotations

import random
from dataclasses import replace

from ..question import FRAMES, Ref
from ..scene import COLOURS, Split, random_scene
from .question import WhatIf
from .rules import RULES, SCENARIOS, Outcome

UNSEEN = 2  # of each rule's wordings this one is asked by the test alone
NULLS = {"train": 0.3, "validation": 0.15, "test": 0.15}
"""Of the questions of a rule that has null twins, how many are one; more in training, where they are hard."""
STORY = ("and then ?", "the next panel", "what comes next ?")
WORDS: dict[str, tuple[str, str, str]] = {
    "fall": ("what if the {} were dropped ?", "let go of the {}", "the {} loses its hold"),
    "sink": ("what if all this were under water ?", "the tide comes in", "flood it"),
    "balance": ("what if the {} became heavy ?", "the {} gains weight", "what if the {} weighed a ton ?"),
    "clock hour": ("an hour later", "what if an hour passes ?", "after an hour"),
    "clock tonight": ("tonight", "what if it were night ?", "wait until dusk"),
    "clock morning": ("next morning", "what if it were morning ?", "the morning after"),
    "clock midwinter": ("in midwinter", "what if it were midwinter ?", "until midwinter comes"),
    "clock spring": ("in spring", "what if it were spring ?", "once spring comes"),
    "fade": (
        "the {} after years of sun",
        "what if the {} stood years in the sun ?",
        "years of sun on the {}",
    ),
    "drift": ("a moment later", "and a moment on ?", "what if a moment passes ?"),
    "push": ("what if someone pushed the {} {} ?", "push the {} {}", "give the {} a shove {}"),
    "mix": (
        "what if the {} rubbed off on the {} ?",
        "the {} touches the {}",
        "paint of the {} spills on the {}",
    ),
    "support": ("what if the {} were taken away ?", "the {} is gone", "pull the {} out"),
    "flood": ("what if it rained for a week ?", "the rain never stops", "weeks of rain"),
    "march": STORY,
    "cycle": STORY,
    "vanish": STORY,
    "day": STORY,
}
AND_THEN = (
    "and next ?",
    "what then ?",
    "go on",
    "then what comes ?",
    "the panel after",
    "what happens next ?",
)
MORE: dict[str, tuple[str, ...]] = {
    "fall": (
        "drop the {}",
        "the {} slips",
        "nothing holds the {}",
        "what if the {} lost its hold ?",
        "the {} loses all hold",
        "what if the {} were let go ?",
    ),
    "sink": (
        "put all this under water",
        "the sea comes in",
        "what if a flood came ?",
        "a flood over all this",
        "flood all of this",
        "let the water in",
    ),
    "balance": (
        "the {} weighs more",
        "what if the {} weighed more ?",
        "a ton on the {}",
        "the {} is heavy as lead",
        "make the {} a ton",
        "what if the {} were heavy ?",
    ),
    "clock hour": (
        "wait an hour",
        "in an hour",
        "one hour on",
        "when the hour is over",
        "what if it is an hour on ?",
    ),
    "clock tonight": ("at dusk", "when night comes", "until night", "dusk comes", "wait until it is night"),
    "clock morning": (
        "in the morning",
        "wait until morning",
        "when morning comes",
        "the morning that comes after",
    ),
    "clock midwinter": (
        "wait until midwinter",
        "when midwinter comes",
        "midwinter is here",
        "at midwinter",
        "until it is midwinter",
    ),
    "clock spring": ("when spring comes", "wait until spring", "spring is here", "once it is spring"),
    "fade": (
        "leave the {} in the sun for years",
        "sun on the {} , year after year",
        "the {} in the sun , years later",
        "after years of sun , the {}",
        "what if the sun were on the {} for years ?",
    ),
    "drift": ("a moment on", "in a moment", "one moment more", "when a moment is over"),
    "push": (
        "shove the {} {}",
        "the {} gets a shove {}",
        "give the {} a push {}",
        "someone shoves the {} {}",
        "what if the {} were pushed {} ?",
        "what if the {} got a shove {} ?",
    ),
    "mix": (
        "the {} leaves paint on the {}",
        "the {} spills over the {}",
        "paint from the {} gets on the {}",
        "some of the {} is rubbed on the {}",
        "the paint of the {} is on the {}",
        "rub the {} on the {}",
    ),
    "support": (
        "pull the {} away",
        "take the {} from under the rest",
        "what if the {} were pulled out ?",
        "somebody pulls the {} from below",
        "the {} is pulled away",
        "what if the {} were gone ?",
    ),
    "flood": (
        "rain for weeks and weeks",
        "it rains for weeks",
        "a week of rain",
        "what if the rain went on ?",
        "the rain goes on and on",
        "it never stops to rain",
    ),
    "march": AND_THEN,
    "cycle": AND_THEN,
    "vanish": AND_THEN,
    "day": AND_THEN,
}
"""Further wordings that the test never asks. They have nearly all the words of its unseen wording, in other
sentences: a small model that has read nothing else cannot know what "dusk" is, but can learn that its place
may change."""
STORY_CATEGORIES = ("image", "video")
PLANNED = tuple(rule for rule in RULES if rule != "drift")  # those that a plan can say
NULL_RULES = ("fall", "balance", "clock", "fade", "push", "mix", "flood")


def ask_what_if(
    rng: random.Random,
    split: Split,
    rule: str | None = None,
    null: bool | None = None,
    category: str | None = None,
) -> WhatIf:
    """A hypothetical question of that split.

    rule: one of RULES; else a scenario, then a rule of it that a plan can say, each uniform.
    null: whether the premise changes nothing; else in NULLS of the rules that have such twins.
    category: of a story "image" (two pictures, or both in a grid) or "video"; others are "text".
    Raises ValueError for what does not exist.
    """
    if rule is None:
        rule = rng.choice([each for each in SCENARIOS[rng.choice(list(SCENARIOS))] if each in PLANNED])
    if rule not in RULES or (null and rule not in NULL_RULES):
        raise ValueError(
            f"rule {rule!r}, null {null}: expected one of {', '.join(RULES)}; null: {NULL_RULES}"
        )
    if null is None:
        null = rule in NULL_RULES and rng.random() < NULLS[split]
    wording = None if split == "train" else rng.randrange(3 if split == "test" else UNSEEN)
    while True:
        sign = rng.choice(COLOURS) if rng.random() < 0.05 else None
        moving = rule == "drift"
        scene = random_scene(rng, sign=sign, moving=moving, frames=FRAMES)
        found = RULES[rule](scene, rng)
        if found is None or bool(found.edit.steps or moving) == null:
            continue
        if found.edit.split != split or (found.held_out and split != "test"):
            continue
        return _question(rng, rule, found, wording, category)


def _question(
    rng: random.Random, rule: str, found: Outcome, wording: int | None, category: str | None
) -> WhatIf:
    """wording: which of the rule's; None: one of those for training."""
    name = f"{rule} {found.phrase}".strip()
    said = rng.choice((*WORDS[name][:UNSEEN], *MORE[name])) if wording is None else WORDS[name][wording]
    words = said.format(*found.names)
    refs: tuple[Ref, ...] = ()
    asked = "image->video" if rule == "drift" else "text"
    if found.panels:
        asked = category or rng.choice(STORY_CATEGORIES)
        refs = tuple(Ref((panel,)) for panel in found.panels)
        if asked == "video":
            refs = tuple(replace(ref, frames=FRAMES) for ref in refs)
    return WhatIf(
        found.edit,
        asked,
        rule,
        words,
        refs,
        found.k,
        " ; ".join(found.facts),
        True,
        scenario=next(name for name, rules in SCENARIOS.items() if rule in rules),
        facts=found.facts,
        unseen=wording == UNSEEN,
        held_out=found.held_out,
    )
