"""The user study's design, and the intervals of its table against statsmodels and by simulation."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evlm.errors import ConfigError, RecordError
from trainer.raters.study_plan import Item, Study, assign, load_study
from trainer.raters.study_table import Rating, difference, mean, table

TASKS = ("2D", "3D", "4D", "video")


def items(count: int = 50) -> list[Item]:
    return [
        Item(f"{task}-{n}", task, "", "o.png", (), ("a.png", "b.png")) for task in TASKS for n in range(count)
    ]


def test_the_papers_study_is_balanced_and_the_two_screens_of_an_item_are_apart() -> None:
    study = Study("items.jsonl", ("ours", "theirs"))
    plans = assign(study, items())
    assert (
        plans == assign(study, items()) != assign(Study("items.jsonl", ("ours", "theirs"), seed=1), items())
    )
    seen: Counter[str] = Counter()
    firsts: Counter[str] = Counter()
    for plan in plans:
        assert len(plan) == 40 and len(set(plan)) == 40
        names = [screen.item for screen in plan]
        assert Counter(name.split("-")[0] for name in set(names)) == dict.fromkeys(TASKS, 5)
        seen.update(set(names))
        firsts[plan[0].method] += 1
        for name in set(names):
            one, other = (at for at, each in enumerate(names) if each == name)
            assert other - one >= 10
    assert set(seen.values()) == {5} and len(seen) == 200 and min(firsts.values()) > 10


def test_where_each_sees_one_method_both_are_seen_alike_and_odd_numbers_differ_by_one() -> None:
    plans = assign(Study("items.jsonl", ("ours", "theirs"), participants=50, both=False), items())
    shown = Counter((screen.item, screen.method) for plan in plans for screen in plan)
    assert set(shown.values()) <= {2, 3} and sum(shown.values()) == 1000
    uses = Counter(
        screen.item for plan in assign(Study("i", ("a", "b"), 7, 12, False), items(10)) for screen in plan
    )
    assert max(uses.values()) - min(uses.get(item.id, 0) for item in items(10)) <= 1


def study(folder: Path, lines: list[Any], **more: Any) -> Path:
    for name in ("o.png", "a.png", "b.mp4"):
        (folder / name).write_bytes(b"x")
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / "study.yaml"
    path.write_text(
        json.dumps({"items": "items.jsonl", "methods": ["a", "b"], "each": 1, "apart": 0, **more})
    )
    return path


LINE = {"id": "x", "task": "2D", "original": "o.png", "outputs": {"a": "a.png", "b": "b.mp4"}}


def test_what_a_study_must_say(tmp_path: Path) -> None:
    read = load_study(study(tmp_path, [LINE, {**LINE, "id": "y", "reference": "o.png", "text": "so"}]))
    assert [item.outputs for item in read[1]] == [("a.png", "b.mp4")] * 2
    for line, word in (
        ({**LINE, "outputs": {"a": "a.png"}}, "outputs"), ({**LINE, "original": "../o.png"}, "o.png"),
        ({**LINE, "original": "no.png"}, "no such file"), ({**LINE, "original": "o.exe"}, "browsers"),
        ([], "expected"), ({**LINE, "more": 1}, "expected"), ({**LINE, "id": ""}, "id"),
        ({**LINE, "task": 7}, "task"),
    ):  # fmt: skip
        with pytest.raises(RecordError, match=word):
            load_study(study(tmp_path, [line]))
    with pytest.raises(RecordError, match="twice"):
        load_study(study(tmp_path, [LINE, LINE]))
    wrong: list[dict[str, Any]] = [
        {"methods": ["a"]}, {"each": 3}, {"each": 4}, {"both": "x"}, {"participants": 0},
        {"apart": 2, "each": 2},
    ]  # fmt: skip
    for more in wrong:
        with pytest.raises(ConfigError):
            load_study(study(tmp_path, [LINE, {**LINE, "id": "y", "task": "3D"}], **{"each": 2, **more}))


def simulated(seed: int, gap: float = 0.5) -> list[Rating]:
    """The paper's study with effects of people and items."""
    rng = np.random.default_rng(seed)
    people, things = rng.normal(0, 0.4, 50), {item.id: rng.normal(0, 0.4) for item in items()}
    found = []
    for number, plan in enumerate(assign(Study("i", ("ours", "theirs"), seed=seed % 7), items())):
        for screen in plan:
            value = (
                3
                + gap * (screen.method == "ours")
                + people[number]
                + things[screen.item]
                + rng.normal(0, 0.8)
            )
            task = screen.item.split("-")[0]
            found.append(Rating(str(number), screen.item, task, screen.method, value))  # type: ignore[arg-type]
    return found


def test_the_interval_is_statsmodels_own() -> None:
    sm = pytest.importorskip("statsmodels.regression.linear_model")
    ratings = [rating for rating in simulated(3) if rating.method == "ours"]
    values = np.array([rating.value for rating in ratings])
    groups = np.array(
        [[int(each.person), sorted({r.item for r in ratings}).index(each.item)] for each in ratings]
    )
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}
    )
    found = mean(ratings)
    from scipy.stats import t

    half = float(t.ppf(0.975, 49)) * float(fit.bse[0])
    assert found.mean == pytest.approx(values.mean()) and found.high - found.mean == pytest.approx(
        half, rel=0.01
    )


def coverage(studies: int) -> tuple[float, float]:
    """Shares of studies whose intervals hold the true mean and the true difference."""
    right = np.zeros(2)
    for seed in range(studies):
        ratings = simulated(seed)
        ours, theirs = ([r for r in ratings if r.method == name] for name in ("ours", "theirs"))
        found, gap = mean(ours), difference(ours, theirs)
        right += [found.low <= 3.5 <= found.high, gap.low <= 0.5 <= gap.high]
    return float(right[0] / studies), float(right[1] / studies)


def test_twenty_simulated_studies_hold_the_truth_about_as_often_as_they_say() -> None:
    assert min(coverage(20)) >= 0.85


@pytest.mark.slow
def test_a_thousand_simulated_studies_hold_the_truth_as_often_as_they_say() -> None:
    for share in coverage(1000):
        assert 0.93 <= share <= 0.98


def test_the_table_has_a_line_a_task_and_one_for_all() -> None:
    ratings = [
        Rating(r.person, r.item, r.task, r.method, min(5, max(1, round(r.value)))) for r in simulated(1)
    ]
    lines = table(ratings, ("ours", "theirs")).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["task", "---", *TASKS, "all"]
    assert "+-" in lines[2] and "2,000" in lines[-1] and "ours - theirs" in lines[0]
    few = [Rating("p", "x", "2D", "ours", 4)]
    assert math.isnan(mean(few).low) and "4.00" in table(few, ("ours", "theirs"))
    split = difference(ratings[:50], ratings[60:90])
    assert split.low < split.mean < split.high
