"""What a step learns from: questions, answers and labels, as a function of (seed, step) alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from evlm.messages import Chat, PromptStyle, build_messages
from evlm.trace import render

from .config import Source
from .stream import Source as Folder
from .stream import Stream
from .world.light import lit
from .world.rows import UNDESIRED, Recipe, completion_row, place_of, question_at, to_request


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

    def batch(self, step: int) -> list[Example]: ...


def open_rows(
    sources: Sequence[Source], rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
) -> Rows:
    """Batches of `rows` examples; only desired ones, or all. Raises RecordError."""
    if sources[0].world:
        return WorldRows(sources[0], rows, seed, desired, style, codec)
    return DatasetRows(sources, rows, seed, desired, style, codec)


class WorldRows:
    """The procedural world: a fresh row each time, with labels as noisy as its raters are."""

    count: int | None = None

    def __init__(
        self, source: Source, rows: int, seed: int, desired: bool, style: PromptStyle, codec: Any
    ) -> None:
        self.recipe = Recipe(source.seed, source.split, undesired=UNDESIRED)  # type: ignore[arg-type]
        self.rows, self.seed, self.style, self.codec = rows, seed, style, codec
        self.desired, self.lamp = desired, source.lamp

    def batch(self, step: int) -> list[Example]:
        rng = random.Random(f"rows {self.seed} {step}")
        found: list[Example] = []
        while len(found) < self.rows:
            number, completion = place_of(rng.randrange(10**9), self.recipe.undesired)
            question = question_at(self.recipe, number)
            row = completion_row(self.recipe, number, question, completion)
            if self.desired and not row.label:
                continue
            chat = build_messages(lit(to_request(question), self.lamp), self.codec, self.style)
            region = question.edit.region(self.recipe.size, question.frames)
            mask = None if region is None else torch.from_numpy(region).float()
            found.append(Example(chat, render(row.trace()), row.label, mask, row.id))
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
        return [Example(s.chat(self.style, self.codec), s.answer, s.label, s.mask(), s.name) for s in samples]
