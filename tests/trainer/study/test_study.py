"""Studies: arms of equal compute, their page and curves; and one that is run, and gone on with."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

import trainer.run.loop
import trainer.study.cli
from evlm.errors import ConfigError
from trainer.__main__ import main
from trainer.config.recipe import RECIPES, Config
from trainer.config.settings import read_yaml
from trainer.evaluation.accuracy import Outcome
from trainer.learner.state import Progress, States
from trainer.study.arms import ARMS, BASE, STAGES, STUDIES
from trainer.study.cli import Job, _arms, _config, _prices, _run
from trainer.study.figure import figure, figures
from trainer.study.page import page

SMALL = [
    "phases.0.steps=1",
    "phases.0.batch=2",
    "phases.1.batch=2",
    "phases.1.micro_batch=2",
    "data.0.rows=20",
]


def outcome(number: int, exact: bool) -> dict[str, object]:
    return {
        "id": f"q{number}",
        "edit_type": "recolour",
        "category": "image",
        "exact": exact,
        "targets": exact,
        "iou": 1.0 if exact else 0.5,
        "malformed": False,
        "tokens": 9,
        "instruction": "x",
        "text": "y",
    }


def judged() -> Outcome:
    return Outcome(**outcome(0, True))  # type: ignore[arg-type]


def result(arm: str, seed: int, right: int, steps: int = 4) -> dict[str, object]:
    return {
        "job": {"arm": arm, "seed": seed, "steps": steps, "questions": 10, "split": "test"},
        "outcomes": [outcome(n, n < right) for n in range(10)],
        "tokens": 2e6,
        "cpu_seconds": 12.0,
    }


@pytest.mark.parametrize("arm", sorted({arm for arms in STUDIES.values() for arm in arms}))
def test_every_arm_is_a_recipe(arm: str) -> None:
    recipe = read_yaml(RECIPES / "tiny.yaml")
    config = _config(recipe, arm, 7, 2, "somewhere")
    assert config.seed == 2 and config.out == "somewhere"
    assert [phase.steps for phase in config.phases] == ([40] if arm in STAGES else [40, 7])
    assert len(config.phases) == 1 or config.phases[1].kind == ARMS[arm]["kind"]


def test_arms_say_what_they_change() -> None:
    recipe = read_yaml(RECIPES / "tiny.yaml")
    assert _config(recipe, "lambda 0.02", 1, 0, "o").phases[1].rkto.lambda_ref == 0.02
    assert _config(recipe, "K = 8", 1, 0, "o").phases[1].rewards.samples == 8
    ratio = _config(recipe, "alpha ratio 1.5", 1, 0, "o").phases[1].kto
    assert ratio.alpha_desired / ratio.alpha_undesired == 1.5
    assert _config(recipe, "gamma 0.05", 1, 0, "o").phases[1].kto.gamma == 0.05
    assert _config(recipe, "SFT, 100 rows", 1, 0, "o").data[0].rows == 100
    paper = _config(recipe, "RKTO, the paper's", 1, 0, "o").phases[1]
    assert (paper.rkto.lambda_ref, paper.rewards.similarity) == (0.2, "cosine")


def test_the_page_counts_by_hand() -> None:
    results = [result(BASE, 0, 4), result(BASE, 1, 6), result("SFT", 0, 8), result("SFT", 1, 6)]
    text = page("table4", results, 2e6, {"phases": [{}, {}], "data": []})
    row = next(line for line in text.splitlines() if line.startswith("| SFT |"))
    assert "0.700" in row and "0.800, 0.600" in row and "+0.200" in row and "| 2.00 | 12 |" in row
    assert "2 seeds, 10 questions of the split test each" in text


def test_steps_are_the_mean_over_seeds_as_tokens_are() -> None:
    results = [result(BASE, 0, 4, 0), result(BASE, 1, 4, 0), result("A", 0, 5, 10), result("A", 1, 5, 25)]
    results += [result("B", 0, 5, 10), result("B", 1, 5, 30)]
    text = page("data", results, None, {"phases": [{}, {}], "data": []})
    ends = [line.rsplit("|", 4)[1].strip() for line in text.splitlines() if line.endswith("| 2.00 | 12 |")]
    assert ends == ["", "17.5", "20"]


def test_the_page_says_what_the_reflection_did() -> None:
    """Intermediates of 0 to 5 are right, answers of 0 to 3 and 7: two of six spoilt, one of four mended."""

    def row(known: bool) -> str:
        one = result(BASE, 0, 4)
        for number, each in enumerate(one["outcomes"] if known else []):  # type: ignore[arg-type]
            each |= {"first": number < 6, "exact": number < 4 or number == 7}
        text = page("table4", [one], 2e6, {"phases": [{}, {}], "data": []})
        return next(line for line in text.splitlines() if line.startswith(f"| {BASE} |"))

    assert "| 0.250 of 4 | 0.333 of 6 |" in row(True)
    assert "| - | - |" in row(False), "runs of an older version do not say"


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        events = [{"event": "step", "step": step, "iou": value + step} for step in (1, 2)]
        (tmp_path / name).write_text("\n".join([*map(json.dumps, events), '{"event": "st']))
    pages = figures(tmp_path, {"<arm>": [tmp_path / "a", tmp_path / "b"]})
    assert [path.name for path in pages] == ["iou.svg"]
    assert "&lt;arm&gt;" in pages[0].read_text()
    svg = figure("t", {"x": [(1, 3.0), (2, 4.0)]})
    assert svg.count("<polyline") == 1 and svg.startswith("<svg")


def test_a_job_that_was_killed_counts_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log ends in half a line, and two of its steps were done twice."""
    recipe = {**read_yaml(RECIPES / "tiny.yaml")}
    job = Job("SFT", 0, 3, str(tmp_path), recipe, 1, 0.0, "test")
    steps = [{"event": "step", "stage": 1, "step": step, "tokens": 10} for step in (41, 42, 43)]
    before = [{"event": "start"}, *steps[:2]]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in before) + '{"eve')

    def train(config: Config, report: Any) -> Path:
        states = States(tmp_path / "state", json.loads(config.identity))
        model = torch.nn.Linear(1, 1)
        states.save(model, torch.optim.AdamW(model.parameters()), Progress(43, cpu_seconds=900.0))
        for event in ({"event": "start"}, {"event": "resume", "step": 40}, *steps):
            report(event)
        return tmp_path / "adapter.safetensors"

    monkeypatch.setattr(trainer.run.loop, "run", train)
    monkeypatch.setattr(trainer.study.cli, "load", lambda *_: (None, None, ()))
    monkeypatch.setattr(trainer.study.cli, "evaluate", lambda *_, **__: [judged()])
    _run(job)
    value = json.loads(job.result.read_text())
    assert value["tokens"] == 30 and 900 <= value["cpu_seconds"] < 1000


@pytest.mark.parametrize("end", [trainer.run.loop.Stopped("step 3"), KeyboardInterrupt()])
def test_a_process_that_was_asked_to_stop_begins_no_other_run(
    end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool hands each process one run more than it is at, and Ctrl-C ends that one alone."""
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        if name == "b":
            raise end
        return name

    monkeypatch.setattr(trainer.study.cli, "_ASKED_TO_STOP", Event())
    assert trainer.study.cli._unless_stopped(work, "a") == "a"
    with pytest.raises(type(end)):
        trainer.study.cli._unless_stopped(work, "b")
    with pytest.raises(trainer.run.loop.Stopped, match="before it began"):
        trainer.study.cli._unless_stopped(work, "c")
    assert begun == ["a", "b"]


@pytest.mark.slow
def test_a_study_is_run_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*SMALL, "phases.1.rewards.max_new_tokens=16"]
    flags = ["--seeds", "1", "--steps", "1", "--questions", "3", "--jobs", "2", "--out", str(tmp_path)]
    assert main(["study", "table4", *settings, *flags]) == 0
    first = (tmp_path / "results.md").read_text()
    assert first in capsys.readouterr().out and "| RKTO |" in first
    (tmp_path / "KTO-0" / "result.json").unlink()
    assert main(["study", "table4", *settings, *flags]) == 0
    assert "6 runs, 1 to do" in capsys.readouterr().out
    assert main(["study", "table4", *settings, "phases.1.lr=1", *flags]) == 2
    assert "another study" in capsys.readouterr().err
    assert main(["study", "table4", "--seeds", "0"]) == 2


def test_an_arm_that_a_study_lacks_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "table4", "--arm", "SFT", "--arm", "SFT, direct"]) == 2
    said = capsys.readouterr().err
    assert "'SFT, direct'" in said and "SFT, same steps" in said
    args = Namespace(study="table4", arm=["KTO", "SFT stage"])
    assert _arms(args) == ("SFT stage", "KTO")


def test_what_a_step_costs_is_kept_for_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Pool:
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

        def map(self, _: object, arms: list[str], __: object) -> list[float]:
            asked.extend(arms)
            return [float(len(asked))] * len(arms)

    monkeypatch.setattr(trainer.study.cli, "_pool", lambda _: Pool())
    file, arms, recipe = tmp_path / "prices.json", ("SFT", "KTO"), read_yaml(RECIPES / "tiny.yaml")
    assert _prices(file, arms[:1], recipe, 1) == {"SFT": 1.0}
    assert _prices(file, arms, recipe, 1) == {"SFT": 1.0, "KTO": 2.0} and asked == ["SFT", "KTO"]
    other = {**recipe, "seed": 5}
    assert _prices(file, arms, other, 1) == {"SFT": 4.0, "KTO": 4.0}
    file.write_text(json.dumps({"SFT": 7.0}))  # of a version that did not say of which recipe
    assert _prices(file, arms[:1], other, 1) == {"SFT": 5.0}
    for wrong in ({"SFT": 0}, [1]):
        file.write_text(json.dumps({**json.loads(file.read_text()), "tokens": wrong}))
        with pytest.raises(ConfigError, match="measured again"):
            _prices(file, arms, other, 1)
