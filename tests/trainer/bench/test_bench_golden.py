"""Each benchmark's figures on scripted answers, against what its official script says to the same answers.

golden.json was written outside this repository, by running the official functions (commits in it) on answers
drawn by chance; of KRIS no script adds up: its figures are worked out in test_bench_arithmetic.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.bench.base import Bench, Item, table_of
from trainer.bench.complexedit import ComplexEdit
from trainer.bench.gedit import GEdit
from trainer.bench.imgedit import ASPECTS, ImgEdit
from trainer.bench.pixels import ReasonEdit
from trainer.bench.rise import Rise
from trainer.protocol.draws import Draws

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())
NO = Path("x.png")


def figures(bench: Bench, items: list[Item], given: list[dict[str, float]]) -> dict[str, float]:
    scores = [bench.score(item, answers) for item, answers in zip(items, given, strict=True)]
    draws = Draws(len(items), 0, 2)
    return {figure.title: value.mean for figure, value in table_of(bench, items, scores, draws)}


def floats(answers: dict[str, int]) -> dict[str, float]:
    return {name: float(value) for name, value in answers.items()}


@pytest.mark.parametrize("run", GOLDEN["rise"], ids=["all judged", "some free"])
def test_rise(run: dict[str, Any]) -> None:
    """As published: accuracy as it was until ce8cba3 (2026-04-13), and the score."""
    items = [
        Item(
            str(n),
            category,
            (NO,),
            "x",
            {"free": free, "marked": free, "some_free": any(f for _, f, _ in run["items"])},
        )
        for n, (category, free, _) in enumerate(run["items"])
    ]
    given = [floats(answers) for _, _, answers in run["items"]]
    found, official = figures(Rise(as_published=True), items, given), run["21d1871"]
    assert {name: found[name] for name in official} == pytest.approx(official, abs=1e-9)
    mended, later = figures(Rise(), items, given), run["5f22651"]
    for name in ("consistency", "reasoning", "plausibility"):
        assert mended[name] == pytest.approx(later[name], abs=1e-9)
    if not any(free for _, free, _ in run["items"]):
        assert mended["score"] == pytest.approx(later["score"], abs=1e-9)
    else:
        assert mended["score"] != pytest.approx(later["score"], abs=0.1), "there nan counts as free"


def test_imgedit() -> None:
    official = GOLDEN["imgedit"]
    items = [Item(str(n), kind, (NO,), "x") for n, (kind, _) in enumerate(official["items"])]
    given = [
        {name: float(value) for name, value in zip(ASPECTS[kind], numbers, strict=False)}
        for kind, numbers in official["items"]
    ]
    bench = ImgEdit(as_published=True)
    each = [bench.score(item, answers)["score"] for item, answers in zip(items, given, strict=True)]
    assert each == pytest.approx(official["mean"], abs=1e-9)
    found = figures(bench, items, given)
    assert {kind: round(found[kind], 2) for kind in official["types"]} == official["types"]


def test_complexedit() -> None:
    official = GOLDEN["complexedit"]
    items = [Item(str(n), "c1", (NO,), "x") for n in range(len(official["items"]))]
    given = [
        {f"{name} {at}": float(value) for name, values in each.items() for at, value in enumerate(values)}
        for each in official["items"]
    ]
    bench = ComplexEdit(samples=4)
    for item, answers, expected in zip(items, given, official["each"], strict=True):
        found = bench.score(item, answers)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    found = figures(bench, items, given)
    assert {name: found[name] for name in official["mean"]} == pytest.approx(official["mean"], abs=1e-9)
    published = figures(ComplexEdit(as_published=True, samples=4), items, given)
    assert published["overall"] == pytest.approx(official["mean"]["quality"], abs=1e-9)


@pytest.mark.parametrize("language", ["en", "cn"])
def test_gedit(language: str) -> None:
    """Its intersection is of the questions that other editors did not refuse."""
    official = GOLDEN["gedit"]
    items = [
        Item(str(n), f"{task} {spoken}", (NO,), "x", {"language": spoken, "intersection": both})
        for n, (task, spoken, both, _) in enumerate(official["items"])
    ]
    names = ("success", "not_overedited", "natural", "clean")
    given = [floats(dict(zip(names, numbers, strict=True))) for *_, numbers in official["items"]]
    found, expected = figures(GEdit(), items, given), dict(official[language])
    for group, value in expected.pop("O groups").items():
        assert found[f"O, {group} {language}"] == pytest.approx(value, abs=1e-9)
    for name, value in expected.items():
        what, _, rest = name.partition(" ")
        assert found[" ".join(filter(None, (what, language, rest)))] == pytest.approx(value, abs=1e-9)


def picture(k: int) -> Image.Image:
    y, x = np.mgrid[0:60, 0:80]
    parts = [(x * 3 + k * 7) % 256, (y * 4 + x * k) % 256, ((x * y) // 7 + 31 * k) % 256]
    return Image.fromarray(np.stack(parts, -1).astype(np.uint8))


def test_reasonedit(tmp_path: Path) -> None:
    """torchmetrics' numbers are of 32 bits; later ones (1.9) take SSIM over mirrored edges as well. The mask
    has half-covered pixels, as its JPEGs have."""
    mask = np.zeros((60, 80), np.uint8)
    mask[15:40, 20:55], mask[40:43, 20:55] = 255, 100
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for k in range(3):
        picture(k).save(tmp_path / f"{k}.png")
    for name, expected in GOLDEN["reasonedit"].items():
        before, after = (tmp_path / f"{k}.png" for k in name.split())
        item = Item("1-Left-Right/1", "1-Left-Right", (before,), "x", {"mask": tmp_path / "mask.png"})
        assert ReasonEdit().measure(item, after) == pytest.approx(expected, rel=1e-6)
