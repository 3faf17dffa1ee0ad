"""Tables 3, 4/13 and 9 to 12 from folders of studies and from a protocol's models, counted by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from evlm.errors import ConfigError
from trainer.evaluation.accuracy import Outcome
from trainer.protocol.ablations import ABLATIONS, ablations
from trainer.protocol.draws import Draws
from trainer.protocol.recipe import Axis
from trainer.protocol.table import Table, csv_text, html, latex, markdown
from trainer.statistics import agreement
from trainer.study.arms import ARMS, BASE, STUDIES
from trainer.study.results import step_seconds

N = 8


def outcome(number: int, exact: bool, first: bool | None = None) -> Outcome:
    iou = None if number % 2 else 0.5
    return Outcome(f"q{number}", "move", "image", exact, exact, iou, False, 9, "x", "y", first)


def run_of(folder: Path, arm: str, seed: int, right: int, more: dict[str, float] | None = None) -> None:
    """Answers 0 to `right` are right; intermediates of 0 to 3 were."""
    run = folder / f"{arm}-{seed}".replace(" ", "-")
    run.mkdir(parents=True)
    found = [asdict(outcome(n, n < right, n < 4)) for n in range(N)]
    value = {"job": {"arm": arm, "seed": seed}, "outcomes": found, "tokens": 1.0, **(more or {})}
    (run / "result.json").write_text(json.dumps(value))


def made(studies: list[Path], **models: tuple[Axis, int]) -> dict[str, Table]:
    outcomes = {name: [outcome(n, n < right) for n in range(N)] for name, (_, right) in models.items()}
    draws = Draws(N, 0, 50)
    shares = {
        name: draws.means(np.array([[float(o.exact)] for o in row]))[:, 0] for name, row in outcomes.items()
    }
    axes = {name: axis for name, (axis, _) in models.items()}
    return {table.name: table for table in ablations(studies, axes, outcomes, shares, draws)}


def cells(table: Table) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in csv.reader(io.StringIO(csv_text(table)))}


def test_a_row_is_counted_by_hand(tmp_path: Path) -> None:
    run_of(tmp_path / "mc", "K = 1", 0, 2, {"step_seconds": 2.0})
    run_of(tmp_path / "mc", "K = 1", 1, 4, {"step_seconds": 4.0})
    run_of(tmp_path / "mc", "K = 3", 0, 6, {"step_seconds": 6.0, "reflection": 0.25})
    found = made([tmp_path / "mc"])
    assert set(found) == {"table11"}, "a table of which nothing was measured is none"
    rows = cells(found["table11"])
    assert list(rows) == ["K", "1", "2", "3", "4", "8"]
    assert rows["2"] == ["93.9", *["-"] * 10]
    paper, models, less, study, change, iou, mended, spoilt, reflection, seconds, over = rows["1"]
    assert (paper, models, less, reflection, seconds, over) == ("92.8", "-", "-", "-", "3.000", "1.00")
    assert study.startswith("37.5 [") and change.startswith("-37.5 [") and iou == "0.500 [0.500, 0.500]"
    assert mended.startswith("0.0 [") and spoilt.startswith("25.0 ["), "of 0..3 seed 0 spoils two, of 8 two"
    assert rows["3"][3].startswith("75.0 [") and rows["3"][4] == "-" and rows["3"][-3:] == [
        "0.250", "6.000", "2.00",
    ]  # fmt: skip
    assert rows["3"][6].startswith("50.0 [") and rows["3"][7].startswith("0.0 [")


def test_models_say_which_rows_they_are(tmp_path: Path) -> None:
    run_of(tmp_path / "l", "lambda 0", 0, 2)
    found = made(
        [tmp_path / "l"],
        whole=(Axis(method="RKTO", rows=30000, lambda_ref=0.2, w_max=10.0), 8),
        few=(Axis(method="RKTO", rows=5000), 2),
        mild=(Axis(lambda_ref=0.3), 4),
        plain=(Axis(method="SFT"), 6),
    )
    assert set(found) == {"table3", "table4", "table9", "table10"}
    third, fourth, ninth = (cells(found[f"table{n}"]) for n in (3, 4, 9))
    assert third["RKTO 30K"][1] == "100.0 [67.6, 100.0]" and third["RKTO 5K"][2].startswith("-75.0 [")
    assert fourth["RKTO"][1].startswith("100.0") and fourth["SFT"][2].startswith("-25.0 [")
    assert fourth["KTO, two-step"] == ["76.3", *["-"] * 9]
    assert ninth["0"][3].startswith("25.0 [") and ninth["0"][4] == "-", "the study lacks the chosen row"
    assert list(ninth)[-1] == "0.3" and ninth["0.3"][1].startswith("50.0 [12.5, ")


def test_every_form_has_every_row(tmp_path: Path) -> None:
    run_of(tmp_path / "t", "REINFORCE", 0, 3)
    table = made([tmp_path / "t"])["table12"]
    for text in (markdown(table), csv_text(table), latex(table), html(table)):
        assert all(row[0] in text for row in table.rows)


def test_the_arms_that_tables_name_are_there() -> None:
    arms = {row.arm for each in ABLATIONS for row in each.rows}
    assert arms <= {BASE, *ARMS}
    names = {"table3": "size", "table4": "table13", "table9": "lambda", "table10": "wmax", "table11": "mc"}
    for each in ABLATIONS:
        study = STUDIES[names.get(each.name, "surrogate")]
        known = {row.arm for row in each.rows} - {"RKTO"}
        assert known <= set(study), each.name
        assert each.chosen in [row.label for row in each.rows]


def test_a_folder_that_is_no_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run of a study"):
        made([tmp_path])
    run_of(tmp_path, "SFT", 0, 1)
    next(tmp_path.glob("*/result.json")).write_text('{"job": {"arm": "SFT"}, "outcomes": [{"odd": 1}]}')
    with pytest.raises(ConfigError):
        made([tmp_path])


def test_what_a_run_says_of_its_steps(tmp_path: Path) -> None:
    events = [{"event": "start"}, {"event": "step", "stage": 0, "step": 1, "seconds": 9.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    assert step_seconds(tmp_path) is None
    events += [{"event": "step", "stage": 1, "step": 2 + n, "seconds": 1.0 + n} for n in range(8)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    assert step_seconds(tmp_path) == 8.0


def test_fleiss_and_equal_pairs_are_those_of_the_counts() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        votes = np.where(rng.random((25, 4)) < 0.2, np.nan, (rng.random((25, 4)) < 0.6).astype(float))
        counted = agreement([[(None, bool(v)) for v in row[~np.isnan(row)]] for row in votes])
        draws = Draws(25, 0, 20)
        assert counted is not None and counted.fleiss is not None
        assert draws.fleiss(list(votes.T))[0] == pytest.approx(counted.fleiss, abs=1e-12)
        assert draws.equal_pairs(list(votes.T))[0] == pytest.approx(counted.percent, abs=1e-12)
        drawn = np.repeat(votes, draws.counts[0], axis=0)
        one = Draws(25, 0, 1).equal_pairs(list(drawn.T))[0]
        assert draws.equal_pairs(list(votes.T))[1] == pytest.approx(one, abs=1e-12)
