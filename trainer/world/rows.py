"""Rows of the world: questions and their completions, desired and not, as a dataset or without a disk.

Row i of (seed, split) is a function of these three and of how many undesired rows there are: any part of
an endless dataset can be made anywhere. Row 0 is question 0's desired trace, its undesired ones follow, then
comes question 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from evlm.errors import RecordError
from evlm.plan.trace import Plan
from evlm.records import Row, step_rows
from evlm.request import Reference, Request

from . import edits
from .chain import Chain, chain
from .edits import OPERATIONS, Edit
from .mix import Mix, ask_mixed
from .questions import CATEGORIES, Question, ask
from .scene import CELLS, COLOURS, SHAPES, SIZES, SPLITS, TEXTURES, Scene, Split, Thing, scene_hash
from .solid_questions import SolidQuestion
from .traces import FAULTS, Fault, rate, write_trace, write_undesired
from .whatif.question import WhatIf

# Undesired rows for each question: 1 / 1.7 of all are desired, and the raters' majority likes .58 of all.
UNDESIRED = 0.7


@dataclass(frozen=True)
class Recipe:
    """What a dataset is made of. `undesired`: rows for each question, on average; 0 gives desired rows alone.
    `size`: pixels a side. `op` and `category`: one kind of edit or of input only, else the paper's mix.
    `mix`: shares of doubles, conflicts and what-ifs, which are no single kind of edit. Raises RecordError."""

    seed: int = 0
    split: Split = "train"
    size: int = 64
    undesired: float = UNDESIRED
    op: str | None = None
    category: str | None = None
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        if self.mix and self.op is not None:
            raise RecordError(f"op {self.op!r:.40} is one kind of edit: leave it out, or {self.mix.name}")
        if self.mix.whatif and self.category is not None:
            raise RecordError(
                f"category {self.category!r:.40}: hypothetical questions have their own; leave it out"
            )
        if self.mix.conflicts and self.category == "text":
            raise RecordError(
                "conflicts: words alone cannot disagree with a picture; category 'text' has none"
            )
        for name, value, known in (
            ("split", self.split, SPLITS),
            ("op", self.op, (None, *OPERATIONS)),
            ("category", self.category, (None, *CATEGORIES)),
        ):
            if value not in known:
                raise RecordError(
                    f"{name} {value!r:.40}: expected one of {', '.join(str(k) for k in known if k)}"
                )
        if not 0 <= self.undesired <= len(FAULTS):
            raise RecordError(
                f"undesired {self.undesired!r}: expected 0 to {len(FAULTS)} rows for each question"
            )
        if not 16 <= self.size <= 1024:
            raise RecordError(f"size {self.size!r}: expected 16 to 1024 pixels a side")

    @property
    def name(self) -> str:
        """Names the rows and their folder of pictures; recipes that draw other pictures have other names."""
        parts = [
            self.split,
            str(self.seed),
            self.op,
            self.category,
            str(self.size) if self.size != 64 else None,
            self.mix.name,
        ]
        return "-".join(p.replace("->", "-to-").replace("+", "-and-").replace(" ", "-") for p in parts if p)


def question_at(recipe: Recipe, number: int) -> Question:
    """Question `number` of a recipe. The same at every size and share of undesired rows."""
    rng = _rng(recipe, number, "question")
    if recipe.mix:
        return ask_mixed(_rng(recipe, number, "kind"), rng, recipe.split, recipe.mix, recipe.category)
    return ask(rng, recipe.split, recipe.op, recipe.category)


def rows(recipe: Recipe, start: int, stop: int) -> Iterator[tuple[Row, dict[str, Tensor]]]:
    """Rows start ... stop - 1, each with the pictures of its question: path -> [S, S, 3] or mask [S, S]."""
    number, question, pictures = -1, None, {}
    for index in range(start, stop):
        at, completion = place_of(index, recipe.undesired)
        if question is None or at != number:
            number, question = at, question_at(recipe, at)
            pictures = pictures_of(recipe, number, question)
        row = completion_row(recipe, number, question, completion)
        used = set(row.paths()) if isinstance(question.edit, Chain) else pictures
        yield row, {path: picture for path, picture in pictures.items() if path in used}


def place_of(index: int, undesired: float) -> tuple[int, int]:
    """(question, completion) of a row; completion 0 is the desired one."""
    if index < 0:
        raise RecordError(f"row {index}: expected 0 or more")
    number = int(index / (1 + undesired))
    while _rows_before(number, undesired) > index:
        number -= 1
    while _rows_before(number + 1, undesired) <= index:
        number += 1
    return number, index - _rows_before(number, undesired)


def to_request(question: Question | SolidQuestion, size: int = 64) -> Request:
    """The question as the engine is asked it: the same tensors as a written row gives."""
    references = tuple(
        Reference(ref.kind, _tensor(ref.pixels(size)) if ref.kind != "text" else None, ref.text)  # type: ignore[arg-type]
        for ref in question.refs
    )
    return Request(_tensor(question.edit.pictures(size, question.frames)[0]), question.prompt, references)


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """The scene graph of an edit: all that `edit_from_json` needs to build it again."""
    if isinstance(edit, Chain):
        return {
            "op": edit.op,
            "scene": asdict(edit.source),
            "steps": [edit_to_json(step) for step in edit.steps],
        }
    return {
        "op": edit.op,
        "scene": asdict(edit.source),
        "cell": None if edit.target is None else edit.target.cell,
        "outcome": None if edit.outcome is None else asdict(edit.outcome),
        "value": edit.value,
    }


def edit_from_json(data: Mapping[str, Any]) -> Edit:
    """The edit that `edit_to_json` described, for the exact reader. Raises RecordError."""
    try:
        graph = dict(data["scene"])
        scene = Scene(**{**graph, "things": tuple(thing_from_json(thing) for thing in graph["things"])})
        if "steps" in data:
            if any("steps" in step for step in data["steps"]):
                raise ValueError("a step of several steps")
            return chain(str(data["op"]), scene, [edit_from_json(step) for step in data["steps"]])
        edit = _again(data["op"], scene, data["cell"], data["outcome"], data["value"])
        if edit_to_json(edit) != {**data, "scene": {**graph, "things": tuple(graph["things"])}}:
            raise ValueError("its parts do not belong together")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RecordError(
            f"not the scene graph of an edit ({type(error).__name__}: {error!s:.120})"
        ) from None
    return edit


def completion_row(recipe: Recipe, number: int, question: Question, completion: int = 0) -> Row:
    """One completion of a question, rated. All rows of a question share its true mask and edited pictures."""
    edit, rng = question.edit, _rng(recipe, number, f"completion {completion}")
    fault = None if completion == 0 else _faults(recipe, number)[completion - 1]
    trace = (
        write_undesired(rng, question, fault, recipe.size)
        if fault
        else write_trace(rng, question, recipe.size)
    )
    label, votes = rate(rng, fault is None)
    paths = _paths(recipe, number, question)
    return Row(
        id=f"world-{recipe.name}-{number:06d}-{completion}",
        question=f"world-{recipe.name}-{number:06d}",
        split=recipe.split,
        source="whatif" if isinstance(question, WhatIf) else "world",
        edit_type=edit.op,
        category=question.category,
        original=tuple(paths["original"]),
        prompt=question.prompt,
        thinking=trace.thinking,
        intermediate=trace.intermediate,
        reflection=trace.reflection,
        instruction=trace.plan.instruction,
        targets=trace.plan.targets,
        scope=trace.plan.scope,
        label=label,
        mask_text=trace.plan.mask_text,
        mask=paths["mask"][0] if "mask" in paths else None,
        edited=tuple(paths["edited"]),
        references=tuple(
            {"kind": ref.kind, "frames": paths[f"reference{at}"]}
            if ref.scenes
            else {"kind": "text", "text": ref.text}
            for at, ref in enumerate(question.refs, 1)
        ),
        raters=votes,
        steps=_steps(question, trace.plan, paths),
        meta={
            "k": question.k,
            "decisive": question.decisive,
            "form": question.form,
            "fault": fault,
            "scene": scene_hash(edit.source),
            "edit": edit_to_json(edit),
            **_cause(question),
        },
    )


def pictures_of(recipe: Recipe, number: int, question: Question) -> dict[str, Tensor]:
    """Every picture of a question's rows: path -> [S, S, 3], the mask [S, S], float in 0..1."""
    paths = _paths(recipe, number, question)
    before, after = question.edit.pictures(recipe.size, question.frames)
    by_path = dict(zip(paths["original"], _tensor(before), strict=True))
    by_path |= zip(paths["edited"], _tensor(after), strict=True)
    for at, ref in enumerate(question.refs, 1):
        if ref.scenes:
            by_path |= zip(paths[f"reference{at}"], _tensor(ref.pixels(recipe.size)), strict=True)
    region = question.edit.region(recipe.size, question.frames)
    if region is not None:
        by_path[paths["mask"][0]] = torch.from_numpy(region).float()
    for at, path in enumerate(paths.get("step", ())):
        assert isinstance(question.edit, Chain)
        region = question.edit.steps[at].region(recipe.size, question.frames)
        if region is not None:
            by_path[path] = torch.from_numpy(region).float()
    return by_path


def _cause(question: Question) -> dict[str, Any]:
    """What a hypothetical question's row says of its rule."""
    if not isinstance(question, WhatIf):
        return {}
    edit = question.edit
    steps = [step.instruction for step in edit.steps] if isinstance(edit, Chain) else []
    return {
        "scenario": question.scenario,
        "rule": question.form,
        "facts": list(question.facts),
        "steps": steps,
        "null": question.null,
    }


def _steps(question: Question, plan: Plan, paths: dict[str, list[str]]) -> tuple[dict[str, Any], ...]:
    """A plan's steps, each with its true mask where there are as many as the question has."""
    said = step_rows(plan)
    if not isinstance(question.edit, Chain) or len(said) != len(question.edit.steps):
        return said
    true = zip(said, question.edit.steps, paths.get("step", ()), strict=True)
    return tuple({**step, "mask": path} if edit.scope == "local" else step for step, edit, path in true)


def _paths(recipe: Recipe, number: int, question: Question) -> dict[str, list[str]]:
    counts = {"original": question.frames, "edited": question.frames}
    counts |= {f"reference{at}": ref.frames for at, ref in enumerate(question.refs, 1) if ref.scenes}
    steps = question.edit.steps if isinstance(question.edit, Chain) else None
    if question.edit.scope == "local" and steps != ():
        counts["mask"] = 1
    if steps is not None and len(steps) > 1:
        counts["step"] = len(steps)
    folder = f"pictures/{recipe.name}/{number:06d}"
    return {
        name: [f"{folder}/{name}{f'-{f}' if count > 1 else ''}.png" for f in range(count)]
        for name, count in counts.items()
    }


def _again(op: str, scene: Scene, cell: int | None, outcome: Mapping[str, Any] | None, value: str) -> Edit:
    whole = {"weather": edits.change_weather, "ground": edits.change_ground, "restyle": edits.restyle}
    if op in whole:
        return whole[op](scene, value)
    new = thing_from_json(outcome) if outcome is not None else None
    if op == "add" and new is not None:
        return edits.add(scene, new)
    thing = scene.at(cell) if cell is not None else None
    if thing is None:
        raise ValueError(f"no thing in cell {cell!r}")
    if op == "remove":
        return edits.remove(scene, thing)
    if op == "move" and value.startswith("to the "):
        return edits.move_to(scene, thing, CELLS.index(value.removeprefix("to the ")))
    if op == "replace" and new is not None:
        return edits.swap_thing(scene, thing, new.look)
    changes = {"recolour": edits.recolour, "retexture": edits.retexture, "move": edits.move}
    return changes[op](scene, thing, value)


def thing_from_json(data: Mapping[str, Any]) -> Thing:
    """A thing that `asdict` described. Raises TypeError, ValueError."""
    thing = Thing(**data)
    known = (thing.shape in SHAPES, thing.colour in COLOURS, thing.texture in TEXTURES, thing.size in SIZES)
    if not all(known) or thing.cell not in range(9):
        raise ValueError(f"not a thing of this world: {thing}")
    return thing


def _rows_before(number: int, undesired: float) -> int:
    return number + math.floor(number * undesired + 1e-9)


def _faults(recipe: Recipe, number: int) -> list[Fault]:
    """The faults of a question's undesired rows, each once."""
    return _rng(recipe, number, "faults").sample(FAULTS, len(FAULTS))


def _rng(recipe: Recipe, number: int, what: str) -> random.Random:
    return random.Random(f"world {recipe.seed} {recipe.split} {number} {what}")


def _tensor(pixels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(pixels).float() / 255
