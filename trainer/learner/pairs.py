"""What DPO learns from: a desired and an undesired answer to one question, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from evlm.errors import RecordError
from evlm.reason.messages import MAX_FRAMES, PromptStyle
from evlm.records import Row

from ..config.recipe import Source
from ..data.stream import Stream, permuted
from ..model.ranks import Ranks
from .rows import ALONE, DatasetRows, Example, Rows, WorldRows, folders_of, labels_of, trusted

Pair = tuple[int, int]


class PairRows:
    """Pairs, each once an epoch of its source; a batch lists the desired answer of a pair, then the other.

    pairs: source by source, the rows' numbers. place: (source, position in it) of a draw. example: makes one
    of (source, row)."""

    def __init__(
        self,
        pairs: Sequence[Sequence[Pair]],
        place: Callable[[int], tuple[int, int]],
        example: Callable[[int, int], Example],
        rows: int,
        seed: int,
        contents: dict[str, str],
    ) -> None:
        self.pairs, self.place, self.example = pairs, place, example
        self.rows, self.seed, self.contents = rows, seed, contents
        self.count: int | None = sum(map(len, pairs))

    def batch(self, step: int, ranks: Ranks = ALONE) -> list[Example]:
        drawn = ranks.part(range(step * self.rows, (step + 1) * self.rows))
        return [example for number in drawn for example in self._pair(number)]

    def _pair(self, number: int) -> tuple[Example, Example]:
        source, position = self.place(number)
        pairs = self.pairs[source]
        epoch, within = divmod(position, len(pairs))
        desired, other = pairs[permuted(within, len(pairs), f"pairs {self.seed} {source} {epoch}")]
        return self.example(source, desired), self.example(source, other)


def pair_rows(
    sources: Sequence[Source],
    rows: int,
    seed: int,
    style: PromptStyle,
    codec: Any,
    max_frames: int = MAX_FRAMES,
) -> Rows:
    """`rows` pairs a batch, of the world's first rows or of datasets. Raises RecordError where no question of
    a source has answers of both labels."""
    if sources[0].world:
        source = sources[0]
        if not source.rows:
            raise RecordError("dpo pairs answers to one question: set data's rows, the world has no end")
        world = WorldRows(source, rows, seed, False, style, codec, max_frames)
        pairs = pairs_of(labels_of(world.recipe, source.rows))
        _check(pairs, "the world's first rows")
        return PairRows([pairs], lambda n: (0, n), lambda _, row: world.example(row), rows, seed, {})
    folders = folders_of(sources, labelled=True)
    stream = Stream(folders, rows, seed, optional=True)
    data = DatasetRows(stream, style, codec, max_frames, trusted(sources, folders, stream))
    said: list[list[tuple[int, str, bool]]] = [[] for _ in stream.sources]
    for number, row, item in stream.every():
        if isinstance(item, Row):
            said[number].append((row, item.question, item.label))
    found = [pairs_of(each) for each in said]
    for source_of, pairs in zip(stream.sources, found, strict=True):
        _check(pairs, str(source_of.path))

    def example(source: int, row: int) -> Example:
        return data.example(stream.at(source, row))

    return PairRows(found, stream.place, example, rows, seed, stream.contents)


def pairs_of(rows: Iterable[tuple[int, str, bool]]) -> list[Pair]:
    """(desired, undesired) rows of one question, all of them, from (row, question, label)."""
    by_question: dict[str, tuple[list[int], list[int]]] = {}
    for row, question, label in rows:
        by_question.setdefault(question, ([], []))[0 if label else 1].append(row)
    return [(a, b) for yes, no in by_question.values() for a in yes for b in no]


def _check(pairs: Sequence[Pair], where: str) -> None:
    if not pairs:
        raise RecordError(
            f"{where}: no question has a desired and an undesired answer; dpo needs both, and kto takes "
            "single ones"
        )
