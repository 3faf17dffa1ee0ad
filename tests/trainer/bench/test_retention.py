"""`python -m trainer retention`: the script that it writes, and lmms-eval's files in its exact form."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evlm.errors import RecordError
from trainer.__main__ import main
from trainer.bench.retention import LINES, SCRIPT, difference, retained, script


def harness(
    folder: Path, model: str, when: str, results: dict[str, Any], samples: dict[str, list[Any]]
) -> None:
    """Files in the form of lmms_eval/loggers/evaluation_tracker.py at 0716c69."""
    place = folder / model
    place.mkdir(parents=True, exist_ok=True)
    whole = {
        "results": results,
        "configs": {},
        "versions": {},
        "n-shot": {},
        "model_source": "qwen2_vl",
        "task_hashes": {},
    }
    (place / f"{when}_results.json").write_text(json.dumps(whole, indent=2))
    for task, metrics in samples.items():
        lines = [
            json.dumps(
                {"doc_id": at, "target": "A", "filtered_resps": ["A"], "doc_hash": "x", "input": "q", **each}
            )
            for at, each in enumerate(metrics)
        ]
        (place / f"{when}_samples_{task}.jsonl").write_text("".join(line + "\n" for line in lines))


def write(out: Path) -> None:
    first = {"alias": "chartqa", "relaxed_overall,none": 0.75, "relaxed_overall_stderr,none": 0.01}
    base = {
        "chartqa": first,
        "mmmu_val": {"alias": "m", "mmmu_acc,none": 0.5, "mmmu_acc_stderr,none": "N/A"},
        "docvqa_val": {"anls,none": 0.9},
    }
    good, bad = {"relaxed_overall": 1.0}, {"relaxed_overall": 0.0}
    choice = {"id": "v", "question_type": "multiple-choice", "answer": "B", "parsed_pred": "B"}
    wide = {"id": "v", "question_type": "open", "answer": ["3.14"], "parsed_pred": ["about", 3.14]}
    wrong = {"id": "v", "question_type": "open", "answer": "cat", "parsed_pred": ["a dog"]}
    harness(
        out / "results" / "base",
        "Qwen__Q",
        "20260101_000000",
        base,
        {
            "chartqa": [good, good, good, bad] * 50,
            "mmmu_val": [{"mmmu_acc": each} for each in (choice, wide)],
        },
    )
    tuned = {**base, "chartqa": {**first, "relaxed_overall,none": 0.25}, "mmmu_val": {"mmmu_acc,none": 0.5}}
    harness(
        out / "results" / "tuned",
        "merged",
        "20260102_000000",
        tuned,
        {"chartqa": [good, bad, bad, bad] * 50, "mmmu_val": [{"mmmu_acc": each} for each in (choice, wrong)]},
    )


def test_the_table_is_paired_and_marks_what_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapter.safetensors").write_bytes(b"x")
    words = ["retention", str(tmp_path / "run"), "--base", "Qwen/Q", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "run it where lmms-eval is installed" in capsys.readouterr().out
    write(tmp_path / "out")
    assert main(words) == 0
    assert "MMMU val: the paper asks with CoT" in capsys.readouterr().out
    with open(tmp_path / "out" / "tables" / "table2.csv", newline="") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"MMMU val", "ChartQA test", "DocVQA val"}
    chart = rows["ChartQA test"]
    assert (chart["base"], chart["tuned"]) == ("75.0", "25.0") and chart["paper: EVLM"] == "82.8"
    assert chart["difference"].startswith("-50.0 [-5") and chart["difference"].endswith("(!)")
    assert rows["DocVQA val"]["difference"] == "+0.0", "no samples, no interval"
    line = next(each for each in LINES if each.task == "mmmu_val")
    found = difference(tmp_path / "out" / "results", line)
    assert found is not None and found.mean == -50


def test_the_newest_file_of_a_task_counts(tmp_path: Path) -> None:
    write(tmp_path)
    harness(
        tmp_path / "results" / "tuned",
        "merged",
        "20260103_000000",
        {"chartqa": {"relaxed_overall,none": 0.75}},
        {"chartqa": [{"relaxed_overall": 1.0}] * 200},
    )
    row = next(row for row in retained(tmp_path / "results").rows if row[0] == "ChartQA test")
    assert row[2] == "75.0" and row[3].startswith("+0.0 [+")


@pytest.mark.parametrize("content", ["{", "[]", '{"results": 3}', '{"results": {"chartqa": 3}}'])
def test_files_of_another_kind_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "1_results.json").write_text(content)
    with pytest.raises(RecordError, match="not what lmms-eval writes"):
        retained(tmp_path)


def test_the_script_is_one_that_a_shell_takes(tmp_path: Path) -> None:
    text = script(Path("runs/it's"), "Qwen/Q", tmp_path, "qwen2_vl", 5)
    (tmp_path / SCRIPT).write_text(text)
    assert subprocess.run(["sh", "-n", str(tmp_path / SCRIPT)], capture_output=True).returncode == 0
    assert text.count("python -m lmms_eval") == 2 and "--log_samples --limit 5" in text
    assert all(line.task in text for line in LINES) and "--to merged" in text
