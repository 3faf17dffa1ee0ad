"""Benchmarks made from the procedural world, judged by its exact reader in place of a model.

`rise`: hypothetical questions ("what if the star were dropped?") in RISEBench's layout: temporal (clock,
fade), causal (push, mix, support, flood), and as spatial ones what falls, sinks and is weighed. Stories need
more pictures than one and are left out, so there are no logical items. `pairs`: edits that are asked for in a
few words, with the picture that is right. Both are of the split test, and functions of (rows, seed) alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evlm.errors import ConfigError
from evlm.files.pictures import load_picture, to_pil, write_atomically

from ..world.question import Question
from ..world.questions import ask
from ..world.reader import VALUES, edit_right, place_of_cell, probes, read_near
from ..world.render import render
from ..world.rows import to_request
from ..world.scene import GROUNDS, STYLES, WEATHERS, Scene
from ..world.whatif.ask import PLANNED, ask_what_if
from ..world.whatif.question import WhatIf
from ..world.whatif.reader import outcome_right
from .base import Answers, Figure, Item, read_json
from .pixels import Pairs
from .rise import Rise

MADE = "world.json"  # in the folder: what it was made of
SCENARIOS = {
    "temporal_reasoning": ("clock", "fade"),
    "causal_reasoning": ("push", "mix", "support", "flood"),
    "spatial_reasoning": ("fall", "sink", "balance"),
}
NEAR = (
    0.12  # of a place from the nearest rendering, root of the mean square in 0..1: still a thing of the world
)


def what_if(number: int, seed: int) -> tuple[str, WhatIf]:
    """(category, question) of an item; the categories take turns, and within each its rules."""
    category = list(SCENARIOS)[number % len(SCENARIOS)]
    rules = [rule for rule in SCENARIOS[category] if rule in PLANNED]
    rule = rules[number // len(SCENARIOS) % len(rules)]
    return category, ask_what_if(random.Random(f"bench rise {seed} {number}"), "test", rule)


def plain(number: int, seed: int) -> Question:
    """An edit that a picture and a few words ask for."""
    rng = random.Random(f"bench pairs {seed} {number}")
    while True:
        question = ask(rng, "test", None, "text")
        if not question.refs:
            return question


def write(name: str, folder: Path, rows: int, seed: int) -> None:
    """Makes a benchmark of that many items, where it is not there yet. Raises ConfigError where another one
    is."""
    made = {"bench": name, "rows": rows, "seed": seed}
    file = folder / MADE
    if file.is_file():
        if read_json(file) != made:
            raise ConfigError(f"{file}: it was made otherwise ({read_json(file)}); choose another --out")
        return
    lines = list(_rise(folder, rows, seed) if name == "rise" else _pairs(folder, rows, seed))
    if name == "rise":
        _text(folder / "data_total.json", json.dumps(lines, indent=1))
    else:
        _text(folder / "pairs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _text(file, json.dumps(made))


class WorldRise(Rise):
    """RISE's arithmetic over the reader's numbers. reasoning: 5 where the places that the cause touches show
    what follows, else 1. consistency: 1 to 5 by the share of everything else that is as it was: things, free
    cells, ground, weather, style. plausibility: by the share of places that show something of the world."""

    def items(self, folder: Path, work: Path) -> list[Item]:
        seed = int(read_json(folder / MADE)["seed"])
        found = super().items(folder, work)
        return [
            replace(item, more={**item.more, "asked": what_if(number, seed)[1]})
            for number, item in enumerate(found)
        ]

    def read(self, item: Item, edited: Path) -> Answers:
        """The reader in a judge's place."""
        picture, asked = _pixels(edited), item.more["asked"]
        if picture.shape[0] != picture.shape[1]:  # none of the world's
            return {"reasoning": 1.0, "consistency": 1.0, "plausibility": 1.0}
        seen = _seen(picture, asked)
        known = list(_places(picture, seen, asked.edit.result))
        kept = _kept(picture, asked, seen)
        return {
            "reasoning": 5.0 if outcome_right(picture, asked).right else 1.0,
            "consistency": graded(kept),
            "plausibility": graded(known),
        }


class WorldPairs(Pairs):
    """Pairs, and the share that the reader calls right: what the edit orders, at its own places."""

    def items(self, folder: Path, work: Path) -> list[Item]:
        seed = int(read_json(folder / MADE)["seed"])
        found = super().items(folder, work)
        return [replace(item, more={**item.more, "asked": plain(int(item.id), seed)}) for item in found]

    def measure(self, item: Item, edited: Path) -> dict[str, float]:
        picture = _pixels(edited)
        right = picture.shape[0] == picture.shape[1] and edit_right(picture, item.more["asked"].edit)
        return {**super().measure(item, edited), "right": 100.0 * right}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        return [Figure("right, %", "right", places=1, share=True), *super().figures(items)]


def graded(right: Sequence[bool]) -> float:
    """1 to 5 by the share that is right; 5 where all are."""
    return 1.0 + (4 * sum(right)) // len(right) if right else 5.0


# --- parts ---


def _rise(folder: Path, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(rows):
        category, asked = what_if(number, seed)
        image = f"{category}_images/{number}.png"
        _draw(folder / image, asked.edit.pictures(_SIDE, 1)[0][0])
        facts = " ; ".join(asked.facts)
        yield {
            "index": f"{category}_{number}",
            "category": category,
            "subtask": asked.form,
            "instruction": asked.prompt,
            "image": image,
            "reference": f"{facts} . So: {asked.edit.instruction}" if facts else asked.edit.instruction,
        }


def _pairs(folder: Path, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(rows):
        asked = plain(number, seed)
        names = [f"{kind}/{number:05d}.png" for kind in ("original", "edited")]
        for name, frames in zip(names, asked.edit.pictures(_SIDE, 1), strict=True):
            _draw(folder / name, frames[0])
        yield {
            "original": names[0],
            "edited": names[1],
            "instruction": to_request(asked).prompt,
            "edit_type": asked.edit.op,
        }


_SIDE = 64


def _seen(picture: Any, asked: WhatIf) -> Scene:
    """The source under the ground, weather and style in which the picture is seen: of all grounds and
    weathers together, for one is mistaken for the other, the nearest to the picture, with the things of
    before or after; then the style."""

    def apart(scene: Scene) -> float:
        return float(np.square(render(scene, len(picture)) / 255.0 - picture).mean())

    ways = [
        replace(scene, ground=ground, weather=weather)
        for scene in (asked.edit.source, asked.edit.result)
        for ground in GROUNDS
        for weather in WEATHERS
    ]
    found = min(ways, key=apart)
    style = min(STYLES, key=lambda style: apart(replace(found, style=style)))
    return replace(asked.edit.source, ground=found.ground, weather=found.weather, style=style)


def _kept(picture: Any, asked: WhatIf, seen: Scene) -> list[bool]:
    """Of everything that the cause leaves alone, whether it is as it was."""
    source, steps = asked.edit.source, getattr(asked.edit, "steps", ())
    changed = {"style" if step.op == "restyle" else step.op for step in steps}
    cells = {thing.cell for step in steps for thing in (step.target, step.outcome) if thing is not None}
    found = [getattr(seen, what) == getattr(source, what) for what in VALUES if what not in changed]
    for thing in source.things:
        if thing.cell not in cells:
            found.append(read_near(picture, seen, thing)[0] == thing.look)
    free = (place_of_cell(cell) for cell in source.free_cells() if cell not in cells)
    return found + [read_near(picture, seen, where)[0] is None for where in free]


def _places(picture: Any, seen: Scene, result: Scene) -> Iterator[bool]:
    """Of each cell, whether it shows something of the world, whichever, where things stand or might."""
    for cell in {*(thing.cell for thing in seen.things), *seen.free_cells()}:
        standing = [thing for scene in (seen, result) if (thing := scene.at(cell)) is not None]
        where = (*standing, *probes(cell))
        yield any(read_near(picture, seen, each)[1] ** 0.5 < NEAR for each in where)


def _pixels(file: Path) -> Any:
    """[H, W, 3] in 0..1."""
    return load_picture(file)[0, ..., :3].numpy()


def _draw(file: Path, pixels: Any) -> None:
    import torch

    picture = to_pil(torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, partial(picture.save, format="PNG"), flush=False)


def _text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda out: out.write(text.encode()))
