"""The fourteen rules of the drawn world: what follows from a cause, exactly, in terms of its edits.

A rule is a function (scene, rng) -> Outcome | None. None: the scene has nothing that the rule speaks of. No
steps: the premise changes nothing (the null twin). Each is written once, and documented by its fact.

A fall over two cells, a roll and a walk are one step to a named cell, not a move for each cell: the steps of
a plan are grounded on the original, where the thing is not yet half way.

Facts look up one thing at a time, a cell before what stands in it: a small model cannot find what stands on
a star that it must find first, between one word and the next. "a cell to the right" is one cell away,
"to the right" may be further: a plan says "right" of the one and "to the right" of the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..chain import Chain, chain
from ..edits import Edit, change_ground, change_weather, move, move_to, neighbour, recolour, remove
from ..question import name_of
from ..scene import CELLS, COLOURS, DIRECTIONS, JITTER, WEATHERS, Scene, Thing

CHAIN = "chain"
FADED = {"red": "pink", "blue": "cyan", "orange": "yellow", "purple": "pink"}
MIXED = {("red", "yellow"): "orange", ("red", "blue"): "purple", ("blue", "yellow"): "green"}
ROUND = ("circle", "ring")
MOST_HEAVY = 3  # things that sink: with the sea a plan of four steps
# phrase -> (weathers that it changes, what they become)
CLOCK = {
    "hour": (("rain", "fog"), "clear"),
    "tonight": (("clear", "rain", "snow", "fog"), "night"),
    "morning": (("night",), "clear"),
    "midwinter": (("clear", "rain"), "snow"),
    "spring": (("snow",), "clear"),
}


@dataclass(frozen=True)
class Outcome:
    """What a rule says of a scene.

    edit: the steps, on the scene that is asked about. facts: why, in the words of a trace, the last one what
    follows. names: what fills
    the gaps of the rule's wordings. phrase: which set of wordings, where the rule has several. k: outcomes
    that stay open to one who knows the rule and the words, not the picture. panels: earlier pictures of a
    story. held_out: of a kind that only the test asks.
    """

    edit: Chain
    facts: tuple[str, ...]
    names: tuple[str, ...] = ()
    phrase: str = ""
    k: int = 1
    panels: tuple[Scene, ...] = ()
    held_out: bool = False


Rule = Callable[[Scene, random.Random], Outcome | None]


def fall(scene: Scene, rng: random.Random) -> Outcome:
    """A thing that is let go falls down its column to the last free cell."""
    thing = rng.choice(scene.things)
    down = _fallen(scene, thing)
    facts = (_at(thing), _way(scene, thing.cell, "down"), _goes("falls", thing, down))
    return _outcome(scene, [_to(scene, thing, down)], facts, (name_of(thing, scene),), k=3)


def sink(scene: Scene, rng: random.Random) -> Outcome | None:
    """Under water the ground is sea, large things sink out of sight and small ones float where they are."""
    heavy = [thing for thing in scene.things if thing.size == "large"]
    if scene.ground == "sea" or not 1 <= len(heavy) <= MOST_HEAVY:
        return None
    sunk = " , ".join(f"the {thing.label}" for thing in heavy)
    steps: list[Edit] = [change_ground(scene, "sea")]
    for thing in heavy:
        steps.append(remove(steps[-1].result, thing))
    sizes = " , ".join(f"the {thing.label} is {thing.size}" for thing in scene.things)
    facts = (sizes, f"large things sink : {sunk} ; small ones stay")
    return _outcome(scene, steps, facts, k=2 ** len(scene.things) - 1)


def balance(scene: Scene, rng: random.Random) -> Outcome | None:
    """Things side by side are a seesaw: where one becomes heavy it goes down a cell, and the small one beside
    it goes up. Without a small one beside it, or without room, nothing moves."""
    pairs = [(a, b) for a in scene.things for b in scene.things if _beside(a, b) and b.size == "small"]
    if not pairs:
        thing = rng.choice(scene.things)
        return _outcome(
            scene, [], f"beside the {thing.label} nothing small stands", (name_of(thing, scene),), k=2
        )
    thing, light = rng.choice(pairs)
    if sum(_beside(thing, other) and other.size == "small" for other in scene.things) > 1:
        return None  # two seesaws
    names = (name_of(thing, scene),)
    free = scene.free_cells()
    if neighbour(light.cell, "up") not in free or neighbour(thing.cell, "down") not in free:
        return _outcome(scene, [], f"the {thing.label} and the {light.label} have no room", names, k=2)
    up = move(scene, light, "up")
    fact = f"the {light.label} is small and beside the {thing.label} : up it goes"
    return _outcome(scene, [up, move(up.result, thing, "down")], fact, names, k=2)


def clock(scene: Scene, rng: random.Random) -> Outcome:
    """Rain and fog pass within the hour; every evening is night, and the morning after it clear; clear and
    rainy days are snow in midwinter; snow is gone in spring."""
    phrase = rng.choice(list(CLOCK))
    before, after = CLOCK[phrase]
    steps = [change_weather(scene, after)] if scene.weather in before else []
    fact = f"{scene.weather} turns {after}" if steps else f"{scene.weather} stays {scene.weather}"
    return _outcome(scene, steps, fact, phrase=phrase, k=len(WEATHERS) - 1)


def fade(scene: Scene, rng: random.Random) -> Outcome | None:
    """In the sun red and purple turn pink, blue cyan and orange yellow; other colours keep."""
    thing = rng.choice(scene.things)
    paler = FADED.get(thing.colour)
    names = (name_of(thing, scene),)
    if paler is None:
        return _outcome(scene, [], f"{thing.colour} keeps its colour", names, k=len(COLOURS) - 1)
    step = _recoloured(scene, thing, paler)
    if step is None:
        return None
    return _outcome(scene, [step], f"{thing.colour} fades to {paler}", names, k=len(COLOURS) - 1)


def drift(scene: Scene, rng: random.Random) -> Outcome | None:
    """A moment later each moving thing is where its velocity puts it four frames on. Of a moving scene; no
    plan says it, only the reader knows."""
    later = tuple(replace(t, dx=t.dx + round(4 * t.vx), dy=t.dy + round(4 * t.vy)) for t in scene.things)
    inside = all(max(abs(t.dx), abs(t.dy)) <= JITTER[t.size] for t in later)
    if later == scene.things or not inside:  # cells are kept
        return None
    kept = chain("drift", scene, [])
    labels = tuple(thing.label for thing in scene.things)
    edit = replace(
        kept, result=replace(scene, things=later), instruction="let all things move on", targets=labels
    )
    return Outcome(edit, ("each thing moves on as it moved",))


def push(scene: Scene, rng: random.Random) -> Outcome:
    """A push goes through a row of things that touch: its last one moves a cell. A circle and a ring roll
    until something stops them. At the edge nothing moves."""
    thing, way = rng.choice(scene.things), rng.choice(("left", "right"))
    last, facts = thing, [_at(thing), _way(scene, thing.cell, way)]
    while (after := scene.at(neighbour(last.cell, way))) is not None:
        last = after
    if last is not thing:
        facts.append(f"the {thing.label} passes it on")
    room = _free_cells(scene, last.cell, way)
    end = last.cell
    if room:
        end = room[-1] if last.shape in ROUND else room[0]
    facts.append(_goes("rolls" if last.shape in ROUND else "moves", last, end))
    found = _outcome(scene, [_to(scene, last, end)], tuple(facts), (name_of(thing, scene), way), k=3)
    return replace(found, held_out=last is not thing and end != last.cell)


def mix(scene: Scene, rng: random.Random) -> Outcome | None:
    """Red and yellow give orange, red and blue purple, blue and yellow green, whichever is rubbed on; what is
    rubbed on takes it."""
    pairs = [(a, b) for a in scene.things for b in scene.things if a is not b]
    pairs = [(a, b) for a, b in pairs if a.colour == b.colour or _mixed(a, b)]
    if not pairs:
        return None
    one, other = rng.choice(pairs)
    names = (name_of(one, scene), name_of(other, scene))
    rubbed = f"the {one.label} on the {other.label}"
    pair = _mixed(one, other)
    if pair is None:
        return _outcome(scene, [], (rubbed, f"both are {one.colour}"), names, k=len(COLOURS) - 1)
    step = _recoloured(scene, other, MIXED[pair])
    if step is None:
        return None
    # In one order, so that what blue does to yellow is known from what yellow does to blue.
    gives = f"{pair[0]} and {pair[1]} give {MIXED[pair]}"
    found = _outcome(scene, [step], (rubbed, gives), names, k=len(COLOURS) - 1)
    return replace(found, held_out=(one.colour, other.colour) == ("blue", "yellow"))


def support(scene: Scene, rng: random.Random) -> Outcome | None:
    """What stands on a thing falls when it is taken away, the lowest first."""
    held = [t for t in scene.things if t.cell >= 3 and scene.at(t.cell - 3) is not None]
    if not held:
        return None
    thing = rng.choice(held)
    steps: list[Edit] = [remove(scene, thing)]
    facts, told, cell = [_at(thing), _way(scene, thing.cell, "down")], [], thing.cell - 3
    while cell >= 0 and (above := scene.at(cell)) is not None:
        now = steps[-1].result
        down = _fallen(now, above)
        step = _to(now, above, down)
        assert step is not None  # the cell below it has just become free
        steps.append(step)
        facts.append(f"on it at the {CELLS[cell]} stood the {above.label}")
        told.append(_goes("falls", above, down))
        cell -= 3
    return _outcome(scene, steps, (*facts, " , ".join(told)), (name_of(thing, scene),), k=3)


def flood(scene: Scene, rng: random.Random) -> Outcome | None:
    """Where it rains and goes on for a week the ground is sea."""
    if scene.weather != "rain":
        return None
    steps = [change_ground(scene, "sea")] if scene.ground != "sea" else []
    return _outcome(scene, steps, "rain makes the ground sea" if steps else "the ground is sea already", k=3)


def march(scene: Scene, rng: random.Random) -> Outcome | None:
    """A thing that went one cell in reading order from panel to panel, to and fro alike, goes one more."""
    free = scene.free_cells()
    walks = [
        (thing, way)
        for thing in scene.things
        for way in (1, -1)
        if all(thing.cell + way * steps in free for steps in (1, -1, -2))
    ]
    if not walks:
        return None
    thing, way = rng.choice(walks)
    panels = tuple(scene.swap(thing, replace(thing, cell=thing.cell - way * n)) for n in (2, 1))
    # Of each thing, so that the one that goes is found word by word.
    been = [
        [each.cell] * 3 if each is not thing else [each.cell - way * n for n in (2, 1, 0)]
        for each in scene.things
    ]
    facts = [f"{each.label} : {_cells(cells)}" for each, cells in zip(scene.things, been, strict=True)]
    facts.append(_goes("goes", thing, thing.cell + way))
    found = _outcome(scene, [_to(scene, thing, thing.cell + way)], tuple(facts), k=2 * len(scene.things))
    return replace(found, panels=panels)


def cycle(scene: Scene, rng: random.Random) -> Outcome | None:
    """A thing whose colour was a, then b, and now c, is a again."""
    thing = rng.choice(scene.things)
    first, second = rng.sample([colour for colour in COLOURS if colour != thing.colour], 2)
    step = _recoloured(scene, thing, first)
    if step is None or _recoloured(scene, thing, second) is None:
        return None
    panels = tuple(scene.swap(thing, replace(thing, colour=colour)) for colour in (first, second))
    facts = []
    for each in scene.things:
        colours = (first, second, each.colour) if each is thing else (each.colour,) * 3
        facts.append(f"{CELLS[each.cell]} : {' , '.join(colours)}")
    facts.append(f"the {thing.label} is again {first}")
    found = _outcome(scene, [step], tuple(facts), k=(len(COLOURS) - 1) * len(scene.things))
    return replace(found, panels=panels, held_out="orange" in (first, second, thing.colour))


def vanish(scene: Scene, rng: random.Random) -> Outcome | None:
    """Things leave in reading order, one a panel."""
    if len(scene.things) < 3:
        return None
    left = [replace(scene, things=scene.things[n:]) for n in range(3)]  # in reading order as they are drawn
    gone = left[2].things[0]
    fact = f"the {scene.things[0].label} left , then the {scene.things[1].label} ; next is the {gone.label}"
    found = _outcome(left[2], [remove(left[2], gone)], fact, k=len(left[2].things) + 1)
    return replace(found, panels=(left[0], left[1]))


def day(scene: Scene, rng: random.Random) -> Outcome | None:
    """Day and night alternate from panel to panel."""
    if scene.weather not in ("clear", "night"):
        return None
    other = "night" if scene.weather == "clear" else "clear"
    found = _outcome(
        scene, [change_weather(scene, other)], f"{scene.weather} , {other} , {scene.weather}", k=4
    )
    return replace(found, panels=(scene, replace(scene, weather=other)))


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        fall,
        sink,
        balance,
        clock,
        fade,
        drift,
        push,
        mix,
        support,
        flood,
        march,
        cycle,
        vanish,
        day,
    )
}
SCENARIOS = {
    "physical": ("fall", "sink", "balance"),
    "temporal": ("clock", "fade", "drift"),
    "causal": ("push", "mix", "support", "flood"),
    "story": ("march", "cycle", "vanish", "day"),
}


# --- parts ---


def _outcome(
    scene: Scene,
    steps: list[Edit | None] | list[Edit],
    facts: str | tuple[str, ...],
    names: tuple[str, ...] = (),
    phrase: str = "",
    k: int = 1,
) -> Outcome:
    taken = [step for step in steps if step is not None]
    op = taken[0].op if len(taken) == 1 else CHAIN
    return Outcome(chain(op, scene, taken), (facts,) if isinstance(facts, str) else facts, names, phrase, k)


def _mixed(one: Thing, other: Thing) -> tuple[str, str] | None:
    """The two colours in the order of MIXED."""
    return next((pair for pair in MIXED if set(pair) == {one.colour, other.colour}), None)


def _beside(one: Thing, other: Thing) -> bool:
    return one.cell // 3 == other.cell // 3 and abs(one.cell - other.cell) == 1


def _fallen(scene: Scene, thing: Thing) -> int:
    """The cell at which a thing comes to rest."""
    return [thing.cell, *_free_cells(scene, thing.cell, "down")][-1]


def _free_cells(scene: Scene, cell: int, way: str) -> list[int]:
    """The free cells from a cell on, up to the first that is not."""
    free, found = scene.free_cells(), []
    while (cell := neighbour(cell, way)) in free:
        found.append(cell)
    return found


def _at(thing: Thing) -> str:
    return f"the {thing.label} is at the {CELLS[thing.cell]}"


def _cells(cells: Sequence[int]) -> str:
    return " , ".join(CELLS[cell] for cell in cells)


def _way(scene: Scene, cell: int, way: str) -> str:
    """What stands in each cell from a cell on: "centre : nothing , left : red star"; "up : no more" at the
    edge."""
    free, found = scene.free_cells(), []
    while (cell := neighbour(cell, way)) >= 0:
        there = scene.at(cell)
        found.append(f"{CELLS[cell]} : {there.label if there else 'nothing' if cell in free else 'sign'}")
    return " , ".join(found) or f"{way} : no more"


def _goes(how: str, thing: Thing, cell: int) -> str:
    """how: "falls". As "the red star falls a cell to the bottom"."""
    if cell == thing.cell:
        return f"the {thing.label} stays"
    beside = any(neighbour(thing.cell, way) == cell for way in DIRECTIONS)
    return f"the {thing.label} {how} {'a cell ' if beside else ''}to the {CELLS[cell]}"


def _to(scene: Scene, thing: Thing, cell: int) -> Edit | None:
    """The move to a cell: by its direction where that is one cell away, else by its name; None to where it
    is."""
    if cell == thing.cell:
        return None
    ways = [way for way in DIRECTIONS if neighbour(thing.cell, way) == cell]
    return move(scene, thing, ways[0]) if ways else move_to(scene, thing, cell)


def _recoloured(scene: Scene, thing: Thing, colour: str) -> Edit | None:
    """None where another thing would be called the same."""
    step = recolour(scene, thing, colour)
    assert step.outcome is not None
    others = {each.label for each in scene.things if each is not thing}
    return None if step.outcome.label in others else step
