"""Each benchmark's figures on scripted answers, against what its official script says to the same answers.

golden.json was written outside this repository, by running the official functions (commits in it) on answers
drawn by chance. KRIS itself has no script that adds up; BAGEL's, whose figures are published, is taken, and
what BAGEL printed of RISE and KRIS is added up again from its categories' means.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.bench.base import Bench, Item, table_of
from trainer.bench.complexedit import ComplexEdit
from trainer.bench.gedit import GEdit
from trainer.bench.imgedit import ASPECTS, ImgEdit
from trainer.bench.kris import GROUPS, META, Kris
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


def test_kris() -> None:
    """Some answers are missing, as there."""
    official = GOLDEN["kris"]
    items = [Item(str(n), category, (NO,), "x") for n, (category, _) in enumerate(official["items"])]
    found = figures(Kris(), items, [floats(answers) for _, answers in official["items"]])
    for mine, theirs in ((GROUPS, "groups"), (META, "meta")):
        named = {name: value for words, value in official[theirs].items() if (name := _group(words)) in mine}
        assert len(named) == len(mine)
        assert {name: found[name] for name in named} == pytest.approx(named, abs=1e-9)
    assert found["overall"] == pytest.approx(official["overall"], abs=1e-9)


def _group(words: str) -> str:
    """ "Attribute Perception" -> "attribute", "Instruction Decomposition" -> "decomposition"."""
    return words.lower().removeprefix("instruction ").split()[0]


# BAGEL's EVAL.md (ByteDance-Seed/Bagel 056b5fd), without and with thinking: of each group of KRIS the items,
# then consistency, quality, instruction, knowledge and the printed average.
KRIS_PUBLISHED: dict[str, list[tuple[str, int, list[float], float]]] = {
    "56.21 60.26 55.86 51.69": [
        ("attribute", 275, [76.64, 74.45, 41.73], 64.27),
        ("spatial", 100, [70.25, 80.00, 37.00], 62.42),
        ("temporal", 74, [36.49, 61.82, 29.05], 42.45),
        ("social", 125, [76.20, 78.80, 37.00, 29.60], 55.40),
        ("natural", 393, [69.59, 84.03, 40.27, 30.15], 56.01),
        ("logical", 150, [80.17, 85.67, 26.33, 18.00], 52.54),
        ("decomposition", 150, [40.17, 69.50, 42.00], 50.56),
    ],
    "60.18 66.18 61.92 49.02": [
        ("attribute", 275, [75.09, 74.00, 53.18], 67.42),
        ("spatial", 100, [78.75, 87.25, 39.00], 68.33),
        ("temporal", 74, [48.31, 81.08, 46.62], 58.67),
        ("social", 125, [80.40, 79.40, 51.60, 42.80], 63.55),
        ("natural", 393, [67.68, 82.95, 52.10, 42.88], 61.40),
        ("logical", 150, [62.83, 79.67, 28.33, 21.67], 48.12),
        ("decomposition", 150, [47.83, 66.83, 36.00], 50.22),
    ],
}  # fmt: skip


@pytest.mark.parametrize("printed", KRIS_PUBLISHED)
def test_kris_as_published(printed: str) -> None:
    """The printed digits, to the rounding of what they are added up from."""
    names = ("consistency", "quality", "instruction", "knowledge")
    items, given = [], []
    for group, count, means, _ in KRIS_PUBLISHED[printed]:
        for n in range(count):
            items.append(Item(f"{group} {n}", GROUPS[group][0], (NO,), "x"))
            given.append({name: 1 + mean / 25 for name, mean in zip(names, means, strict=False)})
    found = figures(Kris(), items, given)
    expected = {group: average for group, _, _, average in KRIS_PUBLISHED[printed]}
    expected |= zip(
        ("overall", "factual", "conceptual", "procedural"), map(float, printed.split()), strict=True
    )
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.0101)


# Likewise of RISE: items, score, accuracy, reasoning, consistency and of how many, plausibility; and overall
# percent, accuracy, consistency, reasoning, plausibility.
RISE_PUBLISHED: dict[str, list[tuple[str, int, float, float, float, float, int, float]]] = {
    "38.444444 6.1111 3.141643 2.458333 3.920000": [
        ("temporal", 85, 2.654118, 0.023529, 2.588235, 3.250000, 80, 3.505882),
        ("causal", 90, 2.788889, 0.055556, 2.733333, 3.579545, 88, 3.688889),
        ("spatial", 100, 3.452000, 0.140000, 3.300000, 3.330000, 100, 4.480000),
        ("logical", 85, 1.080000, 0.011765, 1.047059, 2.364706, 85, math.nan),
    ],
    "48.333333 11.9444 3.951841 2.836111 4.203636": [
        ("temporal", 85, 3.336471, 0.058824, 3.188235, 4.225000, 80, 4.200000),
        ("causal", 90, 3.608889, 0.177778, 3.533333, 4.386364, 88, 4.100000),
        ("spatial", 100, 3.492000, 0.210000, 3.350000, 4.300000, 100, 4.300000),
        ("logical", 85, 1.157647, 0.011765, 1.141176, 2.835294, 85, math.nan),
    ],
}


@pytest.mark.parametrize("printed", RISE_PUBLISHED)
def test_rise_as_published(printed: str) -> None:
    items, scores = [], []
    for group, count, score, right, reasoning, consistency, judged, plausibility in RISE_PUBLISHED[printed]:
        for n in range(count):
            items.append(Item(f"{group} {n}", f"{group}_reasoning", (NO,), "x"))
            same = consistency if n < judged else math.nan
            scores.append({"percent": 25 * (score - 1), "right": 100 * right, "reasoning": reasoning,
                           "consistency": same, "plausibility": plausibility})  # fmt: skip
    draws = Draws(len(items), 0, 2)
    found = {figure.title: value.mean for figure, value in table_of(Rise(), items, scores, draws)}
    names = ("score", "accuracy", "consistency", "reasoning", "plausibility")
    for name, value in zip(names, map(float, printed.split()), strict=True):
        assert found[name] == pytest.approx(value, abs=1e-4 if name == "accuracy" else 2e-5)


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
