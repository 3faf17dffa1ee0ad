"""Plans carried out and read: by scripted answers, whose verdicts are known."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from evlm.plan.trace import render
from trainer.__main__ import main
from trainer.evaluation.accuracy import judge, summary
from trainer.evaluation.painted import load, paint, read
from trainer.evaluation.questions import Question, world_questions
from trainer.evaluation.results import csv_text, read_csv, table
from trainer.world.mix import Mix
from trainer.world.traces import write_trace


@pytest.fixture(scope="module")
def causes() -> list[Question]:
    return world_questions(10, 2, "test", mix=Mix(whatif=1.0))


def true_text(question: Question) -> str:
    assert question.asked is not None
    return render(write_trace(random.Random(1), question.asked))


def test_the_reader_knows_results_from_sources(causes: list[Question]) -> None:
    import torch

    for question in causes:
        assert question.asked is not None
        before, after = (torch.from_numpy(part).float() / 255 for part in question.asked.edit.pictures(64))
        assert read(question.asked, after) == (True, True)
        same = question.groups["premise"] == "changes nothing"
        assert read(question.asked, before) == (same, same)


def test_true_plans_are_painted_mostly_right_and_none_at_all_is_wrong(causes: list[Question]) -> None:
    pipeline = load(["bundled"])
    some = causes[:2]
    outcomes = paint(pipeline, some, [judge(question, true_text(question)) for question in some])
    assert sum(bool(each.right) for each in outcomes) >= 1  # the painter is right in nine of ten
    assert all(each.right or not each.scene for each in outcomes)
    wrong = paint(pipeline, some[:1], [judge(some[0], "no plan")])
    assert (wrong[0].right, wrong[0].scene) == (False, False)


def test_lines_by_scenario_rule_wording_kind_and_premise(causes: list[Question], tmp_path: Path) -> None:
    outcomes = [judge(question, true_text(question)) for question in causes]
    lines = summary(outcomes)
    found = {(line.group, line.name): line.questions for line in lines}
    for group in ("scenario", "rule", "wording", "kind", "premise"):
        assert sum(count for (each, _), count in found.items() if each == group) == len(causes)
    assert "picture right" not in table(lines)  # nothing was painted
    file = tmp_path / "results.csv"
    file.write_text(csv_text(lines))
    assert table(read_csv(file)) == table(lines)
    # Files of a version that painted nothing have six columns less.
    old = [row[:-6] for row in csv.reader(csv_text(lines).splitlines())]
    file.write_text("\n".join(",".join(row) for row in old) + "\n")
    assert table(read_csv(file)) == table(lines)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--rows", "1", "--whatif", "1", "--paint", "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "100% of them causes" in printed and "| picture right | all of it right |" in printed
    assert "*by scenario*" in printed and "*by premise*" in printed
    assert '"picture_right": ' in (tmp_path / "answers.jsonl").read_text()
    for wrong, reason in (
        (["--whatif", "2"], "expected a share from 0 to 1"),
        (["--whatif", "1", "--data", str(tmp_path)], "of the world alone"),
        (["--paint", "--data", str(tmp_path)], "the world's pictures alone"),
        (["--rows", "1", "--paint", "nowhere"], "nowhere"),
    ):
        assert main(["eval", *wrong]) == 2
        assert reason in capsys.readouterr().err
