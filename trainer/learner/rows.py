"""What a step learns from: questions, answers and labels, as a function of (seed, step) alone."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from evlm.errors import RecordError, TraceError
from evlm.plan.form import LEARNED, PARTS, parse_exact, render
from evlm.plan.trace import Plan
from evlm.reason.messages import MAX_FRAMES, Chat, PromptStyle, build_messages, tuned_on
from evlm.records import Row

from ..config.recipe import Config, Phase, Source
from ..data.stats import named_votes
from ..data.stream import Sample, Stream
from ..data.stream import Source as Folder
from ..estimators.dawid_skene import confidence, dawid_skene
from ..model.ranks import Ranks
from ..world.light import lit
from ..world.question import Question
from ..world.rows import UNDESIRED, Recipe, completion_row, place_of, question_at, to_request
from ..world.traces import plan_of

ALONE = Ranks()
Named = tuple[int, str]  # a source of a stream and a row's id: ids are of their source alone


@dataclass(frozen=True)
class Example:
    """A question as the model reads it, an answer, and whether the answer is labelled as a desired one.

    mask: the true mask [H, W] in 0..1, where the row has one. name: the row's id. weight: how far its label
    is to be trusted, 0 to 1. truth: the plan that a verifier knows to be right, where there is one."""

    chat: Chat
    answer: str
    desired: bool
    mask: Tensor | None = None
    name: str = ""
    weight: float = 1.0
    truth: Plan | None = None


class Rows(Protocol):
    """Where examples come from. count: rows that there are; None where they have no end. contents: a hash of
    each file that they lie in, by its path."""

    count: int | None
    contents: dict[str, str]

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        """A step's examples; of several ranks each gets its piece, and only that is read."""


def rows_for(
    config: Config, phase: Phase, style: PromptStyle, codec: Any, max_frames: int = MAX_FRAMES
) -> Rows:
    """What a phase learns from: sft and group from desired rows and those without a label, rkto from desired
    rows alone unless it pushes others away, kto from all that have a label, dpo from pairs; group against the
    truth from the world's questions, whatever was answered. Raises RecordError."""
    if phase.kind == "dpo":
        from .pairs import pair_rows

        return pair_rows(config.data, phase.batch, config.seed, style, codec, max_frames)
    desired = phase.kind in ("sft", "group") or (phase.kind == "rkto" and not phase.rkto.lambda_u)
    labelled = phase.kind in ("kto", "rkto")
    prompts = phase.kind == "group" and phase.group.against == "truth"
    return open_rows(
        config.data,
        phase.batch,
        config.seed,
        desired,
        style,
        codec,
        labelled,
        max_frames=max_frames,
        prompts=prompts,
        mixed=config.parts == "mixed",
    )


def open_rows(
    sources: Sequence[Source],
    rows: int,
    seed: int,
    desired: bool,
    style: PromptStyle,
    codec: Any,
    labelled: bool = False,
    held: bool = False,
    max_frames: int = MAX_FRAMES,
    prompts: bool = False,
    mixed: bool = False,
) -> WorldRows | DatasetRows:
    """Batches of examples.

    sources: the world alone, or datasets.
    rows: examples of a batch.
    seed: of their order.
    desired: only desired ones, or all.
    style, codec: how a request is put into words, and its mask.
    labelled: only rows that say whether they are desired; sources without one are then left out.
    held: those that are held out of their sources, or the others.
    max_frames: of a video, as the model's evlm.json says.
    prompts: of the world, each question once, with the plan that is right.
    mixed: each row in any of the forms of LEARNED.
    Raises RecordError.
    """
    if sources[0].world:
        return WorldRows(sources[0], rows, seed, desired, style, codec, max_frames, prompts, mixed)
    folders = folders_of(sources, desired, labelled, held)
    stream = Stream(folders, rows, seed, optional=labelled or held)
    trust = {} if held else trusted(sources, folders, stream)  # what is measured counts alike
    return DatasetRows(stream, style, codec, max_frames, trust, mixed)


def folders_of(
    sources: Sequence[Source], desired: bool = False, labelled: bool = False, held: bool = False
) -> list[Folder]:
    """Datasets as a stream reads them."""
    return [
        Folder(
            Path(str(source.path)),
            source.weight,
            source.form,
            splits=(source.split,),
            desired=desired,
            labelled=labelled,
            heldout=source.heldout,
            held=held and bool(source.heldout),
        )
        for source in sources
    ]


class WorldRows:
    """The procedural world, with labels as noisy as its raters are: a fresh row each time, or the first
    `source.rows` of the world's rows, each once an epoch."""

    def __init__(
        self,
        source: Source,
        rows: int,
        seed: int,
        desired: bool,
        style: PromptStyle,
        codec: Any,
        max_frames: int = MAX_FRAMES,
        prompts: bool = False,
        mixed: bool = False,
    ) -> None:
        self.recipe = Recipe(source.seed, source.split, undesired=UNDESIRED, mix=source.mix)  # type: ignore[arg-type]
        self.rows, self.seed, self.codec, self.styles = rows, seed, codec, forms(style, mixed)
        self.desired, self.lamp, self.max_frames = desired and not prompts, source.lamp, max_frames
        self.prompts = prompts
        self.numbers: Sequence[int] = range(source.rows)
        if prompts:
            self.numbers = [n for n in self.numbers if not place_of(n, UNDESIRED)[1]]
        elif desired:
            self.numbers = _desired(self.recipe, source.rows)
        self.trust = _trust(self.recipe, source.rows) if source.trust == "raters" else {}
        if source.rows and not self.numbers:
            raise RecordError(
                f"rows {source.rows}: none of the world's first rows is a desired one; take more"
            )
        self.count: int | None = len(self.numbers) if source.rows else None
        self.contents: dict[str, str] = {}
        self._order: tuple[int, Sequence[int]] = (-1, ())

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        return [self._example(row, question, step) for row, question in ranks.part(self._drawn(step))]

    def first(self) -> list[Example]:
        """A batch of different rows, fewer where there are no more."""
        return [self._example(row, question) for row, question in self._drawn(0)[: self.count]]

    def _drawn(self, step: int) -> list[tuple[Row, Question]]:
        return self._epochs(step) if self.numbers else self._fresh(step)

    def _fresh(self, step: int) -> list[tuple[Row, Question]]:
        rng = random.Random(f"rows {self.seed} {step}")
        drawn: list[tuple[Row, Question]] = []
        while len(drawn) < self.rows:
            row, question = _world_row(self.recipe, rng.randrange(10**9))
            if row.label or not self.desired:
                drawn.append((row, question))
        return drawn

    def _epochs(self, step: int) -> list[tuple[Row, Question]]:
        drawn = []
        for at in range(step * self.rows, (step + 1) * self.rows):
            epoch, position = divmod(at, len(self.numbers))
            if epoch != self._order[0]:  # kept: of many rows it takes long
                order = random.Random(f"order {self.seed} {epoch}").sample(self.numbers, len(self.numbers))
                self._order = epoch, order
            drawn.append(_world_row(self.recipe, self._order[1][position]))
        return drawn

    def _example(self, row: Row, question: Question, step: int = 0) -> Example:
        style = form_of(self.styles, step, row.id)
        chat = build_messages(lit(to_request(question), self.lamp), self.codec, style, self.max_frames)
        region = question.edit.region(self.recipe.size, question.frames)
        mask = None if region is None else torch.from_numpy(region).float()
        truth = plan_of(question.edit, question.frames, self.recipe.size) if self.prompts else None
        answer = learned(row.completion, style.parts)
        return Example(chat, answer, row.label, mask, row.id, self.trust.get(row.id, 1.0), truth)

    def example(self, index: int) -> Example:
        """A row of the world."""
        return self._example(*_world_row(self.recipe, index))


def _world_row(recipe: Recipe, index: int) -> tuple[Row, Question]:
    number, completion = place_of(index, recipe.undesired)
    question = question_at(recipe, number)
    return completion_row(recipe, number, question, completion), question


@lru_cache(maxsize=16)
def _desired(recipe: Recipe, count: int) -> tuple[int, ...]:
    """Which of a world's first rows are desired ones. Kept: every phase and cycle asks, and a row has to be
    made to say its label."""
    return tuple(n for n in range(count) if _world_row(recipe, n)[0].label)


def labels_of(recipe: Recipe, count: int) -> list[tuple[int, str, bool]]:
    """(row, question, label) of a world's first rows."""
    rows = (_world_row(recipe, n)[0] for n in range(count))
    return [(number, row.question, row.label) for number, row in enumerate(rows)]


@lru_cache(maxsize=16)
def _trust(recipe: Recipe, count: int) -> dict[str, float]:
    """How far each of a world's first rows is to be trusted, by its id."""
    return weights_of([_world_row(recipe, n)[0] for n in range(count)], "the world's first rows")


def trusted(sources: Sequence[Source], folders: Sequence[Folder], stream: Stream) -> dict[Named, float]:
    """Likewise of datasets whose raters are asked, by the source's number in the stream and the row's id;
    rows of others are not in it. folders: the sources as the stream was given them, which left out those
    without rows. Raises RecordError."""
    known: dict[Named, float] = {}
    for number, folder in enumerate(stream.sources):
        source = next(s for s, each in zip(sources, folders, strict=True) if each is folder)
        if source.trust == "raters":
            rows = [row for _, _, row in Stream(folders_of([source]), 1).every() if isinstance(row, Row)]
            weights = weights_of(rows, str(source.path))
            known |= {(number, name): weight for name, weight in weights.items()}
    return known


def weights_of(rows: Sequence[Row], source: str) -> dict[str, float]:
    """How far each row's label is to be trusted, by its id, from all their votes; a row without one is not in
    it: nobody doubted it. source: where they are from. Raises RecordError where nobody voted, or a row does
    not say who did."""
    everyone: dict[str, int] = {}
    votes = []
    rows = [row for row in rows if row.raters]
    if not rows:
        raise RecordError(f"{source}: trust 'raters' needs votes, and no row has one; leave out data's trust")
    for row in rows:
        said = _by_rater(row, source)
        for name in said:
            everyone.setdefault(name, len(everyone))
        votes.append(said)
    table = [[said.get(name) for name in everyone] for said in votes]
    found = dawid_skene(table)
    return {row.id: confidence(p, row.label) for row, p in zip(rows, found.desired, strict=True)}


def _by_rater(row: Row, source: str) -> dict[str, bool]:
    """A row's votes by who gave them. Raises RecordError where it does not say so."""
    named = named_votes(row)
    if "votes" not in row.meta and row.source in ("world", "whatif"):  # whose r-th rater is always the same
        return {f"number {at}": vote for at, (_, vote) in enumerate(named)}
    said = {name: vote for name, vote in named if name is not None}
    if len(said) < len(named):
        raise RecordError(
            f"{source}: row {row.id!r:.80}: trust 'raters' has to know who voted, and its meta.votes does "
            'not say it; expected {"rater": a name, "yes": true or false} of each vote in raters, in their '
            "order, each rater once (data rated writes them), or leave out data's trust"
        )
    return said


class DatasetRows:
    """Dataset folders, mixed by weight; every row comes once an epoch. trust: how far rows are to be trusted,
    by their source's number and their ids; 1 where it says nothing."""

    def __init__(
        self,
        stream: Stream,
        style: PromptStyle,
        codec: Any,
        max_frames: int = MAX_FRAMES,
        trust: Mapping[Named, float] | None = None,
        mixed: bool = False,
    ) -> None:
        self.stream, self.codec, self.max_frames = stream, codec, max_frames
        self.styles = forms(style, mixed)
        self.count: int | None = sum(stream.counts)
        self.contents, self.trust = stream.contents, trust or {}

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        return [self.example(each, step) for each in self.stream.batch(step, ranks.rank, ranks.count)]

    def first(self) -> list[Example]:
        """A batch of different rows, fewer where there are no more."""
        return [self.example(each) for each in self.stream.first()]

    def example(self, sample: Sample, step: int = 0) -> Example:
        style = form_of(self.styles, step, sample.name)
        chat = sample.chat(style, self.codec, self.max_frames)
        answer = learned(sample.answer, style.parts)
        trust = self.trust.get((sample.source, sample.name), 1.0)
        return Example(chat, answer, sample.label, sample.mask(), sample.name, trust)


def forms(style: PromptStyle, mixed: bool) -> list[PromptStyle]:
    """Those in which rows are learned."""
    return [tuned_on(style, parts) for parts in LEARNED] if mixed else [style]


def form_of(styles: Sequence[PromptStyle], step: int, name: str) -> PromptStyle:
    """Which of several a row has in a step; the same for every rank."""
    return styles[zlib.crc32(f"{step} {name}".encode("utf-8", "surrogatepass")) % len(styles)]


def learned(answer: str, parts: Sequence[str]) -> str:
    """What of an answer is learned: these parts of its trace. One that is no trace stays as it is."""
    if tuple(parts) == PARTS:
        return answer
    try:
        return render(parse_exact(answer), parts)
    except TraceError:
        return answer
