"""How sure a number is, and how far raters agree: by scipy, scikit-learn and statsmodels, imported when used.

`interval` is the mean with its bootstrap interval; `paired` that of the difference between two evaluations of
the same questions; `agreement` Cohen's and Fleiss' kappa and percent agreement of yes-or-no votes.
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
    """items: how many were voted on by all `raters`; left_out: those with another number of votes.

    percent: share of the pairs of votes on an item that are equal, 0..1. fleiss: Fleiss' kappa; None where it
    is not defined (every vote is the same). cohen: Cohen's kappa of each pair of raters (numbered from 0),
    None likewise.
    """

    items: int
    raters: int
    left_out: int
    percent: float
    fleiss: float | None
    cohen: dict[tuple[int, int], float | None]


def agreement(votes: Iterable[Sequence[bool]]) -> Agreement | None:
    """How far raters agree: votes[i][r] is rater r's vote on item i.

    Kappas compare items with equally many votes: the commonest number above one is taken. None where no item
    has two votes. Raises ConfigError where scikit-learn or statsmodels is not installed.
    """
    every = [tuple(map(bool, each)) for each in votes]
    sizes = Counter(len(each) for each in every if len(each) > 1)
    if not sizes:
        return None
    raters = max(sizes, key=lambda size: (sizes[size], size))
    table = [each for each in every if len(each) == raters]
    columns = list(zip(*table, strict=True))
    pairs = list(combinations(range(raters), 2))
    equal = [percent_agreement(columns[a], columns[b]) for a, b in pairs]
    return Agreement(
        len(table),
        raters,
        len(every) - len(table),
        sum(equal) / len(equal),
        fleiss_kappa(table),
        {(a, b): cohen_kappa(columns[a], columns[b]) for a, b in pairs},
    )


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
