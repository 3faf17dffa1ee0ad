"""Intervals from one set of draws: against loops, scikit-learn, statsmodels, and how often they cover."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from trainer.protocol.draws import Draws, holm, interval, p_value
from trainer.protocol.tables import groups
from trainer.statistics import agreement, krippendorff_alpha


def table(rng: np.random.Generator, questions: int, raters: int) -> np.ndarray:
    """Votes with gaps, of raters who agree more or less."""
    truth = rng.random(questions) < rng.uniform(0.2, 0.8)
    votes = np.stack([truth ^ (rng.random(questions) < rng.uniform(0, 0.4)) for _ in range(raters)], 1)
    return np.where(rng.random(votes.shape) < 0.2, np.nan, votes.astype(float))


def test_kappa_and_alpha_are_those_of_the_packages_on_two_hundred_tables_with_gaps() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for seed in range(200):
        votes = table(np.random.default_rng(seed), 30 + seed % 17, 2 + seed % 4)
        draws = Draws(len(votes), resamples=2)
        both = ~np.isnan(votes[:, :2]).any(1)
        expected = metrics.cohen_kappa_score(votes[both, 0], votes[both, 1])
        assert draws.cohen(votes[:, 0], votes[:, 1])[0] == pytest.approx(expected, abs=1e-12)
        units = [row[~np.isnan(row)].tolist() for row in votes]
        alpha = krippendorff_alpha(units)
        assert alpha is not None
        assert draws.alpha(list(votes.T))[0] == pytest.approx(alpha, abs=1e-12)
        counted = agreement([[(None, bool(v)) for v in unit] for unit in units])
        assert counted is not None and counted.alpha == pytest.approx(alpha, abs=1e-12)


def test_a_draw_is_what_a_loop_over_the_drawn_questions_gives() -> None:
    votes = table(np.random.default_rng(3), 12, 3)
    draws = Draws(12, seed=5, resamples=40)
    cohen, alpha = draws.cohen(votes[:, 0], votes[:, 1]), draws.alpha(list(votes.T))
    means = draws.means(votes)
    for number, counts in enumerate(draws.counts, 1):
        assert counts.sum() == 12
        drawn = np.repeat(votes, counts, axis=0)
        one = Draws(12, resamples=1)
        assert means[number] == pytest.approx(np.nanmean(drawn, 0), abs=1e-12)
        assert cohen[number] == pytest.approx(one.cohen(drawn[:, 0], drawn[:, 1])[0], abs=1e-12, nan_ok=True)
        assert alpha[number] == pytest.approx(one.alpha(list(drawn.T))[0], abs=1e-12, nan_ok=True)


def test_the_half_width_of_954_in_a_thousand() -> None:
    column = np.zeros((3000, 1))
    column[: round(0.954 * 3000)] = 1
    found = interval(Draws(3000).means(column)[:, 0], 3000)
    assert (found.high - found.low) / 2 == pytest.approx(0.0075, abs=0.0003)


def test_intervals_cover_what_a_judge_of_known_rates_says() -> None:
    """A model that is right in .8, a judge with hits of .95 and false alarms of .1: .78 are called right."""
    expected, covered, runs = 0.8 * 0.95 + 0.2 * 0.1, 0, 1000
    draws = Draws(400, seed=1, resamples=1000)
    rng = np.random.default_rng(0)
    right = rng.random((400, runs)) < 0.8
    said = np.where(right, rng.random(right.shape) < 0.95, rng.random(right.shape) < 0.1).astype(float)
    for values in draws.means(said).T:
        found = interval(values, 400)
        covered += found.low <= expected <= found.high
    assert 0.93 <= covered / runs <= 0.97


def test_what_is_paired_is_narrower() -> None:
    rng = np.random.default_rng(2)
    first = (rng.random(500) < 0.7).astype(float)
    second = np.where(rng.random(500) < 0.05, 1 - first, first)
    means = Draws(500).means(np.stack([first, second], 1))
    change = interval(means[:, 0] - means[:, 1])
    apart = [interval(means[:, at], 500) for at in (0, 1)]
    assert change.mean == pytest.approx(first.mean() - second.mean())
    assert change.high - change.low < 0.5 * sum(each.high - each.low for each in apart)


def test_all_alike_is_wilsons_and_nothing_is_nothing() -> None:
    draws = Draws(3)
    assert interval(draws.means(np.zeros((3, 1)))[:, 0], 3).high == pytest.approx(0.561, abs=1e-3)
    assert np.isnan(interval(draws.means(np.full((3, 1), np.nan))[:, 0]).mean)


def test_p_values_and_holm() -> None:
    assert p_value(np.array([0.5, 0.1, 0.2, 0.3])) == pytest.approx(2 / 4)
    assert p_value(np.array([0.0, -0.1, 0.1])) == 1.0
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.slow
def test_ten_models_by_six_evaluators_take_less_than_three_seconds() -> None:
    columns = (np.random.default_rng(0).random((3000, 60)) < 0.9).astype(float)
    start = time.process_time()
    Draws(3000).means(columns)
    assert time.process_time() - start < 3


def test_a_share_of_a_group_is_of_its_verdicts() -> None:
    """Four questions of which two have a verdict, both YES: Wilson's interval of two, not of four."""
    asked = SimpleNamespace(question=SimpleNamespace(edit_type="add", category="c"), references=1)
    board: Any = SimpleNamespace(
        outcomes={"m": [None] * 4},
        evaluators=[SimpleNamespace(columns={"m": np.array([1.0, 1.0, np.nan, np.nan])})],
        questions=[asked] * 4,
        draws=Draws(4, 0, 50),
    )
    low = binomtest(2, 2).proportion_ci(0.95, "wilson").low
    for row in groups(board).rows:
        assert row[2] == "4" and f"{100 * low:.1f}" in row[3]
