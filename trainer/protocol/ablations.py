"""The paper's Tables 3, 4/13 and 9 to 12: what changes where one setting does. A row's figures come from the
folders of `python -m trainer study` (the world, exact), and from models of this protocol that say with `axis`
which row they are; beside them stands what the paper printed. A cell that nobody measured is "-"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.accuracy import Outcome
from ..study.results import mean, outcomes_of, results_of
from .draws import Draws, interval
from .recipe import Axis
from .table import NONE, Table, number, percent, points

Array = NDArray[np.float64]
WHOLE = 30000  # the paper's rows of training


@dataclass(frozen=True)
class Row:
    """label: what the table calls it. axis: the values that a protocol's model says; arm: the study's. paper:
    percent that the paper printed."""

    label: str
    axis: Axis
    arm: str = ""
    paper: float | None = None


@dataclass(frozen=True)
class Ablation:
    """chosen: the label of the row that the others are compared with."""

    name: str
    title: str
    head: str
    rows: tuple[Row, ...]
    chosen: str
    notes: tuple[str, ...] = ()


def _numbers(field: str, arm: str, printed: Mapping[float, float]) -> tuple[Row, ...]:
    kind = int if field == "samples" else float
    return tuple(
        Row(f"{value:g}", Axis(**{field: kind(value)}), arm.format(f"{value:g}"), paper)  # type: ignore[arg-type]
        for value, paper in printed.items()
    )


def _method(label: str, arm: str = "", paper: float | None = None, rows: int = 0) -> Row:
    return Row(label if not rows else f"{label} {rows // 1000}K", Axis(method=label, rows=rows), arm, paper)


ABLATIONS = (
    Ablation(
        "table3",
        "Table 3: method and rows of training",
        "method, rows",
        (
            _method("base", "SFT stage", 52.4),
            _method("KTO", "KTO, 100 rows", 56.1, 5000),
            _method("RKTO", "RKTO, 100 rows", 59.1, 5000),
            _method("RKTO", "RKTO, 140 rows", 65.7, 7000),
            _method("RKTO", "RKTO, 300 rows", 78.2, 15000),
            _method("RKTO", "RKTO, 600 rows", 94.1, 30000),
            _method("SFT", "SFT, 100 rows", None, 5000),
            _method("SFT", "SFT, 600 rows", None, 30000),
        ),
        "RKTO 30K",
        ("The study's sizes are a fiftieth of the paper's: 100, 140, 300 and 600 rows; its base has the SFT "
         "stage behind it, the paper's is Qwen2.5-VL-7B.",),
    ),
    Ablation(
        "table4",
        "Table 4/13: method",
        "method",
        (
            _method("SFT", "SFT", 67.2),
            _method("SFT, two-step", "SFT, two_step", 65.1),
            _method("KTO", "KTO", 75.1),
            _method("KTO, two-step", "KTO, two_step", 76.3),
            _method("RKTO without R_eff", "RKTO, without R_eff", 89.2),
            _method("RKTO without R_reflect", "RKTO, without R_reflect", 85.3),
            _method("RKTO", "RKTO, the paper's", 94.1),
        ),
        "RKTO",
    ),
    Ablation(
        "table9",
        "Table 9: lambda_ref",
        "lambda_ref",
        _numbers("lambda_ref", "lambda {}", {0: 88.0, 0.05: 90.5, 0.1: 92.3, 0.2: 94.1, 0.5: 93.4}),
        "0.2",
        ("Reflection Q (.62 to .80 there) is not defined in the paper; R_reflect is its Eq. 11. IoU there: "
         ".41 to .58.",),
    ),
    Ablation(
        "table10",
        "Table 10: w_max",
        "w_max",
        _numbers("w_max", "w_max {}", {5: 92.1, 10: 94.1, 20: 93.6}),
        "10",
        ("Under 1.2 points between two independent 3,000s nothing is shown: of the paper's rows neither 10 "
         "against 20.",),
    ),
    Ablation(
        "table11",
        "Table 11: samples a row",
        "K",
        _numbers("samples", "K = {}", {1: 92.8, 2: 93.9, 3: 94.1, 4: 94.2, 8: 94.3}),
        "3",
        ("The paper's runtimes over K = 1: 1, 1.3, 1.6, 2 and 3.8.",),
    ),
    Ablation(
        "table12",
        "Table 12: what estimates the gradient",
        "estimator",
        tuple(
            Row(arm, Axis(estimator=arm), arm)
            for arm in ("REINFORCE", "REINFORCE on all", "surrogate", "surrogate + REINFORCE",
                        "surrogate + REINFORCE on all")
        ),
        "surrogate + REINFORCE",
        ("The paper's three rows are 93.8, 94.1 and 92.9, the middle one its own way; they lie within one "
         "another's noise.",),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What was measured of a row. right [N]: of each question, its runs averaged. draws: of those questions.
    asked: their ids, in order."""

    asked: tuple[str, ...]
    draws: Draws
    values: Mapping[str, Array]
    reflection: float | None = None
    seconds: float | None = None

    def share(self, name: str, of: str = "") -> Array:
        """[1 + draws]: mean of a column, or its sum over another's."""
        if not of:
            return self.draws.means(self.values[name][:, None])[:, 0]
        top, bottom = self.draws.sums(np.stack([self.values[name], self.values[of]], 1)).T
        return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def ablations(
    studies: Sequence[Path],
    models: Mapping[str, Axis],
    outcomes: Mapping[str, Sequence[Outcome]],
    shares: Mapping[str, Array],
    draws: Draws,
) -> list[Table]:
    """The tables of which any cell was measured.

    studies: folders of studies; the first that has an arm is taken. models: of this protocol, those that are
    rows. outcomes: of all its models. shares: of each model [1 + draws], the average of its evaluators.
    Raises ConfigError.
    """
    arms: dict[str, Found] = {}
    for folder in studies:
        for arm, runs in results_of(folder).items():
            if arm not in arms:
                arms[arm] = _of_study(runs, draws.seed)
    found = []
    for each in ABLATIONS:
        rows = _with_models(each, models)
        if any(row.arm in arms for row, _ in rows) or any(name for _, name in rows):
            found.append(_table(each, rows, arms, outcomes, shares, draws))
    return found


def _table(
    ablation: Ablation, rows: Sequence[tuple[Row, str]], arms: Mapping[str, Found],
    outcomes: Mapping[str, Sequence[Outcome]], shares: Mapping[str, Array], draws: Draws,
) -> Table:  # fmt: skip
    mine = {name: _of_outcomes([outcomes[name]], draws) for _, name in rows if name}
    study = {row.label: arms[row.arm] for row, _ in rows if row.arm in arms}
    named = {row.label: name for row, name in rows if name}
    details = study or {label: mine[name] for label, name in named.items()}
    last = ["s a step", "over K = 1"] if ablation.name == "table11" else ["s a step"]
    less = f"less {ablation.chosen}"
    head = [ablation.head, "paper", "models", less, "study, exact", less, "mask IoU", "mended", "spoilt",
            "R_reflect", *last]  # fmt: skip
    one = details.get("1")
    table = []
    for row, name in rows:
        best, arm = named.get(ablation.chosen), study.get(ablation.chosen)
        change = shares[name] - shares[best] if name and best and name != best else None
        cells = [row.label, f"{row.paper:.1f}" if row.paper is not None else NONE]
        cells += [percent(interval(shares[name], len(outcomes[name]))) if name else NONE, _change(change)]
        own = study.get(row.label)
        right = own.share("exact") if own else None
        change = None
        if own and arm and own is not arm and own.asked == arm.asked:
            change = own.share("exact") - arm.share("exact")
        cells += [NONE if right is None else percent(interval(right)), _change(change)]
        table.append([*cells, *_details(details.get(row.label), one, len(last) > 1)])
    notes = [
        "Percent right, with 95 % intervals of 10,000 draws of the questions; differences paired. models: "
        "this protocol's, the average of its evaluators; study: the world in miniature, exact, seeds "
        f"averaged. From the mask's IoU on it is the {'study' if study else 'models'}. mended: of the traces "
        "whose intermediate was wrong, the share that ends right; spoilt: of those whose intermediate was "
        "right, the share that ends wrong. paper: EVLM (arXiv 2412.10566v2), other questions and judges. -: "
        "not measured.",
        *ablation.notes,
    ]
    return Table(ablation.name, ablation.title, head, table, notes=notes)


def _details(found: Found | None, one: Found | None, over: bool) -> list[str]:
    if found is None:
        return [NONE] * (6 if over else 5)
    shown = [number(interval(found.share("iou")))]
    shown += [
        percent(interval(found.share("mended", "wrong"))),
        percent(interval(found.share("spoilt", "right"))),
    ]
    seconds = found.seconds
    shown += [f"{each:.3f}" if each is not None else NONE for each in (found.reflection, seconds)]
    if over:
        base = one.seconds if one else None
        shown.append(f"{seconds / base:.2f}" if seconds and base else NONE)
    return shown


def _with_models(ablation: Ablation, models: Mapping[str, Axis]) -> list[tuple[Row, str]]:
    """The table's rows with the models that they are, and rows for models with values of their own."""
    rows, left = [], {name: axis for name, axis in models.items() if _named(ablation, axis)}
    for row in ablation.rows:
        name = next((name for name, axis in left.items() if _is(ablation, row.axis, axis)), "")
        left.pop(name, None)
        rows.append((row, name))
    for name, axis in left.items():
        values = [getattr(axis, field) for field in _fields(ablation)]
        label = " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values if each)
        rows.append((Row(label, axis), name))
    return rows


def _fields(ablation: Ablation) -> list[str]:
    """What of an axis the table goes by."""
    blank = Axis()
    return [
        each.name for each in fields(Axis)
        if any(getattr(row.axis, each.name) != getattr(blank, each.name) for row in ablation.rows)
    ]  # fmt: skip


def _named(ablation: Ablation, axis: Axis) -> bool:
    """Whether the model is a row there. Table 3 is of methods with a number of rows, Table 4/13 of methods
    with all of the paper's."""
    if ablation.name == "table3":
        return bool(axis.method) and bool(axis.rows or axis.method == "base")
    if ablation.name == "table4":
        return axis.method not in ("", "base") and axis.rows in (0, WHOLE)
    return all(getattr(axis, name) != getattr(Axis(), name) for name in _fields(ablation))


def _is(ablation: Ablation, row: Axis, axis: Axis) -> bool:
    return all(getattr(row, name) == getattr(axis, name) for name in _fields(ablation))


def _of_study(runs: Sequence[Mapping[str, Any]], seed: int) -> Found:
    outcomes = [outcomes_of(run) for run in runs]

    def known(name: str) -> float | None:
        values = [float(run[name]) for run in runs if run.get(name) is not None]
        return mean(values) if values else None

    found = _of_outcomes(outcomes, Draws(len(outcomes[0]), seed))
    return Found(found.asked, found.draws, found.values, known("reflection"), known("step_seconds"))


def _of_outcomes(runs: Sequence[Sequence[Outcome]], draws: Draws) -> Found:
    """Of the same questions in several runs; each question's are averaged."""

    def column(value: Callable[[Outcome], float]) -> Array:
        table = np.array([[value(outcome) for outcome in run] for run in runs], dtype=np.float64)
        there = ~np.isnan(table)
        total = np.where(there, table, 0.0).sum(0)
        return np.divide(total, there.sum(0), out=np.full(len(total), np.nan), where=there.any(0))

    values = {
        "exact": column(lambda o: float(o.exact)),
        "iou": column(lambda o: np.nan if o.iou is None else float(o.iou)),
        "wrong": column(lambda o: float(o.first is False)),
        "mended": column(lambda o: float(o.first is False and o.exact)),
        "right": column(lambda o: float(o.first is True)),
        "spoilt": column(lambda o: float(o.first is True and not o.exact)),
    }
    return Found(tuple(outcome.id for outcome in runs[0]), draws, values)


def _change(change: Array | None) -> str:
    return points(interval(change)) if change is not None else NONE
