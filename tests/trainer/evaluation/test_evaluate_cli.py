"""`python -m trainer eval` on the bundled model: what it prints and writes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.evaluation.questions import dataset_questions, world_questions
from trainer.report.page import report

HEAD = "|  | questions | plan exact | targets right | mask IoU | malformed | tokens |"


def test_the_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["eval", "--rows", "8", "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("bundled: 8 questions of the world, split test, seed 3;")
    assert HEAD in printed and "| all | 8 |" in printed
    assert (out / "results.md").read_text() == printed
    with open(out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["name"] == "all" and rows[0]["questions"] == "8"
    assert 0.5 <= float(rows[0]["exact"]) <= 1
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [each["id"] for each in answers] == [each.id for each in world_questions(8, 3)]
    assert sum(each["exact"] for each in answers) == round(8 * float(rows[0]["exact"]))
    assert all(each["answer"].startswith("<thinking>") or each["malformed"] for each in answers)
    assert {"prompt", "references", "right", "targets_right", "iou", "tokens"} <= set(answers[0])
    assert sorted(each.name for each in out.iterdir()) == ["answers.jsonl", "results.csv", "results.md"]


def test_the_report_of_a_run_shows_what_was_found(tmp_path: Path) -> None:
    assert main(["eval", "--rows", "6", "--out", str(tmp_path / "eval")]) == 0
    file = tmp_path / "eval" / "results.csv"
    file.write_text(file.read_text().replace("recolour", "<script>"))
    (tmp_path / "log.jsonl").write_text(json.dumps({"event": "start", "steps": 3, "trainable": 5}) + "\n")
    page = report(tmp_path)
    assert "<h2>python -m trainer eval</h2>" in page and "mask IoU" in page
    assert "&lt;script&gt;" in page and "<script>" not in page


def test_a_dataset_says_what_the_world_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pictures from a disk."""
    folder = tmp_path / "data"
    assert main(["world", str(folder), "--rows", "16", "--split", "validation", "--undesired", "1"]) == 0
    asked = dataset_questions(folder, 4, 0, "validation")
    capsys.readouterr()
    command = ["eval", "--data", str(folder), "--split", "validation", "--rows", "4", "--seed", "0"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert f"4 questions of the dataset {folder}, split validation" in capsys.readouterr().out
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [each["id"] for each in answers] == [each.id for each in asked]
    assert [each["right"]["instruction"] for each in answers] == [each.instruction for each in asked]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--split", "tests"], "expected 1 or more, of train, validation, test"),
        (["--rows", "0"], "0 questions"),
        (["--data", "nowhere"], "no such file"),
        (["no-such-model", "--rows", "1"], "no-such-model"),
        (["--rows", "1", "--adapter", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--rows", "1", "--tokens", "0"], "max_new_tokens 0"),
    ],
)
def test_what_does_not_fit_is_said(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_judges_need_their_packages_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    command = ["eval", "--rows", "2", "--out", str(tmp_path), "--judge", "http://127.0.0.1:9/v1", "m"]
    assert main(command) == 2
    assert "pip install scikit-learn statsmodels" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # test_sampling holds the lamp, test_wrong_arguments its values
def test_a_lamp_makes_it_harder_and_is_the_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def exact(*more: str) -> int:
        assert main(["eval", "--rows", "8", "--seed", "4", "--out", str(tmp_path), *more]) == 0
        lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        return sum(json.loads(line)["exact"] for line in lines)

    assert exact() > exact("--lamp", "0.8")
    assert "under a lamp of 0.8" in (tmp_path / "results.md").read_text()
    capsys.readouterr()
    assert (
        main(["eval", "--lamp", "2"]) == 2 and main(["eval", "--lamp", "0.5", "--data", str(tmp_path)]) == 2
    )
    assert "expected 0 to 1" in capsys.readouterr().err
