"""`python -m trainer study data|ratings|verifier|rounds`: arms of a regime, each at the rate that is best for
it on validation and until validation gets no better.

All arms of a seed begin from one SFT stage. Every run is kept by its hash under RUNS, so a study goes on
where it was stopped, and arms that two studies share are run once.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError

from ..evaluation.accuracy import Outcome, difference
from ..world.mix import Mix
from ..world.rows import UNDESIRED, place_of
from .own_samples import WHOLE, Wanted, make, name_of
from .page import page
from .regimes import REGIMES, ROUNDS, Arm
from .trials import Exam, Trial, examine, train

STAGE = "SFT stage"


@dataclass(frozen=True)
class Plan:
    """What is run: rates, seeds, arms, and for how long at most. recipe: `tiny`, with what was assigned."""

    regime: str
    recipe: dict[str, Any]
    arms: dict[str, Arm]
    rates: tuple[float, ...]
    seeds: int
    steps: int
    eval_every: int
    eval_rows: int
    patience: int
    prompts: int
    samples: int
    exam: Exam
    store: Path

    @property
    def lamp(self) -> float:
        return float(self.recipe["data"][0].get("lamp", 0.0))

    def stage(self, seed: int) -> Trial:
        """What all arms of a seed begin from."""
        changes = {"phases": self.recipe["phases"][:1], "seed": seed, "log_every": 1}
        return Trial({**self.recipe, **changes}, str(self.store))

    def trial(self, arm: Arm, rate: float, seed: int, adapter: Path, data: Mapping[str, Any]) -> Trial:
        """An arm from where an adapter is, on some rows."""
        settings = {name: value for name, value in arm.items() if name != "data"}
        phase = {
            "batch": 16,
            "micro_batch": 8,
            "warmup": 5,
            "cooldown": 0.0,
            **settings,
            "lr": rate,
            "steps": self.steps,
            "patience": self.patience,
            "patience_by": "exact",
        }
        phase["micro_batch"] = min(phase["micro_batch"], phase["batch"])
        whole = {
            **self.recipe,
            "model": {**self.recipe.get("model", {}), "adapter": str(adapter)},
            "data": [{**data, **arm.get("data", {})}],
            "phases": [phase],
            "seed": seed,
            "log_every": 1,
            "eval_every": self.eval_every,
            "eval_rows": self.eval_rows,
        }
        return Trial(whole, str(self.store))

    def rated(self, seed: int, adapter: Path, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(a source of the model's own rated samples of a round, what is in it). Its prompts come behind
        those whose right answers the stage has learned. It lies beside the runs, so that its path, which a
        run's state holds, is the same for every study."""
        data, base = self.recipe["data"][0], self.recipe["model"]["base"]
        learned = int(data.get("rows", 0))
        first = place_of(learned - 1, UNDESIRED)[0] + 1 if learned else 0
        wanted = Wanted(
            first + number * self.prompts,
            self.prompts,
            self.samples,
            self.eval_rows,
            int(data.get("seed", 0)),
            self.lamp,
            seed,
            Mix(**{each.name: float(data.get(each.name, 0.0)) for each in fields(Mix)}),
        )
        folder = self.store / "rows" / name_of(base, adapter, wanted)
        found = make(folder, base, adapter, wanted)
        return {"path": str(folder)}, found


def run(plan: Plan) -> str:
    """Runs what is missing and returns the page."""
    if plan.regime == "rounds":
        return _rounds(plan)
    notes: list[str] = []
    results, tables = [], []
    stages = [plan.stage(seed) for seed in range(plan.seeds)]
    for seed, stage in enumerate(stages):
        train(stage)
        results.append(_result(STAGE, seed, 0, stage, plan.exam, None))
    sources = [_source(plan, seed, stage, notes) for seed, stage in enumerate(stages)]
    for name, arm in plan.arms.items():
        rate, table = choose(plan, arm, stages[0].adapter, sources[0])
        tables.append((name, table, rate))
        for seed in range(plan.seeds):
            trial = plan.trial(arm, rate, seed, stages[seed].adapter, sources[seed])
            trained = train(trial)
            _say(f"{name}, rate {rate:g}, seed {seed}: {trained['exact']:.3f} on validation")
            results.append(_result(name, seed, trained["best_step"], trial, plan.exam, trained))
    lines = [page(plan.regime, results, None, plan.recipe), *_rates(plan, tables), *_arms(plan), *notes]
    return "\n".join(lines) + "\n"


def choose(
    plan: Plan, arm: Arm, adapter: Path, data: Mapping[str, Any]
) -> tuple[float, dict[float, dict[str, Any]]]:
    """(the rate that is best on validation with seed 0, the lower one of equals; what each came to)."""
    table = {}
    for rate in plan.rates:
        table[rate] = train(plan.trial(arm, rate, 0, adapter, data))
        _say(f"  rate {rate:g}: {table[rate]['exact']:.3f} after {table[rate]['best_step']} steps")
    return max(table, key=lambda rate: (table[rate]["exact"], -rate)), table


def _source(plan: Plan, seed: int, stage: Trial, notes: list[str]) -> dict[str, Any]:
    """What the arms of a seed learn from."""
    if plan.regime != "ratings":
        return dict(plan.recipe["data"][0])
    source, found = plan.rated(seed, stage.adapter, 0)
    notes.append(_found(f"Seed {seed}", found))
    return source


def _rounds(plan: Plan) -> str:
    """Round after round, each from the adapter of the one before, on prompts that no round had."""
    results, tables, notes, lines = [], [], [], []
    outcomes: dict[tuple[str, int, int], list[Outcome]] = {}
    for seed in range(plan.seeds):
        stage = plan.stage(seed)
        train(stage)
        results.append(_result(STAGE, seed, 0, stage, plan.exam, None))
    rates: dict[str, float] = {}
    for name, arm in plan.arms.items():
        for seed in range(plan.seeds):
            adapter = plan.stage(seed).adapter
            for number in range(ROUNDS):
                # The first round's rows are the stage's, so every arm has the same.
                source, found = plan.rated(seed, adapter, number)
                if name not in rates:
                    rates[name], table = choose(plan, arm, adapter, source)
                    tables.append((name, table, rates[name]))
                trial = plan.trial(arm, rates[name], seed, adapter, source)
                trained = train(trial)
                _say(f"{name}, seed {seed}, round {number + 1}: {trained['exact']:.3f} on validation")
                result = _result(
                    f"{name}, round {number + 1}", seed, trained["best_step"], trial, plan.exam, trained
                )
                outcomes[name, seed, number] = [Outcome(**each) for each in result["outcomes"]]
                results.append(result)
                notes.append(_found(f"{name}, seed {seed}, round {number + 1}", found))
                adapter = trial.adapter
    for name in plan.arms:
        for seed in range(plan.seeds):
            gain = difference(outcomes[name, seed, ROUNDS - 1], outcomes[name, seed, 0])
            lines.append(
                f"- {name}, seed {seed}: round {ROUNDS} over round 1 {gain.mean:+.3f} "
                f"({gain.low:+.3f} to {gain.high:+.3f})"
            )
    text = page(plan.regime, results, None, plan.recipe)
    return "\n".join([text, *lines, "", *_rates(plan, tables), *_arms(plan), *notes]) + "\n"


def _result(
    arm: str, seed: int, steps: int, trial: Trial, exam: Exam, trained: Mapping[str, Any] | None
) -> dict[str, Any]:
    """As `page` reads it; the stage is what all have spent alike, and costs nothing here."""
    asked = examine(trial, exam)
    job = {"arm": arm, "seed": seed, "steps": steps, "questions": exam.questions, "split": exam.split}
    spent = dict(trained or {"tokens": 0.0, "cpu_seconds": 0.0})
    return {
        "job": job,
        "outcomes": asked["outcomes"],
        "tokens": spent["tokens"],
        "cpu_seconds": spent["cpu_seconds"],
    }


def _rates(plan: Plan, tables: Sequence[tuple[str, Mapping[float, Mapping[str, Any]], float]]) -> list[str]:
    """Validation by rate, seed 0, with what the search cost."""
    head = " | ".join(f"{rate:g}" for rate in plan.rates)
    lines = [
        f"Rates, chosen for every arm alike by exact answers to {plan.eval_rows} validation questions, "
        "seed 0 (step of the best measurement):",
        "",
        f"| arm | {head} | tokens of the search, M | CPU s |",
        "|---|" + "---|" * (len(plan.rates) + 2),
    ]
    for name, table, chosen in tables:
        cells = []
        for rate in plan.rates:
            text = f"{table[rate]['exact']:.3f} ({table[rate]['best_step']})"
            cells.append(f"**{text}**" if rate == chosen else text)
        tokens = sum(each["tokens"] for each in table.values()) / 1e6
        cpu = sum(each["cpu_seconds"] for each in table.values())
        lines.append(f"| {name} | {' | '.join(cells)} | {tokens:.2f} | {cpu:.0f} |")
    return [*lines, ""]


def _arms(plan: Plan) -> list[str]:
    """What each arm is."""
    how = (
        f"Each arm: batches of 16 (DPO: 8 pairs), AdamW, at most {plan.steps} steps, measured every "
        f"{plan.eval_every}, ended after {plan.patience} without a better one."
    )
    return [how, "", *(f"- {name}: {arm}" for name, arm in plan.arms.items()), ""]


def _found(name: str, found: Mapping[str, Any]) -> str:
    traces = max(1, found["traces"])
    return (
        f"- {name}: {found['traces']:,} traces of its own, {found['right'] / traces:.3f} of them right, "
        f"{found['mislabelled'] / traces:.3f} of the labels wrong; {found['broken']:,} answers were no trace."
    )


def _say(text: str) -> None:
    print(text, flush=True)


def plan_of(args: argparse.Namespace, recipe: dict[str, Any]) -> Plan:
    """Raises ConfigError."""
    arms = REGIMES[args.study]
    if args.arm:
        unknown = [name for name in args.arm if name not in arms]
        if unknown:
            raise ConfigError(f"--arm {unknown[0]!r:.60}: expected one of {', '.join(arms)}")
        arms = {name: arm for name, arm in arms.items() if name in args.arm}
    rates = tuple(args.rates)
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise ConfigError("--rates: expected learning rates between 0 and 1")
    parts = recipe.get("parts", "own")
    if args.study in ("ratings", "rounds") and parts not in ("own", "full"):
        raise ConfigError(f"parts {parts!r:.40}: {WHOLE} in {args.study}; say parts 'full', or leave it out")
    split = args.split or "test"
    lamp = float((recipe.get("data") or [{}])[0].get("lamp", 0.0))
    return Plan(
        args.study,
        recipe,
        arms,
        rates,
        args.seeds,
        args.steps,
        args.eval_every,
        args.eval_rows,
        args.patience,
        args.prompts,
        args.samples,
        Exam(args.questions, lamp, split),
        Path(args.runs).resolve(),
    )
