"""What a step learns from: questions, answers and labels, as a function of (seed, step) alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evlm.messages import Chat, PromptStyle, build_messages
from evlm.trace import render

from .config import Source
from .stream import Source as Folder
from .stream import Stream
from .world.rows import UNDESIRED, Recipe, completion_row, place_of, question_at, to_request


@dataclass(frozen=True)
class Example:
    """A question as the model reads it, an answer, and whether the answer is a desired one."""

    chat: Chat
    answer: str
    desired: bool


class Rows(Protocol):
    """Where examples come from. count: rows that there are; None where they have no end."""

    count: int | None

    def batch(self, step: int) -> list[Example]: ...


def open_rows(
    sources: Sequence[Source], rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
) -> Rows:
    """Batches of `rows` examples; only desired ones, or all. Raises RecordError."""
    if sources[0].world:
        return WorldRows(sources[0], rows, seed, desired, style, codec)
    return DatasetRows(sources, rows, seed, desired, style, codec)


class WorldRows:
    """The procedural world: a fresh row each time."""

    count: int | None = None

    def __init__(
        self, source: Source, rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
    ) -> None:
        self.recipe = Recipe(source.seed, source.split, undesired=0.0 if desired else UNDESIRED)  # type: ignore[arg-type]
        self.rows, self.seed, self.style, self.codec = rows, seed, style, codec

    def batch(self, step: int) -> list[Example]:
        rng = random.Random(f"rows {self.seed} {step}")
        found = []
        for _ in range(self.rows):
            number, completion = place_of(rng.randrange(10**9), self.recipe.undesired)
            question = question_at(self.recipe, number)
            row = completion_row(self.recipe, number, question, completion)
            chat = build_messages(to_request(question), self.codec, self.style)
            found.append(Example(chat, render(row.trace()), row.label))
        return found


class DatasetRows:
    """Dataset folders, mixed by weight; every row comes once an epoch."""

    def __init__(
        self, sources: Sequence[Source], rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
    ) -> None:
        folders = [Folder(Path(str(s.path)), s.weight, splits=(s.split,), desired=desired) for s in sources]
        self.stream, self.style, self.codec = Stream(folders, rows, seed), style, codec
        self.count: int | None = sum(self.stream.counts)

    def batch(self, step: int) -> list[Example]:
        samples = self.stream.batch(step)
        return [Example(s.chat(self.style, self.codec), s.answer, s.label) for s in samples]
