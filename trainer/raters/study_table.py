"""What a user study found (EVLM, Table 14): means, differences, and how sure they are.

Ratings of one person are alike, and so are those of one item: the intervals are of the two-way cluster
variance (Cameron, Gelbach and Miller 2011), by Student's t with the fewer of people and items, less one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evlm.errors import ConfigError

from ..statistics import LEVEL, Interval, krippendorff_alpha


class Rating(NamedTuple):
    """One value, 1 to 5, of one person about one item by one method."""

    person: str
    item: str
    task: str
    method: str
    value: int


def two_way(shares: Sequence[float], people: Sequence[str], items: Sequence[str]) -> float:
    """Half of the interval's width for a sum of shares (what each rating adds to an estimate's error, of mean
    0): nan where there are not two people and two items."""
    from scipy.stats import t

    whole = np.asarray(shares, dtype=np.float64)
    kinds = [people, items, [f"{one}\n{other}" for one, other in zip(people, items, strict=True)]]
    variances, counts = [], []
    for names in kinds:
        numbers = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1]
        sums = np.bincount(numbers, weights=whole)
        counts.append(len(sums))
        variances.append(float((sums**2).sum()) * len(sums) / max(1, len(sums) - 1))
    fewest = min(counts[:2])
    if fewest < 2:
        return math.nan
    variance = variances[0] + variances[1] - variances[2]
    variance = max(variance, 0.0) or max(variances[:2])  # in small studies the difference can be below 0
    return float(t.ppf(0.5 + LEVEL / 2, fewest - 1)) * math.sqrt(variance)


def mean(ratings: Sequence[Rating]) -> Interval:
    """Of one method's ratings. Raises ConfigError where there are none."""
    if not ratings:
        raise ConfigError("no rating: nothing to take the mean of")
    values = [rating.value for rating in ratings]
    middle = sum(values) / len(values)
    half = two_way([(value - middle) / len(values) for value in values],
                   [rating.person for rating in ratings], [rating.item for rating in ratings])  # fmt: skip
    return Interval(middle, middle - half, middle + half)


def difference(first: Sequence[Rating], second: Sequence[Rating]) -> Interval:
    """How much better the first method is: over the pairs of ratings where one person saw an item by both,
    else of the two means. Raises ConfigError where one has no ratings."""
    others = {(rating.person, rating.item): rating.value for rating in second}
    pairs = [(each, each.value - others[each.person, each.item]) for each in first
             if (each.person, each.item) in others]  # fmt: skip
    if len(pairs) == len(first) == len(second) and pairs:
        middle = sum(value for _, value in pairs) / len(pairs)
        shares = [(value - middle) / len(pairs) for _, value in pairs]
        rated = [each for each, _ in pairs]
    else:
        one, other = mean(first).mean, mean(second).mean
        middle = one - other
        shares = [(each.value - one) / len(first) for each in first]
        shares += [-(each.value - other) / len(second) for each in second]
        rated = [*first, *second]
    half = two_way(shares, [each.person for each in rated], [each.item for each in rated])
    return Interval(middle, middle - half, middle + half)


def table(ratings: Sequence[Rating], methods: Sequence[str]) -> str:
    """Table 14 as Markdown."""
    head, rows = cells(ratings, methods)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def cells(ratings: Sequence[Rating], methods: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Table 14, its head and its rows: a line a task and one for all."""
    tasks = sorted({rating.task for rating in ratings})
    pairs = [(methods[0], other) for other in methods[1:]]
    head = ["task", "ratings", "people", *methods, *(f"{one} - {other}" for one, other in pairs), "alpha"]
    lines = []
    for task in [*tasks, *(["all"] if len(tasks) > 1 else [])]:
        chosen = [rating for rating in ratings if task in (rating.task, "all")]
        by = {name: [rating for rating in chosen if rating.method == name] for name in methods}
        units: dict[tuple[str, str], list[float]] = defaultdict(list)
        for rating in chosen:
            units[rating.item, rating.method].append(rating.value)
        alpha = krippendorff_alpha(units.values(), "ordinal")
        lines.append([
            task, f"{len(chosen):,}", f"{len({rating.person for rating in chosen}):,}",
            *(_shown(mean(by[name])) if by[name] else "" for name in methods),
            *(_shown(difference(by[a], by[b])) if by[a] and by[b] else "" for a, b in pairs),
            "" if alpha is None else f"{alpha:.2f}",
        ])  # fmt: skip
    return head, lines


def _shown(found: Interval) -> str:
    half = found.high - found.mean
    return f"{found.mean:.2f}" + ("" if math.isnan(half) else f" +- {half:.2f}")
