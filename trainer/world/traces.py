"""Traces of a question: the right one, written from the scene graph, and wrong ones of known kinds.

The wording varies so that no sentence can be learned by heart; the instruction itself is canonical, so that
"exactly right" can be checked by equality.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import torch

from evlm.plan.mask_codec import BoxSpans, decode_mask
from evlm.plan.trace import Plan, Trace

from .chain import Chain, onto
from .doubles import DOUBLE, both
from .edits import Edit, random_edit
from .questions import Question, Ref
from .scene import CELLS, Scene, Thing
from .solid import Solid
from .whatif.question import WhatIf, another_outcome

Fault = Literal["wrong target", "wrong attribute", "ignores reference", "too long", "malformed", "mask off"]
FAULTS: tuple[Fault, ...] = (
    "wrong target",
    "wrong attribute",
    "ignores reference",
    "too long",
    "malformed",
    "mask off",
)
RATER_ERRORS = (0.05, 0.10, 0.20)  # of the three simulated raters
CODEC = BoxSpans(8)
SLIPS = 0.15  # of the traces' intermediates are wrong


def write_trace(rng: random.Random, question: Question, size: int = 64) -> Trace:
    """The desired trace. The intermediate is wrong in one of seven, and the reflection mends it."""
    edit = question.edit
    slip = _other(rng, edit) if rng.random() < SLIPS else None
    why = question.facts[-1] if isinstance(question, WhatIf) else question.hint
    return Trace(
        thinking=_thinking(question),
        intermediate=(slip or edit).instruction,
        reflection=reflection(rng, why, edit.instruction, slip.instruction if slip else None),
        plan=plan_of(edit, question.frames, size),
    )


def plan_of(edit: Edit, frames: int = 1, size: int = 64) -> Plan:
    """The exact plan, of a chain with a step for each of its edits. The mask of a video is the union over its
    frames."""
    if isinstance(edit, Chain) and edit.steps:
        return Plan.of_steps([plan_of(step, frames, size) for step in edit.steps])
    region = edit.region(size, frames)
    mask_text = None if region is None else CODEC.encode(torch.from_numpy(region))
    return Plan(edit.instruction, edit.targets, mask_text, edit.scope)  # type: ignore[arg-type]


def describe(
    scene: Scene,
    cell_name: bool = True,
    beside: Thing | None = None,
    spoken: Collection[str] = (),
    also: Thing | None = None,
) -> str:
    """A scene in words, in reading order: "large red plain circle left , small blue dotted star top ; grass ,
    rain". What a thing shares with `beside` is marked "=", with `also` "+", what `spoken` names "*"."""
    words = [describe_thing(t, cell_name, beside, spoken, also) for t in scene.things]
    if scene.sign:
        words.append(f"sign {scene.sign}")
    text = f"{' , '.join(words) or 'nothing'} ; {scene.ground} , {scene.weather}"
    return text if scene.style == "plain" else f"{text} , {scene.style}"


def write_undesired(rng: random.Random, question: Question, fault: Fault, size: int = 64) -> Trace:
    """A trace with one known fault. All but "malformed" and "too long" give a plan that does another
    thing."""
    right = write_trace(rng, question, size)
    edit, plan = question.edit, right.plan
    if fault == "too long":
        more = " ".join(f"{_thinking(question)} ." for _ in range(3))
        return replace(
            right, thinking=f"{right.thinking} . {more}", reflection=f"{right.reflection} . {more}"
        )
    if fault == "malformed":
        return replace(right, reflection="", plan=_masked(plan, 0, "box 900 900 100 rows"))
    if fault == "mask off":
        at = rng.randrange(len(plan.several)) if plan.several else 0
        return replace(right, plan=_masked(plan, at, _shifted(rng, plan.steps[at], size)))
    wrong = _other(rng, edit, keep_value=fault == "wrong target", keep_target=fault == "wrong attribute")
    if fault == "ignores reference":
        words = f"the words are {question.prompt or 'none'} ; no reference is needed"
        return Trace(
            f"original : {describe(edit.source)} . {words}",
            wrong.instruction,
            "this holds",
            plan_of(wrong, question.frames, size),
        )
    return Trace(
        right.thinking, wrong.instruction, f"{wrong.instruction} it is", plan_of(wrong, question.frames, size)
    )


def rate(rng: random.Random, desired: bool) -> tuple[bool, tuple[bool, ...]]:
    """(majority label, the three raters' votes); each rater errs at a known rate."""
    votes = tuple(desired != (rng.random() < error) for error in RATER_ERRORS)
    return sum(votes) * 2 > len(votes), votes


def _thinking(question: Question) -> str:
    """References first: the original's attributes can then be held against what was shown and said, word by
    word, and what is meant is the thing with the marks."""
    parts = [f"reference {n} : {_describe_ref(ref)}" for n, ref in enumerate(question.refs, 1) if ref.scenes]
    kind = "original video" if question.frames > 1 else "original"
    spoken = {
        word for text in (question.prompt, *(ref.text for ref in question.refs)) for word in text.split()
    }
    also = _shown_alone(question, 1) if isinstance(question.edit, Chain) else None
    seen = describe(question.edit.source, beside=_shown_alone(question), spoken=spoken, also=also)
    parts.append(f"{kind} : {seen}")
    parts.append(question.hint)
    return " . ".join(parts)


def _shown_alone(question: Question, at: int = 0) -> Thing | None:
    """The thing of a reference, when that shows one and no other."""
    scenes = question.refs[at].scenes if len(question.refs) > at else ()
    return scenes[0].things[0] if len(scenes) == 1 and len(scenes[0].things) == 1 else None


def _describe_ref(ref: Ref) -> str:
    if len(ref.scenes) > 1:
        return " , ".join(s.things[0].label for s in ref.scenes)
    scene = ref.scenes[0]
    fast = [t for t in scene.things if abs(t.vx) + abs(t.vy) > 4]
    if fast:
        t = fast[0]
        way = ("right" if t.vx > 0 else "left") if t.vx else ("down" if t.vy > 0 else "up")
        return f"{t.size} {t.label} moving {way}"
    return describe(scene)


def describe_thing(
    thing: Thing | Solid,
    cell_name: bool,
    beside: Thing | Solid | None = None,
    spoken: Collection[str] = (),
    also: Thing | None = None,
) -> str:
    """As "large red = plain ball left": a thing or a solid in words, marked as `describe` says."""
    words = [thing.size]
    for key in ("colour", "texture", "shape"):
        value = getattr(thing, key)
        words.append(value)
        if beside is not None and value == getattr(beside, key):
            words.append("=")
        if also is not None and value == getattr(also, key):
            words.append("+")
        if value in spoken:
            words.append("*")
    return " ".join([*words, CELLS[thing.cell]] if cell_name else words)


def reflection(rng: random.Random, hint: str, right: str, slip: str | None) -> str:
    """What is said of the intermediate instruction: that it holds, or, of a slip, what is right."""
    if slip is None:
        return rng.choice(("this holds", "it agrees , keep it", "checked , keep it"))
    return f"{rng.choice(('no', 'wrong', 'that is not it'))} : {hint} . so {right}"


def another_instruction(rng: random.Random, edit: Edit) -> str:
    """The instruction of another edit of the same kind in the same scene; "" where it has none."""
    try:
        return _other(rng, edit).instruction
    except ValueError:
        return ""


def _other(rng: random.Random, edit: Edit, keep_value: bool = False, keep_target: bool = False) -> Edit:
    """Another edit of the same kind, with another instruction; `keep_*` hold where the scene leaves such an
    edit. Of a double, one of the two edits is another one; of a cause, another outcome."""
    if isinstance(edit, Chain) and edit.op != DOUBLE:
        return another_outcome(rng, edit)
    if isinstance(edit, Chain):
        return _other_double(rng, edit, keep_value, keep_target)
    for attempt in range(200):
        other = random_edit(rng, edit.op, edit.source)
        if other is None or other.instruction == edit.instruction:
            continue
        strict = edit.target is not None and edit.op != "remove" and attempt < 160
        if strict and keep_target and other.target is not edit.target:
            continue
        if strict and keep_value and (other.value != edit.value or other.target is edit.target):
            continue
        return other
    raise ValueError(f"no other {edit.op} than {edit.instruction!r} in this scene; ask for another scene")


def _other_double(rng: random.Random, edit: Chain, keep_value: bool, keep_target: bool) -> Edit:
    singles = [onto(step, edit.source) for step in edit.steps]
    for at in rng.choices(range(len(singles)), k=40):
        try:
            other = _other(rng, singles[at], keep_value, keep_target)
        except ValueError:  # of this kind the scene has one edit alone
            continue
        found = both(other, singles[1]) if at == 0 else both(singles[0], other)
        if found is not None:
            return found
    raise ValueError(f"no other double than {edit.instruction!r} in this scene; ask for another scene")


def _masked(plan: Plan, at: int, mask_text: str) -> Plan:
    """The plan with another mask in one of its steps."""
    steps = list(plan.steps)
    steps[at] = replace(steps[at], mask_text=mask_text, scope="local")
    return Plan.of_steps(steps)


def _shifted(rng: random.Random, plan: Plan, size: int) -> str:
    """The plan's mask moved far away, or a mask where none belongs."""
    if plan.mask_text is None:
        return "box 100 100 400 400 full"
    mask = decode_mask(plan.mask_text, size, size)
    far = size // 2 + rng.randint(-size // 8, size // 8)
    return CODEC.encode(torch.roll(mask, (far, far), (0, 1)))
