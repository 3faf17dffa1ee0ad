"""`data make` against a scripted teacher: faults, kills, nonsense, full disks, two at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.scripted_teacher import Teacher, teaching
from evlm.errors import ConfigError, RecordError
from evlm.files import append
from trainer.__main__ import main
from trainer.collect.pace import Pace
from trainer.collect.stages import Stage

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)


def recipe(tmp_path: Path, teacher: Teacher, out: str = "out", **more: Any) -> Path:
    """Twelve questions about eight pairs; prices of 2 and 10 a million."""
    for n in range(8):
        for folder, shade in (("originals", 10), ("edited", 90)):
            path = tmp_path / "photos" / folder / f"{n}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.new("RGB", (16, 16), (10 + n, 40, n))
                picture.paste(
                    (10 + shade, 90, n), (4 * (n % 4), 4 * (n // 4), 4 * (n % 4) + 4, 4 * (n // 4) + 4)
                )
                picture.save(path)
    settings = {
        "out": str(tmp_path / out),
        "rows": 16,
        "sources": [{"kind": "folder", "path": str(tmp_path / "photos"), "license": "CC0-1.0"}],
        "teacher": {
            "endpoint": teacher.url, "model": "scripted", "terms": "ours", "send_pictures": True,
            "workers": 4, "pause": 0.01, "tries": 20, "prices": {"input": 2, "output": 10}, **more,
        },
    }  # fmt: skip
    path = tmp_path / f"{out}.yaml"
    path.write_text(json.dumps(settings))
    return path


def make(*arguments: Any) -> int:
    return main(["data", "make", *map(str, arguments)])


def rows(tmp_path: Path, out: str = "out") -> bytes:
    return (tmp_path / out / "rows.jsonl").read_bytes()


def test_thirty_percent_faults_lose_nothing_and_the_ledger_is_the_servers_own_count(tmp_path: Path) -> None:
    with teaching() as calm:
        make(recipe(tmp_path, calm, "calm"))
    with teaching(faults=0.3) as teacher:
        make(recipe(tmp_path, teacher))
    lines = [json.loads(line) for line in rows(tmp_path).splitlines()]
    ledger = json.loads((tmp_path / "out/ledger.json").read_text())
    assert len(lines) == teacher.served == ledger["answers"] > 10
    assert len(teacher.asked) == ledger["sent"] > teacher.served
    assert (ledger["tokens_in"], ledger["tokens_out"]) == (teacher.tokens_in, teacher.tokens_out)
    assert ledger["cost"] == pytest.approx((teacher.tokens_in * 2 + teacher.tokens_out * 10) / 1e6)
    assert rows(tmp_path) == rows(tmp_path, "calm")
    assert len({line["id"] for line in lines}) == len(lines) == 2 * len({line["question"] for line in lines})
    assert main(["data", "check", str(tmp_path / "out")]) == 0


def test_a_run_that_ended_in_the_middle_goes_on_to_the_same_bytes_and_asks_nothing_twice(
    tmp_path: Path,
) -> None:
    with teaching() as whole:
        make(recipe(tmp_path, whole, "whole"))
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, "whole2", workers=3)
        for count in (5, 9):
            teacher.stop_after = count
            assert make(path) == 2 and not (tmp_path / "whole2/rows.jsonl").exists()
        teacher.stop_after = None
        make(path)
        sent = len(teacher.asked)
        assert teacher.served == whole.served and sent <= whole.served + 2 * 3
        make(path)
        assert len(teacher.asked) == sent
    assert rows(tmp_path, "whole2") == rows(tmp_path, "whole")


@pytest.mark.slow
def test_killed_as_a_real_process_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    with teaching() as whole:
        make(recipe(tmp_path, whole, "whole"))
    with teaching(seconds=0.2) as teacher:
        path = recipe(tmp_path, teacher)
        kills = 0
        for count in (3, 9, 15):
            command = [sys.executable, "-m", "trainer", "data", "make", str(path)]
            process = subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            while len(teacher.asked) < count and process.poll() is None:
                time.sleep(0.02)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        make(path)
        assert kills == 3 and len(teacher.asked) <= whole.served + 4 * kills
    assert rows(tmp_path) == rows(tmp_path, "whole")


def test_an_answer_is_kept_by_what_was_asked_in_all_versions(tmp_path: Path) -> None:
    """Another key would have everything paid for again."""
    with teaching() as teacher:
        make(recipe(tmp_path, teacher))
    store = sqlite3.connect(tmp_path / "out/work/answers.sqlite")
    for body in teacher.asked:
        sampling = [body[name] for name in ("max_tokens", "temperature", "top_p", "seed")]
        asked = json.dumps([teacher.url, "scripted", body["messages"], sampling], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()[:32]
        assert store.execute("SELECT count(*) FROM answer WHERE key = ?", (key,)).fetchone() == (1,)
    store.close()


def test_what_is_asked_about_one_original_is_asked_together_and_rows_are_in_the_plans_order(
    tmp_path: Path,
) -> None:
    with teaching() as teacher:
        make(recipe(tmp_path, teacher, workers=1, samples=1))
    asked = [next(part["image_url"]["url"] for part in body["messages"][1]["content"] if "image_url" in part)
             for body in teacher.asked]  # fmt: skip
    assert len(asked) > len(set(asked)) > 4
    assert [each for each, before in zip(asked, ["", *asked], strict=False) if each != before] == list(
        dict.fromkeys(asked)
    )
    order = [json.loads(line)["category"] for line in rows(tmp_path).splitlines()]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)
    keys = [json.loads(line)["key"] for line in (tmp_path / "out/work/teach.jsonl").read_text().splitlines()]
    assert len(keys) == len(order)


def test_nonsense_is_asked_about_once_more_with_the_reason_and_then_dropped(tmp_path: Path) -> None:
    with teaching() as teacher:
        teacher.nonsense = 1
        make(recipe(tmp_path, teacher, workers=1, samples=1))
        again = [body for body in teacher.asked if len(body["messages"]) > 2]
        assert len(again) == 1 and "cannot be read" in str(again[0]["messages"][-1])
        first = [json.loads(line) for line in rows(tmp_path).splitlines()]
        assert [row["meta"]["asked_again"] for row in first].count(True) == 1
        teacher.nonsense = 2
        assert make(recipe(tmp_path, teacher, "other", workers=1, samples=1)) == 1
        dropped = [
            json.loads(line) for line in (tmp_path / "other/work/dropped.jsonl").read_text().splitlines()
        ]
    assert [each["name"] for each in dropped] == ["format"]
    assert len(rows(tmp_path, "other").splitlines()) == len(first) - 1


def test_it_stops_before_more_is_spent_than_may_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, workers=1, max_cost=0.005, max_tokens=64)
        assert make(path) == 2
        assert "max_cost 0.005" in capsys.readouterr().err and not (tmp_path / "out/rows.jsonl").exists()
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        assert 0 < ledger["cost"] <= 0.005 and ledger["sent"] == len(teacher.asked)
        make(path, "teacher.max_cost=9")
    assert rows(tmp_path)


def test_a_broken_picture_costs_its_own_questions_alone(tmp_path: Path) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, samples=1)
        (tmp_path / "photos/originals/3.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
        assert make(path, "rows=60") == 1
    dropped = [json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()]
    assert dropped and {each["name"] for each in dropped} == {"picture"} and rows(tmp_path)
    assert all("0/3/original" in each["reason"] for each in dropped)


def test_one_picture_under_two_names_is_in_one_split(tmp_path: Path) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, samples=1)
        for n in range(8):
            folder = tmp_path / "photos/originals"
            (folder / f"{n}.png").write_bytes((folder / f"{n % 2}.png").read_bytes())
        make(path, "rows=60", "split.test=0.5", "filters.pairs=false", "filters.duplicates=false")
    splits: dict[str, set[str]] = {}
    groups = set()
    for line in rows(tmp_path).splitlines():
        row = json.loads(line)
        splits.setdefault(row["original"][0], set()).add(row["split"])
        groups.add(row["meta"]["group"])
    assert len(splits) == 2 and len(groups) == 8 and all(len(each) == 1 for each in splits.values())


def test_what_near_originals_part_is_dropped_before_the_teacher_is_asked(tmp_path: Path) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, samples=1)
        for n in range(8):
            folder = tmp_path / "photos/originals"
            (folder / f"{n}.png").write_bytes((folder / f"{n % 4}.png").read_bytes())
        make(path, "rows=60", "split.test=0.5", "filters.pairs=false", "filters.duplicates=false")
    lines = (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()
    assert lines and {json.loads(line)["name"] for line in lines} == {"split"}
    assert len(teacher.asked) == len(rows(tmp_path).splitlines()) > 3


def test_another_make_in_the_same_folder_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")
    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
        (tmp_path / "out").mkdir()
        with open(tmp_path / "out/run.lock", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert make(path) == 2
        assert not teacher.asked
    assert "another run is making a dataset there" in capsys.readouterr().err


def test_a_half_written_line_is_no_result_and_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stage.jsonl"
    Stage(file).run(((str(n), n) for n in range(3)), lambda n: {"n": n})
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    stage = Stage(file)
    assert "1" in stage and "2" not in stage
    stage.run(((str(n), n) for n in range(5)), lambda n: {"n": 10 * n}, workers=2)
    assert (
        [Stage(file)[str(n)]["n"] for n in range(5)]
        == [0, 1, 20, 30, 40]
        == [stage[str(n)]["n"] for n in range(5)]
    )

    before, real = file.read_bytes(), os.write

    def full(handle: int, data: Any) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:15])

    monkeypatch.setattr(append.os, "write", full)
    with pytest.raises(RecordError, match="No space left on device"):
        stage.add([("9", {"n": 9})])
    assert file.read_bytes() == before and "9" not in stage


def test_the_pace_holds_is_halved_when_the_host_is_busy_and_comes_back() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(60, lambda: now[0], sleep)
    for _ in range(61):
        pace.wait()
    assert now[0] == pytest.approx(60, abs=0.01)
    pace.busy(7)
    begin = now[0]
    pace.wait()
    assert now[0] >= begin + 7 and pace.rate == pytest.approx(30, rel=0.02)
    for _ in range(2000):
        pace.wait()
    assert pace.rate == 60


def test_what_a_teacher_must_say(tmp_path: Path) -> None:
    from trainer.collect.recipe import load_recipe

    with teaching() as teacher:
        path = recipe(tmp_path, teacher)
    for setting, said in (
        ("teacher.send_pictures=false", "send_pictures"),
        ("teacher.endpoint=https://api.example.org/v1", "max_cost"),
        ("teacher.temperature=0", "all the same"),
        ("teacher.terms=''", "training on answers"),
        ("teacher.workers=0", "workers 0"),
        ("split.test=1", "below 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_recipe(path, [setting])


def test_what_somebody_asked_reaches_the_teacher_and_the_row_as_it_was_said(tmp_path: Path) -> None:
    with teaching() as teacher:
        file = recipe(tmp_path, teacher)
        lines = [
            {"original": f"originals/{n}.png", "edited": f"edited/{n}.png", "prompt": f"rather {n}",
             "references": [f"edited/{n}.png"], "texts": ["velvet"]}
            for n in range(3)
        ]  # fmt: skip
        (tmp_path / "photos/pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert make(file, "plan=asked") == 0
    told = [json.dumps(body["messages"]) for body in teacher.asked]
    assert all(sum(f"rather {n}" in each for each in told) == 2 for n in range(3))  # samples
    written = [json.loads(line) for line in rows(tmp_path).splitlines()]
    assert {row["prompt"] for row in written} == {f"rather {n}" for n in range(3)}
    assert {row["category"] for row in written} == {"image+text"}
    assert all([each["kind"] for each in row["references"]] == ["image", "text"] for row in written)
    assert len({row["question"] for row in written}) == 3
    assert main(["data", "check", str(tmp_path / "out")]) == 0
