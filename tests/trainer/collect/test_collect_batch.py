"""A teacher that is asked by batch files: written, answered by others, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from benchmarks.scripted_teacher import Teacher, digest_of, teaching, trace_of
from trainer.collect import batch


def requests(tmp_path: Path, number: int) -> list[dict[str, Any]]:
    file = tmp_path / f"out/work/batch/{number:04d}-in.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def answer(tmp_path: Path, number: int, failing: int = 0) -> None:
    """As `vllm run-batch` does; the first `failing` lines fail."""
    lines = []
    for at, each in enumerate(requests(tmp_path, number)):
        text = trace_of(digest_of(each["body"]))
        body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10}}  # fmt: skip
        response = {"status_code": 500, "body": {}} if at < failing else {"status_code": 200, "body": body}
        lines.append(json.dumps({"id": str(at), "custom_id": each["custom_id"], "response": response}))
    (tmp_path / f"out/work/batch/{number:04d}-out.jsonl").write_text("\n".join(lines) + "\n")


def test_a_batch_gives_the_rows_that_single_requests_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as calm, teaching() as teacher:
        make(recipe(tmp_path, calm, "calm"))
        path = recipe(tmp_path, teacher, batch="file")
        assert make(path) == 1 and "vllm run-batch -i" in capsys.readouterr().out
        asked = requests(tmp_path, 1)
        assert len(asked) == calm.served and asked[0]["url"] == "/v1/chat/completions"
        assert make(path) == 1 and not (tmp_path / "out/work/batch/0002-in.jsonl").exists()
        answer(tmp_path, 1, failing=2)
        for _ in range(2):
            assert make(path) == 1 and not (tmp_path / "out/rows.jsonl").exists()
        again = [each["custom_id"] for each in requests(tmp_path, 2)]
        assert sorted(again) == sorted(each["custom_id"] for each in asked[:2])
        answer(tmp_path, 2)
        make(path)
        assert rows(tmp_path) == rows(tmp_path, "calm")
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        assert ledger["answers"] == len(asked) and ledger["sent"] == len(asked) + 2
        assert ledger["cost"] == pytest.approx(len(asked) * (100 * 2 + 10 * 10) / 1e6)
        (tmp_path / "out/work/teach.jsonl").unlink()
        make(recipe(tmp_path, teacher))  # one by one: all that is needed is there
        assert not teacher.asked and rows(tmp_path) == rows(tmp_path, "calm")


def test_files_are_no_larger_than_a_service_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_LINES", 5)
    make(recipe(tmp_path, Teacher(), batch="file", workers=1))
    sizes = [len(requests(tmp_path, number)) for number in (1, 2, 3)]
    assert sizes[:2] == [5, 5] and 0 < sizes[2] <= 5
    keys = [each["custom_id"] for number in (1, 2, 3) for each in requests(tmp_path, number)]
    assert len(set(keys)) == len(keys)


def test_nonsense_is_asked_about_once_more_in_the_next_file(tmp_path: Path) -> None:
    path = recipe(tmp_path, Teacher(), batch="file", samples=1)
    make(path)
    answer(tmp_path, 1)
    out = tmp_path / "out/work/batch/0001-out.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    lines[0]["response"]["body"]["choices"][0]["message"]["content"] = "I would rather not say."
    out.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert make(path) == 1
    again = requests(tmp_path, 2)
    assert len(again) == 1 and "cannot be read" in str(again[0]["body"]["messages"][-1])
    answer(tmp_path, 2)
    make(path)
    assert len(rows(tmp_path).splitlines()) == len(lines)


@pytest.mark.parametrize(
    "response",
    [
        {"status_code": 502, "body": "Bad gateway"},
        "gone",
        {"status_code": 200, "body": {"choices": {"message": "x"}}},
        {"status_code": 200, "body": {"choices": ["x"]}},
    ],
)
def test_an_answer_of_another_form_is_a_failed_one(tmp_path: Path, response: Any) -> None:
    path = recipe(tmp_path, Teacher(), batch="file", samples=1)
    make(path)
    answer(tmp_path, 1)
    out = tmp_path / "out/work/batch/0001-out.jsonl"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    lines[0]["response"] = response
    lines[1]["response"]["body"]["usage"] = {"prompt_tokens": "many", "completion_tokens": [1]}
    out.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert make(path) == 1
    assert [each["custom_id"] for each in requests(tmp_path, 2)] == [lines[0]["custom_id"]]


def test_what_waits_in_a_batch_is_not_bought_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        make(recipe(tmp_path, teacher, batch="file"))
        single = recipe(tmp_path, teacher)
        assert make(single) == 2 and "paid for twice" in capsys.readouterr().err and not teacher.asked
        answer(tmp_path, 1)
        make(single)
        assert not teacher.asked and rows(tmp_path)


def test_files_of_questions_that_are_not_asked_any_more_are_not_waited_for(tmp_path: Path) -> None:
    teacher = Teacher()
    make(recipe(tmp_path, teacher, batch="file"))
    path = recipe(tmp_path, teacher, batch="file", temperature=0.5)
    make(path)
    answer(tmp_path, 2)
    make(path)
    assert rows(tmp_path)


def test_a_file_that_is_still_being_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, Teacher(), batch="file")
    make(path)
    (tmp_path / "out/work/batch/0001-out.jsonl").write_text('{"custom_id": "ab", "respo')
    assert make(path) == 2 and "0001-out.jsonl, line 1" in capsys.readouterr().err


def test_a_sum_that_the_batch_may_exceed_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(recipe(tmp_path, Teacher(), batch="file", max_cost=1e-6)) == 2
    assert "max_cost" in capsys.readouterr().err
