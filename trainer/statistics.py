"""How sure a number is, and how far raters agree: by scipy, scikit-learn and statsmodels, imported when used.

`interval` is the mean with its bootstrap interval; `paired` that of the difference between two evaluations of
the same questions; `agreement` kappas, percent agreement and Krippendorff's alpha of yes-or-no votes, by
counting; `cohen_kappa` and `fleiss_kappa` are scikit-learn's and statsmodels'.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from typing import Any, NamedTuple

from evlm.errors import ConfigError

RESAMPLES = 10_000
LEVEL = 0.95
_BATCH = 250  # resamples at once: so few stay in the cache, which is eight times faster than all


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval, which are nan where there is a single question."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def interval(
    values: Sequence[float], keys: Sequence[str] | None = None, seed: int = 0, share: bool = False
) -> Interval:
    """The mean of values with a percentile bootstrap interval of 10,000 resamples (scipy.stats.bootstrap).

    keys: the question that each value belongs to, where a question has several (runs with different seeds):
        they are averaged first, because answers to one question are no independent observations.
    share: whether the values are answers to yes or no (1 or 0), whose mean is a share. Where all are alike a
        resample is too, and would say that nothing is uncertain; then it is Wilson's interval.
    Percentile rather than BCa: the values are mostly 0 and 1 and their mean hardly skewed, BCa's ends then
    differ by a fraction of a point, and it has none where all values are equal (all right, all well formed).
    Raises ConfigError where there are no values, or not as many keys.
    """
    import numpy as np
    from scipy.stats import binomtest, bootstrap

    keys = [str(at) for at in range(len(values))] if keys is None else keys
    if not values or len(keys) != len(values):
        raise ConfigError(f"{len(values)} values of {len(keys)} questions: expected one each, at least one")
    if not all(math.isfinite(value) for value in values):
        raise ConfigError("values that are not finite numbers have no mean")
    data = _means(values, keys)
    sample = np.asarray(data, dtype=np.float64)
    mean = float(sample.mean())
    if len(data) == 1:
        return Interval(mean, math.nan, math.nan)
    if share and set(data) in ({0.0}, {1.0}):
        wilson = binomtest(round(sum(data)), len(data)).proportion_ci(LEVEL, "wilson")
        return Interval(mean, float(wilson.low), float(wilson.high))
    result = bootstrap(
        (sample,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(result.low), float(result.high))


def paired(
    first: Sequence[float], second: Sequence[float], keys: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Mean of first - second, value by value, with its interval; as `interval` otherwise.

    Both come from the same questions in the same order, so that what makes a question hard cancels out: the
    interval is narrower than the two means' own ones suggest. Raises ConfigError.
    """
    if len(first) != len(second):
        raise ConfigError(f"{len(first)} and {len(second)} values: expected pairs")
    return interval([a - b for a, b in zip(first, second, strict=True)], keys, seed)


@dataclass(frozen=True)
class Agreement:
    """How far raters agree who are known by name.

    items: with two votes or more. percent: share of equal pairs of votes on an item. alpha: Krippendorff's,
    over all items. fleiss: of the `complete` items, which have `raters` votes each. cohen: (first, second) ->
    (kappa on the items that both voted on, their number). None where a kappa is not defined.
    """

    items: int
    raters: int
    complete: int
    percent: float
    alpha: float | None
    fleiss: float | None
    cohen: dict[tuple[str, str], tuple[float | None, int]]


def agreement(votes: Iterable[Sequence[tuple[str | None, bool]]]) -> Agreement | None:
    """votes: of each item (rater, vote), rater None where nobody says who it was, which then is in no pair.
    Not everybody votes on every item. None where no item has two votes.
    Kappas by plain counting, so that a page may ask for them every few seconds."""
    items = [each for each in votes if len(each) > 1]
    if not items:
        return None
    counts = [(sum(vote for _, vote in each), len(each)) for each in items]
    pairs = sum(n * (n - 1) // 2 for _, n in counts)
    equal = sum(yes * (yes - 1) // 2 + (n - yes) * (n - yes - 1) // 2 for yes, n in counts)
    sizes = Counter(n for _, n in counts)
    raters = max(sizes, key=lambda size: (sizes[size], size))
    table: dict[tuple[str, str], Counter[tuple[bool, bool]]] = {}
    for each in items:
        known = sorted((name, bool(vote)) for name, vote in each if name is not None)
        for (first, a), (second, b) in combinations(known, 2):
            table.setdefault((first, second), Counter())[a, b] += 1
    return Agreement(
        len(items),
        raters,
        sizes[raters],
        equal / pairs,
        krippendorff_alpha([[float(vote) for _, vote in each] for each in items]),
        _fleiss_of_counts([yes for yes, n in counts if n == raters], raters),
        {pair: (_cohen_of_counts(seen), seen.total()) for pair, seen in sorted(table.items())},
    )


def krippendorff_alpha(units: Iterable[Sequence[float]], level: str = "nominal") -> float | None:
    """Krippendorff's alpha: 1 - observed over expected disagreement, for any number of values a unit.

    units: the values that each unit was given, missing ones left out; units with fewer than two say nothing.
    level: nominal, ordinal or interval. None where no unit has two values, or all values are the same.
    After K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011). Raises ConfigError.
    """
    import numpy as np

    pairable = [list(unit) for unit in units if len(unit) > 1]
    values = sorted({value for unit in pairable for value in unit})
    if level not in ("nominal", "ordinal", "interval"):
        raise ConfigError(f"level {level!r}: expected nominal, ordinal or interval")
    if len(values) < 2:
        return None
    place = {value: at for at, value in enumerate(values)}
    coincidence = np.zeros((len(values), len(values)))
    for unit in pairable:
        count = np.bincount([place[value] for value in unit], minlength=len(values)).astype(float)
        coincidence += (np.outer(count, count) - np.diag(count)) / (len(unit) - 1)
    total = coincidence.sum(0)
    if level == "nominal":
        distance = 1 - np.eye(len(values))
    elif level == "interval":
        distance = np.subtract.outer(np.array(values), np.array(values)) ** 2
    else:  # everything between two ranks, half of the ranks themselves
        middle = total.cumsum() - total / 2
        distance = np.subtract.outer(middle, middle) ** 2
    expected = float((np.outer(total, total) * distance).sum() / (total.sum() - 1))
    return 1 - float((coincidence * distance).sum()) / expected


def _cohen_of_counts(seen: Counter[tuple[bool, bool]]) -> float | None:
    """Of (first's vote, second's vote) -> how often; `cohen_kappa` without its packages."""
    n = seen.total()
    first, second = (sum(many for votes, many in seen.items() if votes[at]) / n for at in (0, 1))
    chance = first * second + (1 - first) * (1 - second)
    if chance == 1:
        return None
    return ((seen[True, True] + seen[False, False]) / n - chance) / (1 - chance)


def _fleiss_of_counts(yes: Sequence[int], raters: int) -> float | None:
    """Of the number of yes of each item, which has `raters` votes; `fleiss_kappa` without its packages."""
    share = sum(yes) / (len(yes) * raters)
    chance = share**2 + (1 - share) ** 2
    if chance == 1:
        return None
    equal = sum(k * (k - 1) + (raters - k) * (raters - k - 1) for k in yes) / (raters * (raters - 1))
    return (equal / len(yes) - chance) / (1 - chance)


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Cohen's kappa of two raters (sklearn.metrics.cohen_kappa_score); None where every vote is the same."""
    if len({*first, *second}) < 2:
        return None
    return float(_needed("sklearn.metrics").cohen_kappa_score(list(first), list(second)))


def fleiss_kappa(votes: Sequence[Sequence[bool]]) -> float | None:
    """Fleiss' kappa (statsmodels.stats.inter_rater.fleiss_kappa) of votes[item][rater], equally many for each
    item; None where every vote is the same."""
    if len({vote for each in votes for vote in each}) < 2:
        return None
    counts = [[len(each) - sum(each), sum(each)] for each in votes]
    return float(_needed("statsmodels.stats.inter_rater").fleiss_kappa(counts))


def percent_agreement(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Share of equal votes of two raters, 0..1."""
    return float(_needed("sklearn.metrics").accuracy_score(list(first), list(second)))


def check_packages() -> None:
    """Raises ConfigError where scikit-learn or statsmodels is not installed."""
    for name in _PACKAGES:
        _needed(name)


def _means(values: Sequence[float], keys: Sequence[str]) -> list[float]:
    """One value a key, in the order of their first appearance."""
    groups: dict[str, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        groups.setdefault(key, []).append(float(value))
    return [math.fsum(group) / len(group) for group in groups.values()]


_PACKAGES = {"sklearn": "scikit-learn", "statsmodels": "statsmodels"}


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = _PACKAGES[module.partition(".")[0]]
        raise ConfigError(
            f"agreement needs {package} ({error}): pip install scikit-learn statsmodels"
        ) from None
