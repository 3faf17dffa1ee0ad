"""`python -m trainer protocol` from answers to tables, against a server that knows the world; what a kill
leaves behind, and how often anything is asked."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scripted_panel import Panel, vote_all

from evlm.errors import ConfigError
from trainer.__main__ import main
from trainer.evaluation.model_marks import marks
from trainer.evaluation.questions import world_questions
from trainer.protocol.humans import item_id
from trainer.protocol.recipe import family, load_protocol
from trainer.protocol.strata import OF_EDIT, STRATA, world_strata
from trainer.protocol.verdicts import planted
from trainer.raters.items import load_items
from trainer.raters.store import FILE, Store

ROWS = 12
PROTOCOL = """
questions: {{world: true, rows: {rows}, seed: 1}}
models:
  - {{name: "right | one", endpoint: "{url}", model: right, trust: tuned, workers: 2, tries: 1, pause: 0}}
  - {{name: half, endpoint: "{url}", model: half, trust: tuned, workers: 2, tries: 1, pause: 0}}
judges:
  - {{endpoint: "{url}", model: exact, name: exact judge}}
  - {{endpoint: "{url}", model: kind}}
judging: match
planted: 0.25
asking: {{workers: 2, tries: 1, pause: 0}}
humans: {{wanted: 3}}
out: {out}
"""


@pytest.fixture(scope="module")
def panel() -> Iterator[Panel]:
    server = Panel(world_questions(ROWS, 1))
    yield server
    server.close()


@pytest.fixture
def server(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> Panel:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    panel.asked.clear()
    panel.after, panel.refuses = None, set()
    return panel


def written(place: Path, server: Panel, out: str = "out") -> list[str]:
    """The command on a protocol's file."""
    file = place / f"{out}.yaml"
    file.write_text(PROTOCOL.format(url=server.url, out=place / out, rows=ROWS))
    return ["protocol", str(file)]


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*(out / "tables").iterdir(), out / "protocol.html"]}


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / "tables" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_from_answers_to_tables(server: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, out = written(tmp_path, server), tmp_path / "out"
    assert main([*command, "--only", "tables"]) == 2
    assert "answers are not there yet" in capsys.readouterr().err and not server.asked
    command.append("models.0.axis.lambda_ref=0.2")
    assert main([*command, "--dry-run"]) == 0
    assert "12 answers to come" in capsys.readouterr().out and not server.asked
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "data rate" in printed and "| right \\| one |" in printed
    assert max(server.asked.values()) == 1, "what several models wrote alike is asked once"

    with closing(Store(out / "humans" / FILE)) as store:
        load_items(store, out / "humans", 3, 0, lambda problem: None)
        votes = sum(vote_all(store, name, 0.0) for name in ("ann", "bo", "cy"))
    items, known = (len((out / "humans" / name).read_text().splitlines())
                    for name in ("rows.jsonl", "known.jsonl"))  # fmt: skip
    assert votes >= 3 * (items - known) > 0
    before = server.asked.total()
    assert main(command) == 0 and server.asked.total() == before, "nothing is asked again"
    first = rows(out, "table1")
    right = [row["exact judge"].split(" ")[0] for row in first]
    assert [row["model"] for row in first] == ["right | one", "half"] and right[0] == "100.0"
    assert [row["humans"].split(" ")[0] for row in first] == right
    assert [row["exact"].split(" ")[0] for row in first] == right
    assert [row["kind"].split(" ")[0] for row in first] == ["100.0", "100.0"]
    agreed = {row["who"]: row for row in rows(out, "agreement")}
    assert agreed["exact judge, humans"]["Cohen's kappa"].startswith("1.000")
    assert agreed["all people"]["equal"] == "100.0 [100.0, 100.0]"
    ninth = {row["lambda_ref"]: row for row in rows(out, "table9")}
    assert ninth["0.2"]["models"] == first[0]["average"] and ninth["0.5"]["models"] == "-"
    assert ninth["0.2"]["spoilt"] == "-", "no intermediate of the script was right"
    sure = {row["evaluator"]: row for row in rows(out, "planted")}
    assert set(sure) == {"exact judge", "kind (!)", "humans"}
    assert sure["kind (!)"]["says YES to wrong ones"].startswith("100.0")
    assert (out / "tables" / "table1.tex").read_text().count(r"\\") == 3
    html = (out / "protocol.html").read_text()
    assert "data:image/png;base64" in html and "right | one" in html
    kept = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert {each["served"] for each in kept} == {"exact-2026", "kind-2026"}
    assert {each["prompt"] for each in kept} == {"match-1"} and all(each["at"] for each in kept)


def test_a_question_that_a_server_refuses_keeps_no_table_back(server: Panel, tmp_path: Path) -> None:
    """It counts as malformed, and is named; the next run asks it again."""
    server.refuses = {3}
    assert main(written(tmp_path, server)) == 0
    with open(tmp_path / "out/tables/table1.csv", newline="") as file:
        assert [row["refused"] for row in csv.DictReader(file)] == ["0", "1"]
    server.refuses, _ = set(), server.asked.clear()
    assert main(written(tmp_path, server)) == 0
    assert sum("half" in body for body in server.asked) == 1
    with open(tmp_path / "out/tables/table1.csv", newline="") as file:
        assert "refused" not in next(csv.reader(file))
    server.refuses = set(range(ROWS))
    assert main(written(tmp_path, server, "all")) == 2, "an endpoint that takes nothing is given up"


def test_a_model_whose_last_bytes_changed_is_another(tmp_path: Path) -> None:
    """Past the first 64 MB too, where a large file's last layers are."""
    file = tmp_path / "model.safetensors"
    with open(file, "wb") as data:
        data.truncate((64 << 20) + 8)
    before = marks(file)
    with open(file, "r+b") as data:
        data.seek(-1, 2)
        data.write(b"x")
    os.utime(file, ns=(1, 1))
    assert marks(file)[0][:2] == before[0][:2] and marks(file) != before


def test_what_is_stopped_goes_on_to_the_same_tables(server: Panel, tmp_path: Path) -> None:
    """The server dies at several points; files are cut where a kill may leave them."""
    assert main(written(tmp_path, server, "whole")) == 0
    whole, once = tables(tmp_path / "whole"), dict(server.asked)
    server.asked.clear()
    command, out = written(tmp_path, server, "again"), tmp_path / "again"
    for after in (5, 17, 40):
        server.after = after
        assert main(command) == 2
    server.after = None
    assert main(command) == 0
    assert tables(out) == whole
    assert set(server.asked) == set(once)
    for name, cut in (("answers/half.jsonl", 0.4), ("verdicts.jsonl", 0.73), ("answers/half.jsonl", 0)):
        file = out / name
        data = file.read_bytes()
        kept = data[: int(len(data) * cut)]
        file.write_bytes(kept)
        lost = data.count(b"}\n") - kept.count(b"}\n")  # a half line ends otherwise
        before = server.asked.total()
        assert main(command) == 0 and tables(out) == whole
        assert server.asked.total() - before == lost


def test_strata_of_the_paper_are_even() -> None:
    questions = world_strata(12, 1, "test", 0.0)
    counts = [sum(OF_EDIT[each.edit_type] == kind for each in questions) for kind in STRATA]
    assert counts == [3, 3, 2, 2, 2] and len({each.id for each in questions}) == 12
    with pytest.raises(ConfigError, match="at least 5"):
        world_strata(4, 1, "test", 0.0)


def test_planted_questions_are_right_and_wrong_and_the_same_every_time() -> None:
    questions = world_questions(20, 1)
    found = planted(questions, 0.1, 3)
    assert found == planted(questions, 0.1, 3) and [each.yes for each in found] == [True, True, False, False]
    assert all((each.instruction == each.question.instruction) is each.yes for each in found)
    assert not planted(questions, 0.0, 3)


def test_items_are_of_question_instruction_and_mode() -> None:
    assert len({item_id("q", "a", "match"), item_id("q", "b", "match"), item_id("q", "a", "open")}) == 3


def test_families() -> None:
    assert family("Qwen/Qwen2-VL-7B-Instruct") == family("qwen2.5-vl-72b") == "qwen"
    assert family("bundled") == "bundled" and family("9") == ""


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("judging=maybe", "judging"),
        ("models.0.style=loud", "style 'loud'"),
        ("models.1.name=right | one", "there twice"),
        ("models.0.base=bundled", "expected base, or endpoint and model"),
        ("planted=0.9", "planted"),
        ("questions.data=x", "expected data"),
        ("humans.wanted=0", "humans.wanted"),
    ],
)
def test_what_does_not_fit_is_said(setting: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(PROTOCOL.format(url="http://127.0.0.1:9/v1", out=tmp_path, rows=3))
    load_protocol(file)
    with pytest.raises(ConfigError, match=reason):
        load_protocol(file, [setting])
