"""A reader of questions that shares no code with the asker: rules instead of a model.

It sees what a person would see (the original, the prompt, the references) and knows the rules in words: a
picture that shares two attributes with one thing shows its third, two pictures are before and after, and so
on. That it finds every edit proves that each question has one answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from trainer.world.questions import Ref
from trainer.world.scene import Scene, Thing

KEYS = ("shape", "colour", "texture")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
TEXTURES = ("plain", "striped", "dotted", "checkered")
CELLS = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
WAYS = {(-1, 0): "left", (1, 0): "right", (0, -1): "up", (0, 1): "down"}

WHOLE = {
    "clear weather": "change the weather to clear",
    "cheerful": "change the weather to clear",
    "make it rain": "change the weather to rain",
    "stormy": "change the weather to rain",
    "let it snow": "change the weather to snow",
    "wintry": "change the weather to snow",
    "some fog": "change the weather to fog",
    "gloomy": "change the weather to fog",
    "at night": "change the weather to night",
    "spooky": "change the weather to night",
    "grey ground": "change the ground to grey",
    "on concrete": "change the ground to grey",
    "sand ground": "change the ground to sand",
    "beach please": "change the ground to sand",
    "grass ground": "change the ground to grass",
    "on a meadow": "change the ground to grass",
    "sea ground": "change the ground to sea",
    "on the water": "change the ground to sea",
    "as a sketch": "turn the picture into sketch",
    "hand drawn": "turn the picture into sketch",
    "no colours": "turn the picture into black and white",
    "timeless": "turn the picture into black and white",
    "in sepia": "turn the picture into sepia",
    "vintage": "turn the picture into sepia",
    "as negative": "turn the picture into negative",
    "turn inside out": "turn the picture into negative",
}
COLOUR_MOODS = {
    "icy": "cyan",
    "royal": "purple",
    "fiery": "orange",
    "golden": "yellow",
    "mossy": "green",
    "rosy": "pink",
}
SHAPE_MOODS = {"heroic": "star", "lovely": "heart", "precious": "diamond"}


def solve(source: Scene, prompt: str, refs: Sequence[Ref]) -> str:
    """The instruction that is meant. Raises AssertionError where the rules leave none, or more than one."""
    pictured = [r for r in refs if r.scenes]
    texts = [r.text for r in refs if not r.scenes]
    assert len(texts) <= 1
    text = texts[0] if texts else ""
    if not pictured:
        return _words(source, prompt, text)
    if len(pictured) == 2:
        before, after = (r.scenes[0].things[0] for r in pictured)
        return _change(_alike(source, before, 3), after)
    ref = pictured[0]
    first = ref.scenes[0]
    for word, order in (
        ("weather", "change the weather to"),
        ("ground", "change the ground to"),
        ("style", "turn the picture into"),
    ):
        if word in f"{prompt} {text}".split():
            return f"{order} {getattr(first, word)}"
    if len(ref.scenes) == 4:
        common = [key for key in KEYS if len({getattr(s.things[0], key) for s in ref.scenes}) == 1]
        assert len(common) == 1, "a grid says one thing"
        return _make(_named(source, prompt), getattr(first.things[0], common[0]))
    if not first.things:
        assert first.sign and first.sign_large
        return _make(_named(source, prompt), first.sign)
    seen = first.things[0]
    return _with_text(source, prompt, text, seen) if text else _picture_alone(source, prompt, ref, seen)


def _picture_alone(source: Scene, prompt: str, ref: Ref, seen: Thing) -> str:
    words = prompt.split()
    if prompt in ("without this", "not this", "lose this", "remove this"):
        return f"remove the {_alike(source, seen, 3).label}"
    if prompt in ("add this", "this too", "also this", "one more"):
        return f"add a {seen.size} {seen.label} at the {CELLS[seen.cell]}"
    if words[-1:] in (["here"], ["there"]) and prompt != "same here":
        thing = _alike(source, seen, 3)
        step = (seen.cell % 3 - thing.cell % 3, seen.cell // 3 - thing.cell // 3)
        return f"move the {thing.label} {WAYS[step]}"
    if ref.frames > 1 and abs(seen.vx) + abs(seen.vy) > 4:  # a whole cell within the video, not a drift
        way = ((seen.vx > 0) - (seen.vx < 0), (seen.vy > 0) - (seen.vy < 0))
        return f"move the {_alike(source, seen, 3).label} {WAYS[way]}"
    return _change(_alike(source, seen, 2), seen)


def _with_text(source: Scene, prompt: str, text: str, seen: Thing) -> str:
    words = text.split()
    if text in ("picture wins", "words win"):
        spoken, *name = prompt.split()
        return _make(_named(source, " ".join(name)), seen.colour if text == "picture wins" else spoken)
    if text.startswith(("the one of this ", "whatever has its ")):
        value = getattr(seen, words[-1])
        (thing,) = (t for t in source.things if getattr(t, words[-1]) == value)
        return f"remove the {thing.label}"
    if text.startswith(("only the", "its")) or ":" in text:
        (key,) = (word for word in words if word in ("colour", "texture"))
        return _make(_named(source, text), getattr(seen, key))
    if text.startswith(("swap the", "instead of the", "replace the")):
        return f"replace the {_named(source, text).label} with a {seen.label}"
    if text.startswith(("at the ", "place it ")):
        return f"add a {seen.size} {seen.label} at the {' '.join(words[2:])}"
    assert text.startswith(("go ", "one step ", "to go ")), text
    return f"move the {_alike(source, seen, 3).label} {words[-1]}"


def _words(source: Scene, prompt: str, text: str) -> str:
    if prompt in WHOLE:
        return WHOLE[prompt]
    if text.startswith("a "):
        return f"add {text}"
    if text:
        name, outcome = text.split(" for a ")
        return f"replace the {_named(source, name).label} with a {outcome}"
    words = prompt.split()
    mood = next((w for w in words if w in COLOUR_MOODS or w in SHAPE_MOODS), None)
    if mood:
        rest = [w for w in words if w not in (mood, "make", "it", "something")]
        large = [t for t in source.things if t.size == "large"]
        assert rest or len(large) == 1, "without a name the one large thing is meant"
        thing = _named(source, " ".join(rest)) if rest else large[0]
        return _make(thing, COLOUR_MOODS[mood]) if mood in COLOUR_MOODS else _turn(thing, SHAPE_MOODS[mood])
    if "sign" in words:
        return _make(
            _named(source, " ".join(w for w in words if w not in ("sign", "says", "like", "the"))),
            str(source.sign),
        )
    if words[0] in ("no", "lose", "without"):
        return f"remove the {_named(source, ' '.join(words[1:])).label}"
    if "into" in words:
        at = words.index("into")
        return _turn(_named(source, " ".join(words[:at])), words[at + 1])
    if words[-1] in WAYS.values():
        name = " ".join(w for w in words[:-1] if w != "move")
        return f"move the {_named(source, name).label} {words[-1]}"
    # a name and a value, in either order: all readings that change something must agree
    words = [w for w in words if w != "make"]
    cuts = ((words[0], words[1:]), (words[-1], words[:-1]))
    readings = set()
    for value, name in cuts:
        things = _all_named(source, " ".join(name))
        readings |= {
            _make(t, value) for t in things if value in (*COLOURS, *TEXTURES) and value not in t.look
        }
    (order,) = readings
    return order


def _all_named(source: Scene, words: str) -> list[Thing]:
    """Things that a name may mean: a shape, "red one", or a whole label, and nothing else among the words."""
    filler = {
        "the",
        "like",
        "this",
        "only",
        "colour",
        "texture",
        "of",
        "its",
        "for",
        ":",
        "swap",
        "instead",
        "replace",
    }
    name = [w for w in words.split() if w not in filler]
    spoken = " ".join(name)
    short = [
        t
        for t, key in product(source.things, KEYS)
        if spoken == (getattr(t, key) if key == "shape" else f"{getattr(t, key)} one")
    ]
    return [t for t in source.things if t.label == spoken] if len(name) > 1 and name[-1] != "one" else short


def _named(source: Scene, words: str) -> Thing:
    (thing,) = _all_named(source, words)
    return thing


def _alike(source: Scene, seen: Thing, count: int) -> Thing:
    """The one thing that shares so many attributes with what is seen."""
    (thing,) = (
        t for t in source.things if sum(a == b for a, b in zip(t.look, seen.look, strict=True)) == count
    )
    return thing


def _change(thing: Thing, after: Thing) -> str:
    if thing.shape != after.shape:
        return f"replace the {thing.label} with a {after.label}"
    (value,) = (new for old, new in zip(thing.look, after.look, strict=True) if old != new)
    return _make(thing, value)


def _make(thing: Thing, value: str) -> str:
    return f"make the {thing.label} {value}"


def _turn(thing: Thing, shape: str) -> str:
    texture = "" if thing.texture == "plain" else f"{thing.texture} "
    return f"replace the {thing.label} with a {thing.colour} {texture}{shape}"
