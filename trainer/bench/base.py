"""What a benchmark is: items on the disk, where their edited pictures go, what a judge is asked, and the
figures that its numbers make."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evlm.errors import ConfigError
from evlm.files.pictures import write_atomically

from ..evaluation.graded import Ask
from ..protocol.draws import Draws, interval
from ..statistics import Interval

Array = NDArray[np.float64]
Answers = Mapping[str, float]
"""dimension -> number, of those that were given."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Item:
    """One edit that is asked for. id: unique. stratum: which kind, of the benchmark's own. originals: one
    picture or more. more: what else the benchmark says of it."""

    id: str
    stratum: str
    originals: tuple[Path, ...]
    prompt: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One column of a benchmark's table, made of what `Bench.score` calls `value`: of the items of `strata`
    (all where it is empty). how: "items", the mean of all; "strata", the mean of the strata's means;
    "singles", the sum of `value` over the sum of `value` + " count". share: of items, each 0 or 100: where
    all are alike the interval is Wilson's."""

    title: str
    value: str
    strata: tuple[str, ...] = ()
    how: str = "items"
    places: int = 2
    share: bool = False


class Bench(Protocol):
    """One benchmark. as_published: with the known faults of its own script."""

    name: str
    as_published: bool

    def items(self, folder: Path, work: Path) -> list[Item]:
        """work: where pictures are put that lie inside tables. Raises ConfigError, RecordError where the
        folder is none of it."""

    def place(self, model: str, item: Item) -> Path:
        """Where a model's picture goes, in the benchmark's own layout."""

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        """What a judge is asked, under names of its own."""

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        """An item's values; nan where an answer is missing."""

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        """The columns of its table."""


def table_of(
    bench: Bench, items: Sequence[Item], scores: Sequence[Mapping[str, float]], draws: Draws
) -> list[tuple[Figure, Interval]]:
    """The figures of one model with their 95 % intervals, from draws of the items."""
    found = []
    for figure in bench.figures(items):
        here = np.array([not figure.strata or item.stratum in figure.strata for item in items])
        values = np.where(here, column(scores, figure.value), np.nan)
        if figure.how == "singles":
            counts = np.where(here, column(scores, f"{figure.value} count"), 0.0)
            sums = draws.sums(np.stack([np.nan_to_num(values), np.nan_to_num(counts)], 1)).T
            drawn = np.divide(sums[0], sums[1], out=np.full(len(sums[0]), np.nan), where=sums[1] > 0)
        elif figure.how == "strata":
            names = dict.fromkeys(item.stratum for item in items if _counts(item, figure))
            parts = [np.where([item.stratum == name for item in items], values, np.nan) for name in names]
            means = draws.means(np.stack(parts, 1)) if parts else np.full((draws.resamples + 1, 1), np.nan)
            there = ~np.isnan(means)
            drawn = np.divide(
                np.nan_to_num(means).sum(1), there.sum(1), out=np.full(len(means), np.nan), where=there.any(1)
            )
        else:
            drawn = draws.means(values[:, None])[:, 0]
        if figure.share:
            each = interval(drawn / 100, int((~np.isnan(values)).sum()))
            found.append((figure, Interval(*(100 * end for end in each))))
        else:
            found.append((figure, interval(drawn)))
    return found


def column(scores: Sequence[Mapping[str, float]], name: str) -> Array:
    return np.array([each.get(name, math.nan) for each in scores], dtype=np.float64)


def read_json(file: Path) -> Any:
    """Raises ConfigError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({error!s:.100})") from None


def inside_of(folder: Path, name: Any) -> Path:
    """A picture that a benchmark's file names. Raises ConfigError: it leaves the folder, or is not there."""
    from evlm.errors import RecordError
    from evlm.files.safe_paths import inside

    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{folder}: {name!r:.80} names no picture")
    try:
        path = inside(folder, name)
    except RecordError as error:
        raise ConfigError(f"{folder}: {error}") from None
    if not path.is_file():
        raise ConfigError(f"{path}: the benchmark names it, and it is not there")
    return path


def unpacked(value: Any, folder: Path, work: Path) -> Path:
    """A picture of a table's row: where it lies, or where it is put. Raises ConfigError, RecordError."""
    from ..collect.sources.tables import Cell

    if not isinstance(value, Cell):
        return inside_of(folder, value)
    table = sha256(str(value.file.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    path = work / f"{value.file.stem[:60]}-{table}-{value.column}-{value.row:05d}.png"
    if not path.is_file():
        data = value.load()
        write_atomically(path, lambda file: file.write(data), flush=False)
    return path


def _counts(item: Item, figure: Figure) -> bool:
    return not figure.strata or item.stratum in figure.strata
