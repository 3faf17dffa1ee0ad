"""One set of bootstrap draws of the questions for all cells of all tables, so that whatever is made of
several cells (a difference, an average, a kappa) has an interval as well.

    draws = Draws(3000)
    means = draws.means(columns)         # [1 + 10,000, C]: as they are, then drawn; nan is no vote
    interval(means[:, 0] - means[:, 1])

Every quantity is a function of sums over questions, and a drawn sum is the draw's counts times the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evlm.errors import ConfigError

from ..statistics import LEVEL, RESAMPLES, Interval

Array = NDArray[np.float64]
_BLOCK = 250  # draws at once: so few stay in the cache


class Draws:
    """10,000 draws of `questions` questions, with replacement. Raises ConfigError where there are none."""

    def __init__(self, questions: int, seed: int = 0, resamples: int = RESAMPLES) -> None:
        if questions < 1:
            raise ConfigError("no question: nothing to draw from")
        self.questions, self.seed, self.resamples = questions, seed, resamples

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """[draws, questions]: how often a question is in a draw."""
        rng, n = np.random.default_rng(self.seed), self.questions
        counts = np.empty((self.resamples, n), np.uint16)
        for at in range(0, self.resamples, _BLOCK):
            rows = min(_BLOCK, self.resamples - at)
            drawn = rng.integers(0, n, (rows, n), dtype=np.int64) + n * np.arange(rows)[:, None]
            counts[at : at + rows] = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        return counts

    def sums(self, columns: Array) -> Array:
        """[1 + draws, C] of columns [questions, C] without nan: the sum as it is, then of each draw."""
        sums = np.empty((1 + self.resamples, columns.shape[1]))
        sums[0] = columns.sum(0)
        for at in range(0, self.resamples, _BLOCK):
            sums[1 + at : 1 + at + _BLOCK] = self.counts[at : at + _BLOCK].astype(np.float64) @ columns
        return sums

    def means(self, columns: Array) -> Array:
        """[1 + draws, C] of columns in which nan is a question without a value; nan where a draw has none."""
        there = ~np.isnan(columns)
        values = self.sums(np.concatenate([np.where(there, columns, 0.0), there.astype(np.float64)], 1))
        top, bottom = np.split(values, 2, axis=1)
        return _over(top, bottom)

    def cohen(self, first: Array, second: Array) -> Array:
        """[1 + draws]: Cohen's kappa of two columns of 0, 1 and nan, over the questions that both have."""
        both = ~np.isnan(first) & ~np.isnan(second)
        a, b = np.where(both, first, 0.0), np.where(both, second, 0.0)
        n, x, y, xy = self.sums(np.stack([both.astype(np.float64), a, b, a * b], 1)).T
        equal = _over(n - x - y + 2 * xy, n)
        chance = _over(x * y + (n - x) * (n - y), n * n)
        return _over(equal - chance, 1 - chance)

    def equal(self, first: Array, second: Array) -> Array:
        """[1 + draws]: share of equal votes of two columns."""
        both = ~np.isnan(first) & ~np.isnan(second)
        alike = np.where(both, (first == second).astype(np.float64), np.nan)
        return self.means(alike[:, None])[:, 0]

    def equal_pairs(self, votes: Sequence[Array]) -> Array:
        """[1 + draws]: share of equal votes among all pairs of raters' columns of 0, 1 and nan."""
        m, y = _counted(votes)
        alike = y * (y - 1) / 2 + (m - y) * (m - y - 1) / 2
        top, bottom = self.sums(np.stack([alike, m * (m - 1) / 2], 1)).T
        return _over(top, bottom)

    def fleiss(self, votes: Sequence[Array]) -> Array:
        """[1 + draws]: Fleiss' kappa of raters' columns, over the questions with as many votes as most
        have."""
        m, y = _counted(votes)
        sizes, often = np.unique(m[m > 1], return_counts=True)
        if not len(sizes):
            return np.full(1 + self.resamples, np.nan)
        most = float(sizes[len(often) - 1 - int(np.argmax(often[::-1]))])
        here = (m == most).astype(np.float64)
        alike = here * (y * (y - 1) + (m - y) * (m - y - 1)) / (most * (most - 1))
        n, same, yes = self.sums(np.stack([here, alike, here * y], 1)).T
        p = _over(yes, most * n)
        chance = p**2 + (1 - p) ** 2
        return _over(_over(same, n) - chance, 1 - chance)

    def alpha(self, votes: Sequence[Array]) -> Array:
        """[1 + draws]: Krippendorff's alpha (nominal) of raters' columns of 0, 1 and nan; questions with
        fewer than two votes say nothing."""
        given, yes = _counted(votes)
        paired = given > 1
        m, y = np.where(paired, given, 0.0), np.where(paired, yes, 0.0)
        unlike = np.where(paired, 2 * y * (m - y) / np.where(paired, m - 1, 1.0), 0.0)
        n, ones, apart = self.sums(np.stack([m, y, unlike], 1)).T
        return 1 - _over((n - 1) * apart, 2 * ones * (n - ones))


def interval(values: Array, share_of: int = 0) -> Interval:
    """The value as it is and the ends of its 95 % percentile interval, from [1 + draws].

    share_of: the number of yes-or-no answers whose share it is. Where all are alike every draw is, too; then
    it is Wilson's interval (`statistics.interval`). nan where no draw has a value.
    """
    from scipy.stats import binomtest

    mean = float(values[0])
    if share_of and mean in (0.0, 1.0):
        wilson = binomtest(round(mean * share_of), share_of).proportion_ci(LEVEL, "wilson")
        return Interval(mean, float(wilson.low), float(wilson.high))
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn) or np.isnan(mean) or share_of == 1:
        return Interval(mean, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def p_value(values: Array) -> float:
    """Two-sided, of a difference [1 + draws] being 0: twice the smaller share of draws on the other side of
    it, at least 2 / (draws + 1)."""
    drawn = values[1:][~np.isnan(values[1:])]
    least = min(int((drawn <= 0).sum()), int((drawn >= 0).sum())) + 1
    return min(1.0, 2 * least / (len(drawn) + 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjustment for so many comparisons at once."""
    adjusted, most = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda at: ps[at])):
        most = max(most, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = most
    return adjusted


def _counted(votes: Sequence[Array]) -> tuple[Array, Array]:
    """(votes of each question, those that are 1)."""
    table = np.stack(list(votes), 1)
    there = ~np.isnan(table)
    return there.sum(1).astype(np.float64), np.where(there, table, 0.0).sum(1)


def _over(top: Array, bottom: Array) -> Array:
    """Quotients, nan where the divisor is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.abs(bottom) > 1e-12)
