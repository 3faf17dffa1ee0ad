"""Judges of what came of a question: a model at an endpoint, a script, and what they drop."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from benchmarks.scripted_teacher import Teacher, teaching
from evlm.reason.reasoner import Generated
from trainer.__main__ import main
from trainer.collect import local
from trainer.collect.judging import read_numbers
from trainer.collect.recipe import load_recipe


def judged(tmp_path: Path, teacher: Teacher, judges: list[Any], out: str = "out", **more: Any) -> Path:
    path = recipe(tmp_path, teacher, out, **more)
    path.write_text(json.dumps({**json.loads(path.read_text()), "judges": judges}))
    return path


def at(judge: Teacher, **more: Any) -> dict[str, Any]:
    return {"endpoint": judge.url, "model": "judge", "send_pictures": True, "workers": 3, "pause": 0.01,
            "tries": 20, "prices": {"input": 1, "output": 5}, **more}  # fmt: skip


def numbers(body: dict[str, Any]) -> str:
    """By the instruction, so that some are too low."""
    said = json.dumps(body["messages"])
    return f"alignment: {1 + said.count('a') % 5}\ncoherence: 5"


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        ("alignment: 4\ncoherence: 5", (4, 5)),
        ("<think>alignment: 1</think>\n**Alignment:** 4/5\n- coherence = 2", (4, 2)),
        ("alignment: 4", None),
        ("alignment: 6\ncoherence: 5", None),
        ("alignment: 4\ncoherence: 5\nalignment: 3", None),
        ("alignment: 4 or so\ncoherence: 5", None),
        ("alignment: 4\nalignment: 5", None),
        ("", None),
    ],
)
def test_numbers_are_read_where_both_stand_there_once(answer: str, given: tuple[int, int] | None) -> None:
    found = read_numbers(answer)
    assert (found and (found["alignment"], found["coherence"])) == given


def test_too_low_is_dropped_and_nothing_is_judged_twice(tmp_path: Path) -> None:
    with teaching() as teacher, teaching(faults=0.3) as judge:
        judge.says = numbers
        path = judged(tmp_path, teacher, [at(judge)])
        make(path)
        lines = [json.loads(line) for line in rows(tmp_path).splitlines()]
        assert 0 < len(lines) < teacher.served == judge.served
        assert all(3 <= line["meta"]["judged"]["alignment"] <= 5 for line in lines)
        whole = {bool(line["edited"]): line["meta"]["judged"].get("coherence") for line in lines}
        assert whole.get(True, 5) == 5 and whole.get(False) is None
        dropped = [
            json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()
        ]
        assert len(lines) + len(dropped) == teacher.served and {each["name"] for each in dropped} == {"judge"}
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        (sums,) = ledger["judges"].values()
        assert sums["answers"] == judge.served and sums["sent"] == judge.came > judge.served
        assert sums["cost"] == pytest.approx((judge.tokens_in + judge.tokens_out * 5) / 1e6)
        assert ledger["answers"] == teacher.served
        seen = judge.asked[0]["messages"]
        assert "alignment" in seen[0]["content"] and "Instruction: make the hat" in json.dumps(seen[1])
        first, came = rows(tmp_path), judge.came
        make(path)
        make(path, "filters.judged_least=1")
        assert judge.came == came and len(rows(tmp_path).splitlines()) == teacher.served
        make(path)
        assert rows(tmp_path) == first and judge.came == came and teacher.came == teacher.served
    assert main(["data", "card", str(tmp_path / "out")]) == 0
    mean = sum(line["meta"]["judged"]["alignment"] for line in lines) / len(lines)
    card = (tmp_path / "out/README.md").read_text()
    assert (
        "Judged by judge at 127.0.0.1" in card
        and f"({judge.served} answers, " in card
        and f"alignment {mean:.2f}" in card
    )


def test_two_judges_of_one_model_are_two(tmp_path: Path) -> None:
    with teaching() as teacher, teaching() as judge:
        judge.says = numbers
        path = judged(tmp_path, teacher, [at(judge), at(judge, temperature=0.7)], samples=1)
        make(path, "filters.judged_least=1")
        temperatures = [body["temperature"] for body in judge.asked]
        assert temperatures.count(0) == temperatures.count(0.7) == teacher.served
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        assert [each["answers"] for each in ledger["judges"].values()] == [teacher.served] * 2
        make(path, "--only", "teach")  # comes to no judge
        assert json.loads((tmp_path / "out/ledger.json").read_text()) == ledger


def test_a_judge_that_ends_in_the_middle_goes_on(tmp_path: Path) -> None:
    with teaching() as teacher, teaching() as judge:
        judge.says = numbers
        path = judged(tmp_path, teacher, [at(judge)])
        judge.stop_after = 5
        assert make(path) == 2 and not (tmp_path / "out/rows.jsonl").exists()
        assert json.loads((tmp_path / "out/ledger.json").read_text())["judges"]
        judge.stop_after = None
        make(path, "--only", "judge")
        assert not (tmp_path / "out/rows.jsonl").exists() and judge.served == teacher.served
        make(path)
        assert judge.served == teacher.served and rows(tmp_path)


def test_a_judge_that_talks_is_asked_once_more_and_then_its_row_is_dropped(tmp_path: Path) -> None:
    with teaching() as teacher, teaching() as judge:
        judge.says = numbers
        judge.nonsense = 2
        make(judged(tmp_path, teacher, [at(judge, workers=1)], samples=1), "filters.judged_least=1")
        assert judge.served == teacher.served + 1
        again = [body for body in judge.asked if len(body["messages"]) > 2]
        assert len(again) == 1 and "both lines" in str(again[0]["messages"][-1])
    dropped = [json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()]
    assert [each["name"] for each in dropped] == ["unjudged"] and "I would rather" in dropped[0]["reason"]


SCRIPT = """
calls = []

def score(task):
    calls.append(task)
    with open(task["original"][0], "rb") as file:
        assert file.read(4) == b"\\x89PNG"
    return {"alignment": 5, "coherence": 4.5 if task["edited"] else None}

def broken(task):
    return {"alignment": "good"}
"""


def test_scripts_and_models_judge_together_by_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_judge.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path))
    with teaching() as teacher, teaching() as judge:
        judge.says = lambda body: "alignment: 2\ncoherence: 3"
        path = judged(tmp_path, teacher, [at(judge), {"script": "my_judge:score"}])
        main(["data", "make", str(path), "--dry-run"])
        said = capsys.readouterr().out
        assert "judge judge at 127.0.0.1" in said and "judge my_judge:score: at most" in said
        make(path)
        lines = [json.loads(line) for line in rows(tmp_path).splitlines()]
        assert len(lines) == teacher.served
        assert {line["meta"]["judged"]["alignment"] for line in lines} == {3.5}
        assert {line["meta"]["judged"].get("coherence") for line in lines} <= {3.75, None}
        import my_judge  # type: ignore[import-not-found]

        count = len(my_judge.calls)
        make(path)
        assert len(my_judge.calls) == count
        for name, words in (("broken", "gave {'alignment': 'good'}"), ("none", "cannot be loaded")):
            path = judged(tmp_path, teacher, [{"script": f"my_judge:{name}"}], name)
            assert make(path) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ({"script": "no function"}, "expected module:function"),
        ({"script": "a:b", "endpoint": "https://host/v1"}, "no endpoint"),
        ({"endpoint": "https://host/v1", "model": "m", "send_pictures": True}, "prices and max_cost"),
        ({"endpoint": "http://127.0.0.1/v1", "model": "m"}, "send_pictures"),
        ({}, "expected either an endpoint"),
    ],
)
def test_a_judge_that_is_none_is_refused(tmp_path: Path, judge: dict[str, Any], words: str) -> None:
    from evlm.errors import ConfigError

    with pytest.raises(ConfigError, match=words):
        load_recipe(judged(tmp_path, Teacher(), [judge]))


def test_a_model_that_writes_traces_judges_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = judged(tmp_path, teacher, [{"local": "bundled"}], samples=1)
        assert make(path, "--limit", "1") == 2 and "judges nothing" in capsys.readouterr().err


def test_a_model_of_this_machine_that_is_not_tuned_judges_freely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held to a trace's form it could never write the two numbers."""
    styles: list[Any] = []

    class Plain:
        style, codec, backbone = object(), None, SimpleNamespace(tuned=False)

        def answer(self, chat: Any, sampling: Any, on_token: Any, style: Any) -> Generated:
            styles.append(style)
            return Generated("alignment: 4\ncoherence: 5" if style is None else "a trace", 3, 0.1, True)

    monkeypatch.setattr(local, "resolve", lambda name, kind: tmp_path)
    monkeypatch.setattr(local.Reasoner, "load", lambda path: Plain())
    assert local.LocalTeacher("plain").complete([], None).generated.text == "a trace"  # type: ignore[arg-type]
    with teaching() as teacher:
        make(judged(tmp_path, teacher, [{"local": "plain"}], samples=1))
        assert len(rows(tmp_path).splitlines()) == teacher.served and set(styles[1:]) == {None}


SAFE = """
def look(pictures, texts):
    assert pictures and all(open(path, "rb").read(4) == b"\\x89PNG" for path in pictures)
    with open(__file__ + ".calls", "a") as file:
        file.write("x")
    return "a face" if len(open(__file__ + ".calls").read()) % 3 == 0 else None

def broken(pictures, texts):
    return True
"""


def test_what_is_not_safe_is_never_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_look.py").write_text(SAFE)
    monkeypatch.syspath_prepend(str(tmp_path))
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, samples=1)
        words = "filters.safe=my_look:look"
        make(path, words)
        calls = len((tmp_path / "my_look.py.calls").read_text())
        dropped = [
            json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()
        ]
        assert [each["name"] for each in dropped] == ["safe"] * (calls // 3) and dropped[0][
            "reason"
        ] == "a face"
        assert teacher.came == calls - calls // 3 == len(rows(tmp_path).splitlines())
        make(path, words)
        assert (
            len((tmp_path / "my_look.py.calls").read_text()) == calls and teacher.came == calls - calls // 3
        )
        for name, said in (("broken", "expected a reason or None"), ("gone", "cannot be loaded")):
            assert make(path, f"filters.safe=my_look:{name}") == 2 and said in capsys.readouterr().err
        assert teacher.came == calls - calls // 3
