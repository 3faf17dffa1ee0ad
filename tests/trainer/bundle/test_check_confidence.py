"""The figures of check_confidence, against ones that were worked out by hand."""

from __future__ import annotations

import math
import random

import pytest

from trainer.bundle.check_confidence import Judged, auroc, calibration_error, fit_temperature


def test_auroc_is_how_often_the_right_one_is_surer() -> None:
    judged = [Judged(0.9, True), Judged(0.5, True), Judged(0.5, False), Judged(0.1, False)]
    assert auroc(judged) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert math.isnan(auroc([Judged(0.5, True)]))


def test_the_calibration_error_weighs_bins() -> None:
    judged = [Judged(0.95, True), Judged(0.95, False), Judged(0.25, False), Judged(1.0, True)]
    # 0.9..1: mean confidence 2.9 / 3, right 2 / 3, three of four; 0.2..0.3: 0.25 and 0, one of four
    assert calibration_error(judged) == pytest.approx((2.9 - 2) / 4 + 0.25 / 4)
    assert calibration_error([Judged(0.25, True)], temperature=2) == pytest.approx(0.5)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(power: float) -> None:
    rng = random.Random(0)
    odds = [rng.random() for _ in range(4000)]
    judged = [Judged(p**power, rng.random() < p) for p in odds]
    temperature = fit_temperature(judged)
    assert temperature == pytest.approx(power, rel=0.1)
    assert calibration_error(judged, temperature) < 0.03


def test_few_right_answers_do_not_make_it_certain() -> None:
    assert fit_temperature([Judged(0.8, True)] * 20) < 50
