"""Intervals and kappas: cases that can be counted by hand, and what must hold for all."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from data_rows import draw_pictures, many, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.errors import ConfigError
from trainer.data.stats import show, stats
from trainer.statistics import (
    Interval,
    agreement,
    cohen_kappa,
    fleiss_kappa,
    interval,
    krippendorff_alpha,
    paired,
    percent_agreement,
)

VALUES = st.lists(st.sampled_from([0.0, 0.25, 1.0]) | st.floats(-100, 100), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        # One of four: a resample holds k ones with Bin(4, 1/4). P(0) = .316; P(4) = .004, P(3 or 4) = .051.
        ([1, 0, 0, 0], (0.0, 0.75)),
        # One of two: 0, 1/2 and 1 come with 1/4, 1/2 and 1/4.
        ([1, 0], (0.0, 1.0)),
        # Half of a hundred: Bin(100, 1/2); P(at most 39) = .018, P(at most 40) = .028, and the mirror of it.
        ([1, 0] * 50, (0.40, 0.60)),
        ([1, 1, 1], (1.0, 1.0)),
        ([0.3] * 7, (0.3, 0.3)),
    ],
)
def test_intervals_that_can_be_counted(values: list[float], ends: tuple[float, float]) -> None:
    estimate = interval(values)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    assert (estimate.low, estimate.high) == pytest.approx(ends, abs=1e-12)


def test_a_shift_between_pairs_is_certain_however_much_the_questions_differ() -> None:
    hard = [math.sin(n) * 50 for n in range(40)]
    difference = paired([value + 2 for value in hard], hard)
    assert difference == pytest.approx(Interval(2, 2, 2))
    assert difference.excludes_zero
    assert not interval(hard).excludes_zero


def test_runs_of_one_question_are_one_observation() -> None:
    """Three copies of the same answers tell no more than one."""
    values, keys = [1.0, 0.0, 0.0, 0.0], ["a", "b", "c", "d"]
    assert interval(values * 3, keys * 3) == interval(values, keys) == interval(values)
    assert interval(values * 3).high < interval(values).high
    assert interval([1.0, 0.0, 0.0], ["a", "a", "b"]).mean == 0.25


def test_one_question_has_a_mean_and_no_interval() -> None:
    estimate = interval([0.5, 1.0], ["a", "a"])
    assert estimate.mean == 0.75
    assert math.isnan(estimate.low) and math.isnan(estimate.high) and not estimate.excludes_zero


@pytest.mark.parametrize("wrong", [[], [math.nan, 1.0], [math.inf]])
def test_no_mean_of_nothing_or_of_no_numbers(wrong: list[float]) -> None:
    with pytest.raises(ConfigError, match="values"):
        interval(wrong)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ConfigError, match="2 and 1 values"):
        paired([1, 0], [1])
    with pytest.raises(ConfigError, match="1 questions"):
        interval([1, 0], ["a"])


@given(VALUES, st.integers(0, 3))
@settings(max_examples=15)
def test_an_interval_holds_its_mean_and_lies_among_the_values(values: list[float], seed: int) -> None:
    estimate = interval(values, seed=seed)
    slack = 1e-9
    assert min(values) - slack <= estimate.low <= estimate.mean + slack
    assert estimate.mean - slack <= estimate.high <= max(values) + slack
    assert estimate == interval(values, seed=seed)


@given(VALUES)
@settings(max_examples=10)
def test_the_difference_to_oneself_is_nothing_and_turning_round_changes_the_sign(values: list[float]) -> None:
    assert paired(values, values) == (0, 0, 0)
    other = values[::-1]
    there, back = paired(values, other), paired(other, values)
    assert there.mean == pytest.approx(-back.mean, abs=1e-9)
    # The same resamples, turned round: scipy's two percentiles of them mirror each other.
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


def test_kappas_by_hand() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 35/50 agree, by chance 25/50 * 30/50 + 25/50 * 20/50 = 1/2.
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert percent_agreement(first, second) == pytest.approx(0.7)
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    # Three raters, four items with 3, 2, 1, 0 yes: half of all votes are yes, so 1/2 agree by chance;
    # pairs that agree: 1, 1/3, 1/3, 1, on average 2/3.
    votes = [(True,) * 3, (True, True, False), (True, False, False), (False,) * 3]
    assert fleiss_kappa(votes) == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(max_examples=30)
def test_agreement_by_counting_is_that_of_the_packages(votes: list[list[bool]]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    named = [list(zip("cab", each, strict=True)) for each in votes]
    found = agreement([*named, [("a", True)], []])
    assert found is not None and (found.items, found.raters, found.complete) == (len(votes), 3, len(votes))
    columns = dict(zip("cab", zip(*votes, strict=True), strict=True))
    assert list(found.cohen) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), (kappa, shared) in found.cohen.items():
        assert shared == len(votes)
        assert kappa == pytest.approx(cohen_kappa(columns[first], columns[second]))
    assert found.fleiss == pytest.approx(fleiss_kappa(votes))
    equal = [percent_agreement(columns[a], columns[b]) for a, b in found.cohen]
    assert found.percent == pytest.approx(sum(equal) / 3)


def test_votes_without_a_name_are_in_no_pair() -> None:
    found = agreement([[(None, True), (None, True), ("a", False)], [("b", True), ("a", False)]])
    assert found is not None and list(found.cohen) == [("a", "b")]
    assert found.percent == pytest.approx(1 / 4)
    assert agreement([[("a", True)], []]) is None


# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), sections A to D: his data,
# observers by units, "." where an observer said nothing, and his results.
_MEG_OWEN = ("0100000010", "1110010000")
_BEN_GERRY = ("aabbdcccedda", "babbbccceddd")
_FOUR = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


@pytest.mark.parametrize(
    ("table", "level", "alpha"),
    [
        (_MEG_OWEN, "nominal", 0.095),
        (_BEN_GERRY, "nominal", 0.692),
        (_FOUR, "nominal", 0.743),
        (_FOUR, "ordinal", 0.815),
        (_FOUR, "interval", 0.849),
    ],
)
def test_alpha_is_that_of_krippendorffs_tables(table: tuple[str, ...], level: str, alpha: float) -> None:
    units = [[float(ord(value)) for value in unit if value != "."] for unit in zip(*table, strict=True)]
    assert krippendorff_alpha(units, level) == pytest.approx(alpha, abs=0.0005)


def test_alpha_of_values_that_are_all_the_same_is_not_defined() -> None:
    assert krippendorff_alpha([[1, 1], [1, 1, 1]]) is None and krippendorff_alpha([[1], []]) is None
    with pytest.raises(ConfigError, match="level 'ratio'"):
        krippendorff_alpha([[1, 2]], "ratio")


def test_kappa_of_votes_that_are_all_the_same_is_not_defined() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert cohen_kappa([True, True], [True, True]) is None
    assert fleiss_kappa([(False, False), (False, False)]) is None
    kappas = agreement([[("a", True), ("b", True)]] * 2)
    assert kappas is not None and (kappas.percent, kappas.fleiss, kappas.alpha) == (1.0, None, None)
    assert kappas.cohen == {("a", "b"): (None, 2)}


@pytest.mark.parametrize("module", ["sklearn.metrics", "statsmodels.stats.inter_rater"])
def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="pip install scikit-learn statsmodels"):
        if module.startswith("sklearn"):
            cohen_kappa([True, False], [True, True])
        else:
            fleiss_kappa([(True, False), (True, True)])


def test_data_stats_show_how_far_raters_agree(tmp_path: Path) -> None:
    rows = [replace(row, raters=row.raters if at < 4 else (True,)) for at, row in enumerate(many(6))]
    write_rows(draw_pictures(tmp_path) / "rows.jsonl", rows)
    agreed = stats(tmp_path, print)["raters"]["agreement"]
    assert (agreed["rows"], agreed["complete"], agreed["raters"]) == (4, 4, 3)
    assert agreed["percent"] == pytest.approx(1 / 3)
    # By chance (2/3)^2 + (1/3)^2 = 5/9 agree.
    assert agreed["fleiss"] == pytest.approx((1 / 3 - 5 / 9) / (4 / 9))
    text = show(stats(tmp_path, print))
    assert "33.3% of pairs of votes are equal, Krippendorff's alpha -0.3" in text
    assert "Fleiss' kappa -0.50" in text and "do not say who voted" in text


def test_answers_that_all_agree_are_not_certain() -> None:
    """Of three questions none is right: Wilson's interval, not one without width (C20)."""
    from trainer.evaluation.accuracy import Outcome, summary
    from trainer.evaluation.results import table

    outcomes = [Outcome(str(at), "add", "text", False, True, None, False, 7, "", "") for at in range(3)]
    row = next(line for line in table(summary(outcomes)).splitlines() if line.startswith("| all"))
    z2 = 1.959963985**2
    assert f"0.000 [0.000, {z2 / (3 + z2):.3f}]" in row and "0.000 [0.000, 0.561]" in row
    assert f"1.000 [{3 / (3 + z2):.3f}, 1.000]" in row
    assert "7.0 [7.0, 7.0]" in row, "what is no share has its own spread"
