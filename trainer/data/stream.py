"""Rows for training, mixed from several datasets, in an order that is a function of (seed, step) alone.

Nothing is remembered between steps, so a cursor is a number: batch `step` of a stream is the same whether
the training ran up to it or was resumed there. Of each row only its offset and checksum are held in memory.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any
from zlib import crc32

from torch import Tensor

from evlm.errors import EVLMError, RecordError
from evlm.files.safe_paths import Inside
from evlm.plan.mask_codec import BoxSpans
from evlm.reason.messages import FULL, MAX_FRAMES, Chat, PromptStyle, build_messages
from evlm.records import Row, row_problems
from trainer.data.conversation import Conversation, from_row, placed
from trainer.data.convert import source_file
from trainer.data.files import from_parquet, parse, read_lines, unchecked_row, unicode_problems
from trainer.data.formats import FORMATS, Layout
from trainer.data.heldout import held_out, question_key


@dataclass(frozen=True)
class Source:
    """A dataset and its part of the mixture.

    path: folder, or .jsonl, .json or .parquet file. weight: its share of all draws, beside the other sources'
        weights. form: "evlm", or a foreign format: other instruction data, whose
        answers need not be traces. splits: the rows' splits to take, all where it is empty; foreign rows have
        none. desired: take desired rows alone; labelled: those that say whether they are. media: folder of a
        foreign dataset's pictures, its own where it is None. heldout: share of its questions that is held
        out; held: take those, and not the others.
    """

    path: Path
    weight: float = 1.0
    form: str = "evlm"
    splits: tuple[str, ...] = ()
    desired: bool = False
    media: Path | None = None
    labelled: bool = False
    heldout: float = 0.0
    held: bool = False


@dataclass(frozen=True)
class Sample:
    """What is drawn: a row or a foreign conversation, the folder of its pictures, its source's number, and
    how often the source was gone through before."""

    item: Row | Conversation
    folder: Path
    source: int
    epoch: int

    @property
    def label(self) -> bool:
        return self.item.label

    @property
    def answer(self) -> str:
        """What is learned: the trace in its exact form, or the plain answer."""
        return self.item.completion if isinstance(self.item, Row) else self.item.answer

    def chat(
        self, style: PromptStyle = FULL, codec: BoxSpans | None = None, max_frames: int = MAX_FRAMES
    ) -> Chat:
        """The question with its pictures, read now; of a video at most so many frames. Raises RecordError,
        PictureError, RequestError."""
        if isinstance(self.item, Row) and self.item.answer is None:
            return build_messages(self.item.request(self.folder), codec, style, max_frames)
        item = from_row(self.item) if isinstance(self.item, Row) else self.item
        return item.chat(self.folder, max_frames)

    @property
    def name(self) -> str:
        """The row's id; a foreign row has none."""
        return self.item.id if isinstance(self.item, Row) else ""

    def mask(self) -> Tensor | None:
        """The true mask [H, W] in 0..1; None where the row has none. Raises RecordError, PictureError."""
        mask = self.item.true_mask(self.folder) if isinstance(self.item, Row) else None
        return None if mask is None else mask[0]


class Stream:
    """Batches of `batch` samples over all ranks.

    Each source is gone through in an order of its own, anew in each of its epochs, every row once; of any n
    draws in a row a source gets its share to within two.

    optional: leave out sources without rows that fit, while there is one that has some.
    Raises RecordError naming the line and every reason where a row is bad (none is skipped silently), and
    where a source has no rows that fit.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        batch: int,
        seed: int = 0,
        check_files: bool = True,
        optional: bool = False,
    ) -> None:
        if not sources or batch < 1:
            raise RecordError(f"{len(sources)} sources, batches of {batch}: expected at least one of each")
        for source in sources:
            if not 0 < source.weight < float("inf"):
                raise RecordError(f"{source.path}: weight {source.weight!r}, expected a number above 0")
        self.batch_size, self.seed = batch, seed
        indices = [_Index(source, check_files) for source in sources]
        fitting = [index for index in indices if len(index)]
        if not fitting or (len(fitting) < len(indices) and not optional):
            raise RecordError(next(index.nothing for index in indices if not len(index)))
        self._indices = fitting
        self.sources = tuple(index.source for index in fitting)
        self._shares = _nested_shares([source.weight for source in self.sources])

    @property
    def counts(self) -> list[int]:
        """Rows of each source that fit."""
        return [len(index) for index in self._indices]

    @property
    def contents(self) -> dict[str, str]:
        """A hash of all rows in each source's file, also those that do not fit."""
        return {str(source.path): i.contents for source, i in zip(self.sources, self._indices, strict=True)}

    @property
    def fingerprint(self) -> str:
        """Another one where a resumed training would not see the same rows in the same batches."""
        parts = [
            f"{self.seed} {self.batch_size}",
            *(f"{s.weight} {i.hash}" for s, i in zip(self.sources, self._indices, strict=True)),
        ]
        return blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> list[Sample]:
        """The samples of one step; of several ranks each gets its piece. Raises RecordError."""
        if step < 0 or not 0 <= rank < ranks:
            raise RecordError(
                f"step {step}, rank {rank} of {ranks}: expected a step from 0, a rank below ranks"
            )
        first, size = step * self.batch_size, self.batch_size
        return [self.draw(first + at) for at in range(size * rank // ranks, size * (rank + 1) // ranks)]

    def batches(self, start: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[list[Sample]]:
        """Batches from step `start` on, without an end."""
        while True:
            yield self.batch(start, rank, ranks)
            start += 1

    def draw(self, number: int) -> Sample:
        """Sample `number` of the stream."""
        return self._sample(*self.place(number))

    def _sample(self, source: int, position: int) -> Sample:
        index = self._indices[source]
        epoch, within = divmod(position, len(index))
        row = permuted(within, len(index), f"{self.seed} {source} {epoch}")
        return Sample(index.read(row), index.folder, source, epoch)

    def first(self) -> list[Sample]:
        """A batch of different rows, fewer where there are no more: those drawn first, and where a source is
        drawn from again before the others are through, theirs in place of what it had already."""
        places = [self.place(number) for number in range(self.batch_size)]
        drawn = [(source, at) for source, at in places if at < self.counts[source]]
        taken = set(drawn)
        left = (
            (source, at)
            for at in range(max(self.counts))
            for source, count in enumerate(self.counts)
            if at < count and (source, at) not in taken
        )
        drawn += islice(left, self.batch_size - len(drawn))
        return [self._sample(source, at) for source, at in drawn]

    def every(self) -> Iterator[tuple[int, int, Row | Conversation]]:
        """(source, row, what it says) of all that fit, source after source."""
        for source, index in enumerate(self._indices):
            for row in range(len(index)):
                yield source, row, index.read(row)

    def at(self, source: int, row: int) -> Sample:
        """A row that fits. Raises RecordError."""
        index = self._indices[source]
        return Sample(index.read(row), index.folder, source, 0)

    def place(self, number: int) -> tuple[int, int]:
        """(source, position in it) of a draw."""
        for source, share in enumerate(self._shares):
            before, after = int(number * share), int((number + 1) * share)
            if after > before:
                return source, before
            number -= before
        raise AssertionError("the last source takes all that are left")


def permuted(position: int, count: int, key: str) -> int:
    """Where a permutation of 0 ... count - 1, named by its key, takes a position; nothing is stored.

    A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002).
    """
    if not 0 <= position < count:
        raise RecordError(f"position {position}: expected 0 to {count - 1}")
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask, name = (1 << half) - 1, blake2b(key.encode(), digest_size=16).digest()
    while True:
        left, right = position >> half, position & mask
        for turn in range(6):
            mixed = blake2b(right.to_bytes(8, "little") + bytes([turn]), key=name, digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(mixed, "little") & mask)
        position = left << half | right
        if position < count:
            return position


class _Index:
    """Where the rows of a source lie in its file that fit; all of it is checked on the way."""

    def __init__(self, source: Source, check_files: bool) -> None:
        if source.form != "evlm" and source.form not in FORMATS:
            raise RecordError(f"form {source.form!r}: expected one of evlm, {', '.join(FORMATS)}")
        self.source, self.file = source, source_file(Path(source.path), source.form)
        self.folder = self.file.parent if source.media is None else Path(source.media)
        self._inside = Inside(self.folder)
        self._layout = Layout() if source.form == "evlm" else FORMATS[source.form].layout(self.file)
        self._offsets, self._sums = array("Q"), array("L")
        content, every, seen = blake2b(digest_size=16), blake2b(digest_size=16), set[str]()
        keys = array("Q")  # the questions of the split, and of the rows that fit
        fitting_keys = array("Q")
        self._lines = None if self.file.suffix == ".jsonl" else _as_lines(self.file, source.form)
        with self._open() as lines:
            offset = 0
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        item = self._parse(line, check_files)
                        if isinstance(item, Row):
                            if item.id in seen:
                                raise RecordError(f"id {item.id!r:.80} comes twice")
                            seen.add(item.id)
                    except EVLMError as error:
                        raise RecordError(f"{self.file}, line {number}: {error}") from None
                    every.update(line.strip() + b"\n")
                    if source.heldout and self._of_split(item):
                        keys.append(question_key(item))
                    if self._fits(item):
                        self._offsets.append(offset)
                        self._sums.append(crc32(line.strip()))
                        content.update(line.strip())
                        if source.heldout:
                            fitting_keys.append(keys[-1])
                offset += len(line)
        self.contents = every.hexdigest()
        if source.heldout:
            self._hold_out(held_out(keys, source.heldout), fitting_keys)
            content.update(f"{source.heldout} {source.held}".encode())
        self.hash = content.hexdigest()

    @property
    def nothing(self) -> str:
        """That no row fits, in words."""
        source = self.source
        wanted = [f"splits {', '.join(source.splits) or 'any'}"]
        wanted += ["desired only"] * source.desired + ["with a label"] * source.labelled
        wanted += [f"of the {source.heldout:g} held out"] * source.held
        return f"{self.file}: no row fits ({', '.join(wanted)})"

    def _hold_out(self, questions: set[int], keys: array[int]) -> None:
        kept = [n for n, key in enumerate(keys) if (key in questions) == self.source.held]
        self._offsets = array("Q", [self._offsets[n] for n in kept])
        self._sums = array("L", [self._sums[n] for n in kept])

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, row: int) -> Row | Conversation:
        """Row number `row` of those that fit. Raises RecordError where the file was changed meanwhile."""
        with self._open() as file:
            file.seek(self._offsets[row])
            line = file.readline().strip()
        if crc32(line) != self._sums[row]:
            raise RecordError(f"{self.file} was changed since it was opened; only adding to it is fine")
        return self._parse(line, check_files=False)

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """The rows as lines, from the beginning."""
        if self._lines is not None:
            self._lines.seek(0)
            yield self._lines
        else:
            with open(self.file, "rb") as file:
                yield file

    def _fits(self, item: Row | Conversation) -> bool:
        labelled = not self.source.labelled or isinstance(item, Row) or item.labelled
        return self._of_split(item) and labelled and (item.label or not self.source.desired)

    def _of_split(self, item: Row | Conversation) -> bool:
        splits = self.source.splits
        return not splits or not isinstance(item, Row) or item.split in splits

    def _parse(self, line: bytes, check_files: bool) -> Row | Conversation:
        data = parse(line)
        if self.file.suffix == ".parquet":
            data = _with_bytes(data)
        if self.source.form == "evlm":
            problems = row_problems(data, self._inside, check_files) or unicode_problems(data)
            if problems:
                raise RecordError("; ".join(problems))
            return unchecked_row(data)
        conversation = FORMATS[self.source.form].read(data, self._layout)
        return placed(conversation, self.folder, self._inside if check_files else None)


def _as_lines(file: Path, form: str) -> IO[bytes]:
    """The rows of a .json or .parquet file as JSON lines, in a file that goes when it is closed: a line can
    be gone to, and a row of those cannot. Line n is row n. Raises RecordError."""
    lines = tempfile.TemporaryFile(prefix="evlm-rows-")  # noqa: SIM115 (it lives as long as the index)
    for number, data in read_lines(file):
        if isinstance(data, RecordError):
            raise RecordError(f"{file}, row {number}: {data}")
        if file.suffix == ".parquet" and form == "evlm":
            data = from_parquet(data)
        try:
            lines.write(json.dumps(data, default=_base64).encode() + b"\n")
        except (TypeError, ValueError, RecursionError) as error:
            lines.close()
            raise RecordError(f"{file}, row {number}: cannot be written as JSON ({error!s:.100})") from None
        except OSError as error:
            lines.close()
            raise RecordError(
                f"{file}: its rows do not fit into a temporary file ({error}); free some disk, or set TMPDIR"
            ) from None
    return lines


_BYTES = "base64 bytes"  # the name under which a picture inside a parquet file stands among its lines


def _base64(value: Any) -> dict[str, str]:
    if not isinstance(value, bytes):
        raise TypeError(f"a value of type {type(value).__name__}")
    return {_BYTES: b64encode(value).decode()}


def _with_bytes(data: Any) -> Any:
    """A line of `_as_lines` as the row was."""
    if isinstance(data, dict):
        if set(data) == {_BYTES}:
            return b64decode(data[_BYTES])
        return {name: _with_bytes(value) for name, value in data.items()}
    return [_with_bytes(each) for each in data] if isinstance(data, list) else data


def _nested_shares(weights: Sequence[float]) -> list[Fraction]:
    """Each source's share of what those before it leave, exact; the last one takes the rest."""
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact[at:]) for at, weight in enumerate(exact)]
