"""Regimes: arms that are recipes, runs that are found by their hash, rows that a model writes and three rate,
rates that validation chooses; and a small regime that is run, and gone on with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trainer.study.own_samples as own_samples
import trainer.study.regime_study as regime_study
import trainer.study.trials as trials
from evlm.errors import ConfigError
from evlm.models.zoo import resolve
from trainer.__main__ import main
from trainer.config.recipe import RECIPES
from trainer.config.settings import read_yaml
from trainer.data.files import read
from trainer.data.stats import named_votes
from trainer.evaluation.questions import dataset_questions
from trainer.learner.rows import weights_of
from trainer.run.loop import Stopped
from trainer.study.own_samples import Wanted, make, name_of
from trainer.study.regime_study import Plan, choose
from trainer.study.regimes import REGIMES
from trainer.study.trials import Exam, Trial, _contents
from trainer.world.mix import Mix
from trainer.world.rows import Recipe, completion_row, question_at
from trainer.world.rows import rows as world_rows


def plan(tmp_path: Path, regime: str = "data", **given: Any) -> Plan:
    recipe = read_yaml(RECIPES / "tiny.yaml")
    settings: dict[str, Any] = {
        "regime": regime,
        "recipe": recipe,
        "arms": REGIMES[regime],
        "rates": (1e-3, 2e-3),
        "seeds": 1,
        "steps": 7,
        "eval_every": 2,
        "eval_rows": 3,
        "patience": 1,
        "prompts": 4,
        "samples": 2,
        "exam": Exam(5, 0.5),
        "store": tmp_path / "trials",
    }
    return Plan(**{**settings, **given})


@pytest.mark.parametrize(("regime", "arm"), [(r, a) for r, arms in REGIMES.items() for a in arms])
def test_every_arm_is_a_recipe_and_all_have_the_same_schedule(regime: str, arm: str, tmp_path: Path) -> None:
    some, file = plan(tmp_path, regime), tmp_path / "a.safetensors"
    file.write_bytes(b"x")
    config = some.trial(REGIMES[regime][arm], 1e-3, 2, file, some.recipe["data"][0]).config
    (phase,) = config.phases
    assert (phase.lr, phase.steps, phase.patience, phase.patience_by) == (1e-3, 7, 1, "exact")
    assert (phase.cooldown, phase.warmup, config.seed, config.eval_every) == (0.0, 5, 2, 2)
    assert config.model.adapter == str(file) and config.data[0].lamp == 0.5
    if regime == "verifier":
        assert phase.kind == "group" and phase.group.against == "truth" and not phase.group.lambda_sft


def test_a_run_is_known_by_what_it_depends_on_and_by_nothing_else(tmp_path: Path) -> None:
    some, a, b = plan(tmp_path), tmp_path / "a", tmp_path / "b"
    for file in (a, b):
        file.write_bytes(b"weights")
    arm, data = REGIMES["data"]["SFT"], some.recipe["data"][0]
    first = some.trial(arm, 1e-3, 0, a, data)
    assert first.hash == some.trial(arm, 1e-3, 0, b, data).hash, "another place, the same adapter"
    assert first.hash == replace(some, exam=Exam(9, 0.1)).trial(arm, 1e-3, 0, a, data).hash
    others = [
        some.trial(arm, 2e-3, 0, a, data),
        some.trial(arm, 1e-3, 1, a, data),
        some.trial(arm, 1e-3, 0, a, {**data, "lamp": 0.1}),
        replace(some, eval_rows=4).trial(arm, 1e-3, 0, a, data),
    ]
    b.write_bytes(b"others")
    others.append(some.trial(arm, 1e-3, 0, b, data))
    assert len({first.hash, *(each.hash for each in others)}) == 6
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("{}")
    sources = [some.trial(arm, 1e-3, 0, a, {"path": str(tmp_path / name)}).hash for name in ("one", "two")]
    assert sources[0] == sources[1] != first.hash and len(_contents(a)) == 20


def test_a_run_of_another_base_of_the_same_name_is_another(tmp_path: Path) -> None:
    base, some = copied(tmp_path), plan(tmp_path)
    (tmp_path / "a").write_bytes(b"x")
    recipe = {**some.recipe, "model": {"base": str(base)}}
    trial = replace(some, recipe=recipe).trial(
        REGIMES["data"]["SFT"], 1e-3, 0, tmp_path / "a", recipe["data"][0]
    )
    first = trial.hash
    assert first == Trial(trial.recipe, trial.store).hash
    assert first != Trial({**trial.recipe, "keep_best": False}, trial.store).hash
    grow(base)
    assert trial.hash != first


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve("bundled", "reasoner"), tmp_path / "base"))


def grow(base: Path) -> None:
    """Other weights of the same name."""
    with next(iter(base.glob("*.safetensors"))).open("ab") as file:
        file.write(b"x")


def test_samples_of_another_model_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a note that was cut off is none."""
    row = completion_row(Recipe(0), 0, question_at(Recipe(0), 0))
    asked: list[int] = []

    def texts(*_: Any) -> Any:
        asked.append(1)
        yield row.completion

    monkeypatch.setattr(own_samples, "_texts", texts)
    base, adapter, folder = copied(tmp_path), tmp_path / "a", tmp_path / "rows"
    adapter.write_bytes(b"x")
    wanted = Wanted(first=0, prompts=1, samples=1, measured=1, seed=0, lamp=0.0, chance=0)
    found = make(folder, str(base), adapter, wanted)
    (folder / own_samples.NOTE).write_text('{"asked": {')
    assert make(folder, str(base), adapter, wanted) == found and len(asked) == 2
    assert len(list(read(folder, pytest.fail))) == 2, "made anew, not added to"
    names = {name_of(str(base), adapter, wanted)}
    adapter.write_bytes(b"other")
    with pytest.raises(ConfigError, match="other samples"):
        make(folder, str(base), adapter, wanted)
    names.add(name_of(str(base), adapter, wanted))
    adapter.write_bytes(b"x")
    grow(base)
    with pytest.raises(ConfigError, match="other samples"):
        make(folder, str(base), adapter, wanted)
    assert len({*names, name_of(str(base), adapter, wanted)}) == 3


def test_prompts_come_behind_what_the_stage_learned_in_the_recipes_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rows lie where every study of the same runs finds them."""
    adapter, seen = tmp_path / "a", []
    adapter.write_bytes(b"x")

    def made(folder: Path, base: str, adapter: Path, wanted: Wanted) -> dict[str, Any]:
        seen.append(wanted)
        return {}

    monkeypatch.setattr(regime_study, "make", made)
    some = plan(tmp_path, "ratings")
    learned = {row.question for row, _ in world_rows(Recipe(100), 0, 600)}
    sources = [some.rated(0, adapter, number)[0] for number in (0, 1)]
    assert [each.first for each in seen] == [353, 357] and not seen[0].mix
    asked = {completion_row(Recipe(100), n, question_at(Recipe(100), n)).question for n in range(353, 361)}
    assert len(learned) == 353 and not asked & learned
    other = replace(some, regime="rounds", seeds=3)
    assert other.rated(0, adapter, 0)[0] == sources[0] != sources[1]
    assert Path(sources[0]["path"]).parent == some.store / "rows"
    data = [{**some.recipe["data"][0], "doubles": 0.5, "rows": 0}]
    replace(some, recipe={**some.recipe, "data": data}).rated(0, adapter, 0)
    assert seen[-1].mix == Mix(doubles=0.5) and seen[-1].first == 0


def test_questions_of_two_edits_are_measured_and_rated_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(0, mix=Mix(doubles=1.0))
    gold = [completion_row(recipe, n, question_at(recipe, n)) for n in range(2)]
    monkeypatch.setattr(own_samples, "_texts", lambda *_: iter([each.completion for each in gold]))
    wanted = Wanted(0, 2, 1, 2, 0, 0.0, 0, recipe.mix)
    found = make(tmp_path / "rows", "bundled", tmp_path, wanted)
    assert found == {"traces": 2, "right": 2, "mislabelled": found["mislabelled"], "broken": 0}
    rows = [row for _, row in read(tmp_path / "rows", pytest.fail)]
    assert [row.completion for row in rows[:2]] == [each.completion for each in gold]
    assert all(len(row.steps) == 2 for row in rows) and not any("mask" in s for s in rows[0].steps)


@pytest.mark.parametrize("regime", ["ratings", "rounds"])
def test_samples_of_fewer_parts_are_refused(regime: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["study", regime, "parts=two_step", "--out", str(tmp_path)]) == 2
    assert "rated as whole traces" in capsys.readouterr().err


def test_own_samples_are_rated_by_three_and_nobody_sees_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(100)
    gold = [completion_row(recipe, n, question_at(recipe, n)) for n in range(3, 33)]

    def texts(base: str, adapter: Path, wanted: Wanted) -> Any:
        for row, other in zip(gold, [*gold[1:], gold[0]], strict=True):
            yield from (row.completion, other.completion, "<thinking>\nnothing")

    monkeypatch.setattr(own_samples, "_texts", texts)
    wanted = Wanted(first=3, prompts=30, samples=3, measured=4, seed=100, lamp=0.5, chance=0)
    found = make(tmp_path / "rows", "bundled", tmp_path, wanted)
    assert found["broken"] == 30 and found["traces"] == 60 and 30 <= found["right"] < 35
    rows = [row for _, row in read(tmp_path / "rows", pytest.fail)]
    train = [row for row in rows if row.split == "train"]
    assert len(train) == 60 and len(rows) == 64
    right = {row.question: row.instruction for row in gold}
    wrong = sum(row.label != (right[row.question] == row.instruction) for row in train)
    assert wrong == found["mislabelled"] <= 12
    for row in train:
        assert len(row.raters) == 3 and row.label == (sum(row.raters) >= 2)
        assert row.mask is None and not row.edited, "what is right is nowhere in them"
        assert list(row.meta) == ["votes"] and all(
            set(vote) == {"rater", "yes"} for vote in row.meta["votes"]
        )
    assert (
        len({name for row in train for name, _ in named_votes(row)}) == 3 and len(weights_of(train, "")) == 60
    )
    assert len(dataset_questions(tmp_path / "rows", None, 0, "validation")) == 4
    monkeypatch.setattr(own_samples, "_texts", lambda *_: pytest.fail("asked again"))
    assert make(tmp_path / "rows", "bundled", tmp_path, wanted) == found
    with pytest.raises(Exception, match="other samples"):
        make(tmp_path / "rows", "bundled", tmp_path, replace(wanted, chance=1))


def test_validation_chooses_the_rate_and_of_equals_the_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    some = plan(tmp_path, rates=(5e-4, 1e-3, 2e-3))
    scores = {5e-4: 0.4, 1e-3: 0.6, 2e-3: 0.6}

    def train(trial: Trial) -> dict[str, Any]:
        rate = trial.config.phases[0].lr
        return {"exact": scores[rate], "best_step": 4, "tokens": 1e6, "cpu_seconds": 2.0}

    monkeypatch.setattr(regime_study, "train", train)
    rate, table = choose(some, REGIMES["data"]["SFT"], tmp_path / "a", some.recipe["data"][0])
    assert rate == 1e-3 and set(table) == set(scores)
    lines = regime_study._rates(some, [("SFT", table, rate)])
    assert "| SFT | 0.400 (4) | **0.600 (4)** | 0.600 (4) | 3.00 | 6 |" in lines


def test_the_best_step_is_that_of_the_adapter_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal answers the better masks, and where none is right the lower loss."""

    def best(*evals: dict[str, Any]) -> Any:
        def run(config: Any, report: Any) -> None:
            for number, each in enumerate(evals, 1):
                report({"event": "eval", "step": number, "stage": 0, **each})

        monkeypatch.setattr("trainer.run.loop.run", run)
        (tmp_path / "a").write_bytes(b"%d" % len(list((tmp_path / "trials").glob("*"))))
        some = plan(tmp_path)
        trial = some.trial(REGIMES["data"]["SFT"], 1e-3, 0, tmp_path / "a", some.recipe["data"][0])
        trained = trials.train(trial)
        return trained["best_step"], trained["exact"]

    assert best({"exact": 0.5, "iou": 0.2}, {"exact": 0.5, "iou": 0.4}, {"exact": 0.4, "iou": 1}) == (2, 0.5)
    assert best({"exact": 0.0, "loss": 3.0}, {"exact": 0.0, "loss": 2.0}) == (2, 0.0)
    assert best() == (0, None)


def test_a_study_that_is_asked_to_stop_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise Stopped("stopped at step 2; the same command goes on from there")

    monkeypatch.setattr(regime_study, "train", stopped)
    assert main(["study", "data", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]) == 130
    assert "goes on from there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--arm", "RLHF"], "expected one of SFT"),
        (["--rates", "2"], "--rates"),
        (["--patience", "0"], "--patience"),
    ],
)
def test_what_does_not_fit_is_said(flags: list[str], reason: str, capsys: Any, tmp_path: Path) -> None:
    assert main(["study", "data", *flags, "--out", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err


SMALL = ["phases.0.steps=1", "phases.0.batch=2", "data.0.rows=20"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regime", "arms"),
    [
        ("data", ["SFT", "DPO + NLL"]),
        ("ratings", ["SFT on the liked", "KTO without pairs + NLL"]),
        ("verifier", ["rejection sampling", "credit, a draw used twice"]),
        ("rounds", ["SFT on the liked"]),
    ],
)
def test_a_regime_is_run_and_gone_on_with(
    regime: str, arms: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    chosen = [word for arm in arms for word in ("--arm", arm)]
    flags = [
        *chosen,
        "--seeds",
        "1",
        "--steps",
        "2",
        "--questions",
        "3",
        "--rates",
        "1e-3",
        "--eval-every",
        "1",
    ]
    flags += ["--eval-rows", "2", "--prompts", "8", "--samples", "2", "--out", str(tmp_path / "out")]
    flags += ["--runs", str(tmp_path / "trials")]
    assert main(["study", regime, *SMALL, *flags]) == 0
    first = (tmp_path / "out" / "results.md").read_text()
    assert first in capsys.readouterr().out and all(f"| {arm}" in first for arm in arms)
    assert "Rates, chosen for every arm alike" in first
    monkeypatch.setattr("trainer.run.loop.run", lambda *_: pytest.fail("trained again"))
    assert main(["study", regime, *SMALL, *flags]) == 0
    assert (tmp_path / "out" / "results.md").read_text() == first
