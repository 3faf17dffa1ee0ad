"""Each benchmark's figures on given numbers: golden values worked out from the cited formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.bench.base import Figure, Item, table_of, unpacked
from trainer.bench.complexedit import ComplexEdit
from trainer.bench.gedit import GEdit
from trainer.bench.imgedit import ImgEdit
from trainer.bench.kris import GROUPS, META, Kris
from trainer.bench.pixels import background, ssim
from trainer.bench.rise import Rise
from trainer.collect.sources.tables import Cell
from trainer.evaluation.graded import Ask, read_scores
from trainer.protocol.draws import Draws

NO = Path("x.png")


def item(stratum: str, name: str = "1", **more: Any) -> Item:
    return Item(name, stratum, (NO,), "do it", more)


def rise(category: str, free: bool = False) -> Item:
    return item(category, reference="", reference_img=None, free=free)


@pytest.mark.parametrize(
    ("category", "free", "answers", "score", "right"),
    [
        ("temporal_reasoning", False, (4, 3, 5), 0.3 * 4 + 0.5 * 3 + 0.2 * 5, 0),
        ("causal_reasoning", False, (5, 5, 5), 5.0, 100),
        ("spatial_reasoning", False, (5, 1, 5), (0.3 * 5 + 0.5 + 0.2 * 5) / 2, 0),
        ("spatial_reasoning", False, (1, 1, 1), 1.0, 0),  # halved, to no less than 1
        ("temporal_reasoning", True, (None, 4, 3), 0.8 * 4 + 0.2 * 3, 0),
        ("temporal_reasoning", True, (None, 5, 5), 5.0, 100),
        ("logical_reasoning", False, (1, 1, None), 5.0, 100),
        ("logical_reasoning", False, (0, 1, None), 0.3 * 1 + 0.7 * 5, 0),
        ("logical_reasoning", False, (1, 0, None), (0.3 * 5 + 0.7 * 1) / 2, 0),
    ],
)
def test_rise(category: str, free: bool, answers: tuple[Any, ...], score: float, right: float) -> None:
    names = ("consistency", "reasoning", "plausibility")
    given = {name: float(value) for name, value in zip(names, answers, strict=True) if value is not None}
    found = Rise().score(rise(category, free), given)
    assert found["score"] == pytest.approx(score, abs=1e-9) and found["right"] == right
    assert found["percent"] == pytest.approx(25 * (score - 1), abs=1e-9)
    published = Rise(as_published=True).score(rise(category, free), given)
    assert published["score"] == pytest.approx(score, abs=1e-9)
    assert published["right"] == (0 if free else right), "judged without consistency nothing is right there"


def test_rise_counts_what_has_no_number_in_no_mean_unless_as_published() -> None:
    items = [rise("causal_reasoning"), rise("causal_reasoning"), rise("logical_reasoning")]
    given = [{"consistency": 5.0, "reasoning": 5.0, "plausibility": 5.0}, {"consistency": 5.0}, {}]

    def figures(bench: Rise) -> dict[str, float]:
        scores = [bench.score(each, answers) for each, answers in zip(items, given, strict=True)]
        return {figure.title: value.mean for figure, value in table_of(bench, items, scores, Draws(3, 0, 50))}

    found = figures(Rise())
    assert (found["accuracy"], found["causal"], found["score"]) == (100, 100, 100)
    assert math.isnan(found["logical"])
    found = figures(Rise(as_published=True))
    assert found["accuracy"] == pytest.approx(100 / 3, abs=1e-9) and found["score"] == 100
    assert (found["causal"], found["logical"]) == (50, 0)


def test_kris_means_all_single_numbers_and_no_means() -> None:
    bench = Kris()
    items = [item("color_change", truth=None), item("biology", truth=None), item("biology", truth=None)]
    given = [
        {"consistency": 5.0, "quality": 3.0, "instruction": 1.0},
        {"consistency": 2.0, "quality": 5.0, "instruction": 4.0, "knowledge": 1.0},
        {"consistency": 4.0},
    ]
    scores = [bench.score(each, answers) for each, answers in zip(items, given, strict=True)]
    found = {figure.title: value.mean for figure, value in table_of(bench, items, scores, Draws(3, 0, 50))}
    assert found["attribute"] == found["factual"] == pytest.approx((100 + 50 + 0) / 3, abs=1e-9)
    assert found["natural"] == pytest.approx((25 + 100 + 75 + 0 + 75) / 5, abs=1e-9)
    assert found["overall"] == pytest.approx((100 + 50 + 0 + 25 + 100 + 75 + 0 + 75) / 8, abs=1e-9)
    assert found["knowledge"] == 0 and "logical" not in found
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names)) == 20 and sum(map(len, META.values())) == len(GROUPS) == 7


def test_kris_special_question_is_asked_unless_as_published() -> None:
    one = item("anomaly_correction", truth=None, explain="")
    asked = [bench.asks(one, NO)["instruction"].content[0] for bench in (Kris(), Kris(as_published=True))]
    plain = Kris().asks(item("color_change", truth=None, explain=""), NO)["instruction"].content[0]
    assert asked[0] != plain and asked[1] == plain
    knowing = Kris().asks(item("biology", truth=None, explain="cells"), NO)["instruction"]
    assert knowing.names == ("instruction", "knowledge") and "Explanation: cells" in knowing.content


def test_gedit_is_the_mean_of_groups_of_roots_of_products() -> None:
    bench = GEdit()
    items = [item("add en", language="en"), item("add en", language="en"), item("style en", language="en")]
    given = [
        {"success": 8.0, "not_overedited": 6.0, "natural": 9.0, "clean": 7.0},
        {"success": 0.0, "not_overedited": 10.0, "natural": 9.0, "clean": 9.0},
        {"success": 4.0, "not_overedited": 4.0, "natural": 9.0, "clean": 10.0},
    ]
    scores = [bench.score(each, answers) for each, answers in zip(items, given, strict=True)]
    found = {figure.title: value.mean for figure, value in table_of(bench, items, scores, Draws(3, 0, 50))}
    assert found["O en"] == pytest.approx((math.sqrt(6 * 7) / 2 + 6) / 2, abs=1e-9)
    assert found["S en"] == pytest.approx((3 + 4) / 2, abs=1e-9)
    assert math.isnan(bench.score(items[0], {"success": 3.0})["overall"])


def test_imgedit() -> None:
    one = item("add")
    given = {"as_asked": 3.0, "fits_in": 5.0, "rest_kept": 2.0}
    assert ImgEdit().score(one, given)["score"] == pytest.approx((3 + 3 + 2) / 3, abs=1e-9)
    assert ImgEdit(as_published=True).score(one, given)["score"] == pytest.approx(3.33, abs=1e-9)
    items, scores = [one, one, item("style")], [{"score": 1.0}, {"score": 2.0}, {"score": 5.0}]
    found = {f.title: v.mean for f, v in table_of(ImgEdit(), items, scores, Draws(3, 0, 50))}
    assert found["by items"] == pytest.approx(8 / 3) and found["by types"] == pytest.approx(3.25)
    assert math.isnan(ImgEdit().score(one, {"as_asked": 3.0})["score"])


def test_complexedit_means_its_samples() -> None:
    bench, one = ComplexEdit(samples=2), item("c1")
    given = {"following 0": 4.0, "following 1": 6.0, "identity 0": 9.0, "identity 1": 9.0, "quality 0": 1.0}
    found = bench.score(one, given)
    assert (found["following"], found["identity"], found["quality"]) == (5, 9, 1)
    assert found["following spread"] == pytest.approx(math.sqrt(2)) and found["overall"] == 5
    assert ComplexEdit(as_published=True, samples=2).score(one, given)["overall"] == 1
    assert len(bench.asks(one, NO)) == 6


def test_background_figures_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(14, 13, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(14, 13, dtype=torch.bool)
    mask[3:7, 2:9] = True
    found = background(a, b, mask.double())
    x, y = (np.where(mask.numpy()[..., None], 0, each.numpy()) for each in (a, b))
    mse = sum(float(each) ** 2 for each in (x - y).ravel()) / x.size
    assert found["mse"] == pytest.approx(mse, abs=1e-12)
    assert found["psnr"] == pytest.approx(10 * math.log10(1 / mse), abs=1e-9)
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for c in range(3):
        for i in range(14 - 10):
            for j in range(13 - 10):
                p, q = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                both = (window * p * q).sum() - mp * mq
                values.append(
                    (2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                )
    assert found["ssim"] == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0) and background(a, a, mask.double())["psnr"] == 100


def test_figures_over_nothing_are_nothing() -> None:
    class Empty(Rise):
        def figures(self, items: Any) -> list[Figure]:
            return [
                Figure("a", "none"),
                Figure("b", "none", how="singles"),
                Figure("c", "none", how="strata"),
            ]

    found = table_of(Empty(), [rise("causal_reasoning")] * 2, [{}, {}], Draws(2, 0, 20))
    assert all(math.isnan(value.mean) for _, value in found)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('good.\n{"a": 3, "b_c": 5}', {"a": 3, "b_c": 5}),
        ('{"a": 1, "b_c": 1} no, rather\n{"a": 2, "b_c": 4, "why": "x"}', {"a": 2, "b_c": 4}),
        ("A: 3\nb c: 4\n**a**: 5", {"a": 5, "b_c": 4}),
        ('<think>{"a": 1, "b_c": 1}</think>{"a": 2, "b_c": 2}', {"a": 2, "b_c": 2}),
        ('{"a": 6, "b_c": 5}', None),
        ('{"a": 3.5, "b_c": 5}', None),
        ('{"a": true, "b_c": 5}', None),
        ('{"a": 3}', None),
        ("a is 3 and b is 4", None),
        ("", None),
    ],
)
def test_numbers_are_read_and_never_guessed(answer: str, found: dict[str, float] | None) -> None:
    assert read_scores(answer, Ask(("x",), ("a", "b_c"))) == found


def test_tables_of_one_name_share_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cell, "load", lambda self: self.file.parent.name.encode())
    cells = [Cell(tmp_path / folder / "test.parquet", 3, "image") for folder in ("a", "b")]
    (tmp_path / "work").mkdir()
    paths = [unpacked(each, tmp_path, tmp_path / "work") for each in cells]
    assert [path.read_bytes() for path in paths] == [b"a", b"b"]
    assert unpacked(cells[0], tmp_path, tmp_path / "work") == paths[0]
