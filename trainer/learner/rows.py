"""What a step learns from: questions, answers and labels, as a function of (seed, step) alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from evlm.errors import RecordError
from evlm.plan.trace import render
from evlm.reason.messages import Chat, PromptStyle, build_messages
from evlm.records import Row

from ..config.recipe import Config, Phase, Source
from ..data.stream import Source as Folder
from ..data.stream import Stream
from ..model.ranks import Ranks
from ..world.light import lit
from ..world.question import Question
from ..world.rows import UNDESIRED, Recipe, completion_row, place_of, question_at, to_request

ALONE = Ranks()


@dataclass(frozen=True)
class Example:
    """A question as the model reads it, an answer, and whether the answer is labelled as a desired one.

    mask: the true mask [H, W] in 0..1, where the row has one. name: the row's id."""

    chat: Chat
    answer: str
    desired: bool
    mask: Tensor | None = None
    name: str = ""


class Rows(Protocol):
    """Where examples come from. count: rows that there are; None where they have no end."""

    count: int | None

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        """A step's examples; of several ranks each gets its piece, and only that is read."""


def rows_for(config: Config, phase: Phase, style: PromptStyle, codec: Any) -> Rows:
    """What a phase learns from: sft from desired rows and other instruction data, rkto from desired rows
    alone unless it pushes others away, kto from all. Raises RecordError."""
    desired = phase.kind == "sft" or (phase.kind == "rkto" and not phase.rkto.lambda_u)
    sources = [source for source in config.data if source.form == "evlm" or phase.kind == "sft"]
    return open_rows(sources, phase.batch, config.seed, desired, style, codec)


def open_rows(
    sources: Sequence[Source], rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
) -> Rows:
    """Batches of `rows` examples; only desired ones, or all. Raises RecordError."""
    if sources[0].world:
        return WorldRows(sources[0], rows, seed, desired, style, codec)
    return DatasetRows(sources, rows, seed, desired, style, codec)


class WorldRows:
    """The procedural world, with labels as noisy as its raters are: a fresh row each time, or the first
    `source.rows` of the world's rows, each once an epoch."""

    def __init__(
        self, source: Source, rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
    ) -> None:
        self.recipe = Recipe(source.seed, source.split, undesired=UNDESIRED)  # type: ignore[arg-type]
        self.rows, self.seed, self.style, self.codec = rows, seed, style, codec
        self.desired, self.lamp = desired, source.lamp
        self.numbers = [n for n in range(source.rows) if self._fits(self._row(n)[0])]
        if source.rows and not self.numbers:
            raise RecordError(
                f"rows {source.rows}: none of the world's first rows is a desired one; take more"
            )
        self.count: int | None = len(self.numbers) if source.rows else None

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        drawn = self._epochs(step) if self.numbers else self._fresh(step)
        return [self._example(*each) for each in ranks.part(drawn)]

    def _fresh(self, step: int) -> list[tuple[Row, Question]]:
        rng = random.Random(f"rows {self.seed} {step}")
        drawn: list[tuple[Row, Question]] = []
        while len(drawn) < self.rows:
            row, question = self._row(rng.randrange(10**9))
            if self._fits(row):
                drawn.append((row, question))
        return drawn

    def _epochs(self, step: int) -> list[tuple[Row, Question]]:
        drawn = []
        for at in range(step * self.rows, (step + 1) * self.rows):
            epoch, position = divmod(at, len(self.numbers))
            order = random.Random(f"order {self.seed} {epoch}").sample(self.numbers, len(self.numbers))
            drawn.append(self._row(order[position]))
        return drawn

    def _row(self, index: int) -> tuple[Row, Question]:
        number, completion = place_of(index, self.recipe.undesired)
        question = question_at(self.recipe, number)
        return completion_row(self.recipe, number, question, completion), question

    def _fits(self, row: Row) -> bool:
        return row.label or not self.desired

    def _example(self, row: Row, question: Question) -> Example:
        chat = build_messages(lit(to_request(question), self.lamp), self.codec, self.style)
        region = question.edit.region(self.recipe.size, question.frames)
        mask = None if region is None else torch.from_numpy(region).float()
        return Example(chat, render(row.trace()), row.label, mask, row.id)


class DatasetRows:
    """Dataset folders, mixed by weight; every row comes once an epoch."""

    def __init__(
        self, sources: Sequence[Source], rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
    ) -> None:
        folders = [
            Folder(Path(str(s.path)), s.weight, s.form, splits=(s.split,), desired=desired) for s in sources
        ]
        self.stream, self.style, self.codec = Stream(folders, rows, seed), style, codec
        self.count: int | None = sum(self.stream.counts)

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        samples = self.stream.batch(step, ranks.rank, ranks.count)
        return [Example(s.chat(self.style, self.codec), s.answer, s.label, s.mask(), s.name) for s in samples]
