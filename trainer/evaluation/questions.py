"""Questions whose answer is known: held-out ones of the world, or a dataset's."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from evlm.errors import ConfigError, RecordError
from evlm.records import Row
from evlm.request import Request

from ..data.files import Problem, read
from ..data.heldout import held_out, question_key
from ..world.edits import MIX
from ..world.light import lit
from ..world.mix import Mix, ask_mixed
from ..world.questions import CATEGORIES, ask
from ..world.questions import Question as WorldQuestion
from ..world.rows import to_request
from ..world.scene import SPLITS
from ..world.traces import another_instruction
from ..world.whatif.question import WhatIf

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Question:
    """A question with its right answer.

    id: the same in every evaluation that asks it. request, mask: make its pictures when they are needed; the
    mask is [H, W] or [1, H, W], None where the whole picture may change or nobody drew one. groups: of a
    hypothetical question its scenario, rule, wording, kind and premise. asked: the world's question, which
    its reader needs. other: another instruction for the same picture, which is wrong here; "" where none is
    known.
    """

    id: str
    edit_type: str
    category: str
    instruction: str
    targets: tuple[str, ...]
    request: Callable[[], Request]
    mask: Callable[[], Tensor | None]
    groups: Mapping[str, str] = field(default_factory=dict)
    asked: WorldQuestion | None = None
    other: str = ""


def world_questions(
    rows: int, seed: int, split: str = "test", lamp: float = 0.0, mix: Mix | None = None
) -> list[Question]:
    """Held-out questions of the world; question i is a function of (split, seed, i, mix) alone. lamp: the
    light that the pictures are seen in (`world.light`). mix: shares of the other sorts of questions, of which
    the hypothetical have categories of their own.

    They are stratified by edit type (the paper's mix) and input category (all alike): of any first n each
    type has its share to within about three, each category to within one, each pair of them to within five.
    Raises ConfigError for an unknown split.
    """
    if split not in SPLITS or rows < 1:
        raise ConfigError(
            f"{rows} questions of split {split!r:.40}: expected 1 or more, of {', '.join(SPLITS)}"
        )
    return [world_question(number, seed, split, lamp, mix) for number in range(rows)]


def world_question(
    number: int, seed: int, split: str = "test", lamp: float = 0.0, mix: Mix | None = None
) -> Question:
    """The world's question of that number, without a mix of `stratum(split, seed, number)`. Raises
    ConfigError."""
    if split not in SPLITS:
        raise ConfigError(f"questions of split {split!r:.40}: expected one of {', '.join(SPLITS)}")
    rng, (op, category) = random.Random(f"evaluate {split} {seed} {number}"), stratum(split, seed, number)
    name = f"world {split} {seed} {number}"
    if not mix:
        return _of_world(name, ask(rng, split, op, category), lamp)
    sort = random.Random(f"{name} sort")
    of = None if mix.conflicts and category == "text" else category  # words alone disagree with nothing
    return _of_world(f"{name} {mix.name}", ask_mixed(sort, rng, split, mix, of, op), lamp)


def stratum(split: str, seed: int, number: int) -> tuple[str, str]:
    """Edit type and input category of a question: the categories take turns; the edit types come by steps of
    the golden ratio around a circle on which each has an arc as long as its share (Weyl's sequence)."""
    start = random.Random(f"strata {split} {seed}").random()
    at = (start + number * _GOLDEN) % 1.0
    ops = zip(MIX, accumulate(MIX.values()), strict=True)
    op = next((op for op, end in ops if at < end), list(MIX)[-1])
    return op, CATEGORIES[(int(start * len(CATEGORIES)) + number) % len(CATEGORIES)]


def dataset_questions(
    folder: Path, rows: int | None, seed: int, split: str = "test", heldout: float = 0.0
) -> list[Question]:
    """Questions of a dataset folder: all of a split when `rows` is None, else so many of them, stratified by
    edit type x input category: any first n hold each stratum's share to within one or two.

    The right answer is the completion that people wanted: of a question's desired rows the one with the
    largest share of its votes, the first of equals. Questions without a desired row have no answer and are
    left out, as are plain answers. heldout: of the split's questions those alone that a recipe with this
    share holds out. Raises RecordError for a bad row, ConfigError where no question fits or fewer than `rows`
    do.
    """
    best: dict[str, Row] = {}
    keys: set[int] = set()

    def bad(problem: Problem) -> None:
        raise RecordError(f"{folder}, {problem}")

    for _, row in read(folder, bad):
        if row.split == split:
            keys.add(question_key(row))
        if row.split == split and row.label and row.answer is None:
            known = best.get(row.question)
            if known is None or _wanted(row) > _wanted(known):
                best[row.question] = row
    chosen = held_out(keys, heldout) if heldout else keys
    questions = [row for row in best.values() if question_key(row) in chosen]
    if not questions or (rows is not None and not 1 <= rows <= len(questions)):
        wanted = "at least one" if rows is None else f"{rows}"
        raise ConfigError(
            f"{folder}: {len(questions)} questions of split {split!r:.40} have a desired row, "
            f"expected {wanted}"
        )
    order = stratified([(row.edit_type, row.category) for row in questions], seed)
    root = folder if folder.is_dir() else folder.parent
    return [_of_row(questions[at], root) for at in order[:rows]]


def stratified(strata: Sequence[tuple[str, ...]], seed: int) -> list[int]:
    """An order of the items, drawn by the seed; any first n hold each stratum's share to within one or two.

    Systematic sampling: the items of a stratum, shuffled, stand evenly along a line from a start of its own.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, name in enumerate(strata):
        groups.setdefault(name, []).append(index)
    placed = []
    for name, members in groups.items():
        rng = random.Random(f"stratified {seed} {name}")
        rng.shuffle(members)
        start = rng.random()
        placed += [((start + n) / len(members), name, index) for n, index in enumerate(members)]
    return [index for _, _, index in sorted(placed)]


# --- parts ---


def _of_world(name: str, asked: WorldQuestion, lamp: float) -> Question:
    edit = asked.edit
    return Question(
        name,
        edit.op,
        asked.category,
        edit.instruction,
        edit.targets,
        partial(_seen, asked, lamp),
        partial(_region, asked),
        _groups(asked),
        asked,
        another_instruction(random.Random(f"{name} other"), edit),
    )


def _groups(asked: WorldQuestion) -> dict[str, str]:
    if not isinstance(asked, WhatIf):
        return {}
    return {
        "scenario": asked.scenario,
        "rule": asked.form,
        "wording": "never in training" if asked.unseen else "as in training",
        "kind": "held out" if asked.held_out else "practised",
        "premise": "changes nothing" if asked.null else "changes something",
    }


def _seen(asked: WorldQuestion, lamp: float) -> Request:
    return lit(to_request(asked), lamp)


def _region(asked: WorldQuestion, size: int = 64) -> Tensor | None:
    region = asked.edit.region(size, asked.frames)
    return None if region is None else torch.from_numpy(region)


def _of_row(row: Row, folder: Path) -> Question:
    return Question(
        row.question,
        row.edit_type,
        row.category,
        row.instruction,
        row.targets,
        partial(row.request, folder),
        partial(row.true_mask, folder),
        {name: str(row.meta[name]) for name in ("scenario", "rule") if row.meta.get(name)},
    )


def _wanted(row: Row) -> float:
    """Share of the votes for a row; a row without votes stands between all and none."""
    return sum(row.raters) / len(row.raters) if row.raters else 0.5
