"""The last stage: what answers, verdicts and votes come to, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evlm.errors import ConfigError

from ..evaluation.accuracy import Outcome
from ..evaluation.judges import Judging
from ..statistics import Interval
from ..statistics import interval as share_interval
from .ablations import ablations
from .answers import Asked
from .draws import Draws, holm, interval, p_value
from .humans import Votes
from .recipe import Axis, Protocol
from .table import NONE, Table, number, percent, points
from .verdicts import Planted, Said

Array = NDArray[np.float64]
HIT, FALSE_ALARM = 0.95, 0.05  # a judge that is worse on the planted questions is marked
HUMANS = "humans"


@dataclass(frozen=True)
class Evaluator:
    """Somebody who says YES or NO. columns: model -> [questions] of 1, 0 and nan, malformed 0. counts: model
    -> {yes, no, malformed, silent, unreached}. planted: (right verdict, what was said) of the planted
    questions."""

    title: str
    family: str
    mode: Judging
    columns: dict[str, Array]
    counts: dict[str, dict[str, int]]
    planted: list[tuple[bool, bool | None]]

    def rate(self, yes: bool) -> list[float]:
        """Whether it said YES to each planted instruction that is right (or wrong)."""
        return [float(bool(said)) for right, said in self.planted if right is yes and said is not None]


@dataclass(frozen=True)
class Board:
    """All that the tables are made of. refused: of each model, questions that its endpoint refuses."""

    protocol: Protocol
    questions: Sequence[Asked]
    outcomes: dict[str, list[Outcome]]
    known: Sequence[Planted]
    said: Sequence[Said]
    votes: Votes | None
    refused: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def draws(self) -> Draws:
        return Draws(len(self.questions), self.protocol.seed)

    @cached_property
    def evaluators(self) -> list[Evaluator]:
        """The judges, then the people, if anybody voted."""
        found = [self._judge(each) for each in self.said]
        if self.votes is not None and self.votes.of:
            columns = {name: self.votes.column(self.questions, row) for name, row in self.outcomes.items()}
            counts = {name: _counted(columns[name], row) for name, row in self.outcomes.items()}
            planted: list[tuple[bool, bool | None]] = [*self.votes.planted(self.questions, self.known)]
            found.append(Evaluator(HUMANS, "", self.votes.mode, columns, counts, planted))
        return found

    @cached_property
    def means(self) -> dict[tuple[str, str], Array]:
        """(model, evaluator's title) -> [1 + draws] of its share of YES; "exact" beside them, and "average"
        of the evaluators."""
        names = [each.title for each in self.evaluators]
        columns = [each.columns[model] for model in self.outcomes for each in self.evaluators]
        columns += [np.array([float(o.exact) for o in row]) for row in self.outcomes.values()]
        means = self.draws.means(np.stack(columns, 1)).T
        keys = [(model, name) for model in self.outcomes for name in names]
        found = dict(zip([*keys, *((model, "exact") for model in self.outcomes)], means, strict=True))
        for model in self.outcomes:
            own = [found[model, name] for name in names if not np.isnan(found[model, name][0])]
            found[model, "average"] = np.mean(own, 0) if own else found[model, "exact"]
        return found

    def _judge(self, said: Said) -> Evaluator:
        at = self.protocol.judges[said.judge]
        title = at.title if len(self.protocol.modes) == 1 else f"{at.title}, {said.mode}"
        columns, counts = {}, {}
        for name, row in said.rows.items():
            columns[name] = np.array(
                [0.0 if v is None else np.nan if v.yes is None else float(v.yes) for v in row]
            )
            counts[name] = _counted(columns[name], self.outcomes[name])
            unreached = sum(v is not None and not v.reached for v in row)
            counts[name]["unreached"] = unreached
            counts[name]["silent"] -= unreached
        planted = [(k.yes, v.yes) for k, v in zip(self.known, said.planted, strict=True)]
        return Evaluator(title, at.family, said.mode, columns, counts, planted)


def tables(board: Board) -> list[Table]:
    """All of them, those first that the paper has first. Raises EVLMError."""
    found = [table1(board)]
    if len(board.outcomes) > 1:
        found.append(pairs(board))
    if board.evaluators:
        found += [table5(board), planted_table(board)]
    found += [agreement(board), groups(board)]
    found += ablations(
        [Path(each) for each in board.protocol.studies],
        {each.name: each.axis for each in board.protocol.models if each.axis != Axis()},
        board.outcomes,
        {model: board.means[model, "average"] for model in board.outcomes},
        board.draws,
    )
    if board.protocol.study:
        found.append(table14(Path(board.protocol.study)))
    return [each for each in found if each.rows]


def table1(board: Board) -> Table:
    """Models by evaluators."""
    models, names = list(board.outcomes), [each.title for each in board.evaluators]
    columns = [*names, *(["average"] if names else []), "exact"]
    families = {model.name: model.family for model in board.protocol.models}
    rows, kin = [], False
    for model in models:
        row = [model]
        for name in columns:
            own = next((each.family for each in board.evaluators if each.title == name), "")
            same = bool(own) and own == families[model]
            kin |= same
            row.append(percent(_share(board, model, name)) + (" (own)" if same else ""))
        first = board.means[models[0], "average"]
        change = None if model == models[0] else interval(board.means[model, "average"] - first)
        rows.append([*row, points(change)])
    bold = set()
    for at, name in enumerate(columns, 1):
        values = [board.means[model, name][0] for model in models]
        if len(models) > 1 and not all(np.isnan(values)):
            best = np.nanmax(values)
            bold |= {(row, at) for row, value in enumerate(values) if value == best}
    notes = [f"{len(board.questions):,} questions; percent that each evaluator calls right, with its 95 % "
             "interval of 10,000 draws of the questions, the same for all cells; malformed answers are "
             f"wrong. The last column: {'average' if names else 'exact'}, less the first row's."]  # fmt: skip
    if kin:
        notes.append("(own): the judge's name says that it is of the model's own family.")
    head = ["model", *columns, f"less {models[0]}"]
    if any(board.refused.values()):
        head.append("refused")
        rows = [[*row, str(board.refused.get(model, 0))] for row, model in zip(rows, models, strict=True)]
        notes.append("refused: questions that the model's server does not take; they count as malformed.")
    return Table("table1", "Table 1: how often models are right", head, rows,
                 frozenset(bold), notes)  # fmt: skip


def pairs(board: Board) -> Table:
    """Differences of every two models."""
    both = list(combinations(board.outcomes, 2))
    changes = [board.means[a, "average"] - board.means[b, "average"] for a, b in both]
    ps = [p_value(each) for each in changes]
    rows = [[f"{a} less {b}", points(interval(each)), f"{p:.4f}", f"{adjusted:.4f}"]
            for (a, b), each, p, adjusted in zip(both, changes, ps, holm(ps), strict=True)]  # fmt: skip
    what = "average" if board.evaluators else "exact"
    return Table("pairs", "Every two models", ["difference", what, "p", "p, Holm"], rows,
                 notes=["Percent points of the same draws; p two-sided, by how many draws lie on the other "
                        "side of 0, then for so many comparisons at once (Holm)."])  # fmt: skip


def table5(board: Board) -> Table:
    """One line an evaluator and model."""
    head = ["evaluator", "model", "says YES", "YES", "NO", "malformed", "no verdict", "not reached",
            "if all of these were NO", "if YES"]  # fmt: skip
    rows = []
    for each in board.evaluators:
        for model in board.outcomes:
            count, total = each.counts[model], len(board.questions)
            open_ = count["silent"] + count["unreached"]
            bounds = [f"{100 * (count['yes'] + more) / total:.1f}" for more in (0, open_)]
            rows.append([each.title, model, percent(_share(board, model, each.title)),
                         *(str(count[name]) for name in ("yes", "no", "malformed", "silent", "unreached")),
                         *(bounds if open_ else [NONE, NONE])])  # fmt: skip
    return Table("table5", "Table 5: each evaluator", head, rows)


def planted_table(board: Board) -> Table:
    """What evaluators say where the right verdict is known."""
    rows, marked = [], False
    for each in board.evaluators:
        hits, alarms = each.rate(True), each.rate(False)
        bad = (hits and np.mean(hits) < HIT) or (alarms and np.mean(alarms) > FALSE_ALARM)
        marked |= bool(bad)
        cells = [percent(share_interval(rate, share=True)) if rate else NONE for rate in (hits, alarms)]
        rows.append([each.title + (" (!)" if bad else ""), cells[0], str(len(hits)), cells[1],
                     str(len(alarms))])  # fmt: skip
    notes = ["Asked among the others: questions with their own reference instruction, which is right, and "
             "with another question's, which is not."]  # fmt: skip
    if marked:
        notes.append("(!): fewer than 95 % of the right ones called right, or more than 5 % of the wrong.")
    return Table("planted", "Hits and false alarms, from planted questions",
                 ["evaluator", "says YES to right ones", "asked", "says YES to wrong ones", "asked"], rows,
                 notes=notes)  # fmt: skip


def agreement(board: Board) -> Table:
    """How far people agree with one another, judges with people, judges with judges, over all models."""
    rows: list[list[str]] = []

    def line(name: str, first: Array, second: Array) -> None:
        both = int((~np.isnan(first) & ~np.isnan(second)).sum())
        if both:
            rows.append([name, str(both), percent(interval(draws.equal(first, second), both)),
                         number(interval(draws.cohen(first, second))),
                         number(interval(draws.alpha([first, second])))])  # fmt: skip

    models = list(board.outcomes)
    draws = _Folded(board.draws, len(models))
    voted = {name: np.concatenate([each[name] for each in _unmalformed(board)]) for name in _titles(board)}
    if board.votes is not None and board.votes.of:
        raters = {
            rater: np.concatenate(
                [board.votes.column(board.questions, board.outcomes[model], rater) for model in models]
            )
            for rater in board.votes.raters
        }
        for a, b in combinations(raters, 2):
            line(f"{a}, {b}", raters[a], raters[b])
        if len(raters) > 1:
            table = list(raters.values())
            rows.append(["all people", str(int((sum(~np.isnan(e) for e in table) > 1).sum())),
                         percent(interval(draws.equal_pairs(table))),
                         f"Fleiss {number(interval(draws.fleiss(table)))}",
                         number(interval(draws.alpha(table)))])  # fmt: skip
    judges = [each.title for each in board.evaluators if each.title != HUMANS]
    for name in judges:
        if HUMANS in voted:
            line(f"{name}, {HUMANS}", voted[name], voted[HUMANS])
    for a, b in combinations(judges, 2):
        line(f"{a}, {b}", voted[a], voted[b])
    exact = np.concatenate([np.where([o.malformed for o in row], np.nan, [float(o.exact) for o in row])
                            for row in board.outcomes.values()])  # fmt: skip
    for name in voted:
        line(f"{name}, exact", voted[name], exact)
    return Table("agreement", "How far evaluators agree",
                 ["who", "verdicts", "equal", "Cohen's kappa", "Krippendorff's alpha"], rows,
                 notes=["Over the answers of all models; malformed ones, on which nobody was asked, are left "
                        "out. Draws are of questions: all answers to one come together."])  # fmt: skip


def groups(board: Board) -> Table:
    """By edit type, by category, by the number of references."""
    models = list(board.outcomes)
    values = {}
    for model in models:
        own = np.stack([each.columns[model] for each in board.evaluators]
                       or [np.array([float(o.exact) for o in board.outcomes[model]])])  # fmt: skip
        there = ~np.isnan(own)
        values[model] = np.divide(np.where(there, own, 0).sum(0), there.sum(0),
                                  out=np.full(own.shape[1], np.nan), where=there.any(0))  # fmt: skip
    kinds: list[tuple[str, list[str]]] = [
        ("edit type", [each.question.edit_type for each in board.questions]),
        ("category", [each.question.category for each in board.questions]),
        ("references", [str(each.references) for each in board.questions]),
    ]
    rows, columns, labels = [], [], []
    for kind, names in kinds:
        for name in dict.fromkeys(sorted(names) if kind == "references" else names):
            here = np.array([each == name for each in names])
            labels.append((kind, name, int(here.sum())))
            columns += [np.where(here, values[model], np.nan) for model in models]
    means = board.draws.means(np.stack(columns, 1)).T
    for at, (kind, name, count) in enumerate(labels):
        some = means[at * len(models) : (at + 1) * len(models)]
        # A question without a verdict is none of the answers whose share it is.
        given = [int((~np.isnan(columns[at * len(models) + n])).sum()) for n in range(len(models))]
        shares = given if len(board.evaluators) < 2 else [0] * len(models)
        shown = (percent(interval(each, share)) for each, share in zip(some, shares, strict=True))
        rows.append([kind, name, str(count), *shown])
    what = "the mean of a question's verdicts" if board.evaluators else "exact"
    return Table("groups", "By edit type, category and number of references",
                 ["by", "", "questions", *models], rows, notes=[f"Percent: {what}."])  # fmt: skip


def table14(study: Path) -> Table:
    """The user study's, from its store. Raises ConfigError, RecordError."""
    from ..raters.study_plan import assign, load_study
    from ..raters.study_store import FILE, StudyStore
    from ..raters.study_table import cells

    loaded, items, _ = load_study(study)
    if not (study.parent / FILE).is_file():
        raise ConfigError(f"study {study}: nobody has rated anything yet")
    store = StudyStore(study.parent / FILE, assign(loaded, items))
    try:
        ratings = store.ratings({item.id: item.task for item in items})
    finally:
        store.close()
    if not ratings:
        raise ConfigError(f"study {study}: nobody has rated anything yet")
    head, rows = cells(ratings, loaded.methods)
    return Table("table14", "Table 14: user study", head, rows,
                 notes=["Mean of ratings 1 to 5 +- half of the 95 % interval by two-way cluster variance "
                        "(people, items); alpha: Krippendorff's, ordinal."])  # fmt: skip


# --- parts ---


class _Folded(Draws):
    """Draws for columns of several models' answers one after the other: a question's answers are drawn
    together, so each column is folded into sums by question first."""

    def __init__(self, draws: Draws, models: int) -> None:
        super().__init__(draws.questions, draws.seed, draws.resamples)
        self.draws, self.models = draws, models

    def sums(self, columns: Array) -> Array:
        folded = columns.reshape(self.models, self.questions, columns.shape[1]).sum(0)
        return self.draws.sums(folded)


def _share(board: Board, model: str, name: str) -> Interval:
    """A cell of Table 1. Of yes-or-no answers that are all alike the interval is Wilson's."""
    each = next((each for each in board.evaluators if each.title == name), None)
    count = int((~np.isnan(each.columns[model])).sum()) if each else len(board.questions)
    return interval(board.means[model, name], count)


def _counted(column: Array, row: Sequence[Outcome]) -> dict[str, int]:
    malformed = sum(each.malformed for each in row)
    return {
        "yes": int((column == 1).sum()),
        "no": int((column == 0).sum()) - malformed,
        "malformed": malformed,
        "silent": int(np.isnan(column).sum()),
        "unreached": 0,
    }


def _titles(board: Board) -> list[str]:
    return [each.title for each in board.evaluators]


def _unmalformed(board: Board) -> list[dict[str, Array]]:
    """For each model the evaluators' columns without the answers on which nobody was asked."""
    found = []
    for model, row in board.outcomes.items():
        asked = ~np.array([each.malformed for each in row])
        found.append({e.title: np.where(asked, e.columns[model], np.nan) for e in board.evaluators})
    return found
