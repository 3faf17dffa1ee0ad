"""`data card`, `--dry-run`'s cost, `--limit`, licences of what is lent, and one key for two tasks."""

from __future__ import annotations

import json
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.scripted_teacher import Teacher, teaching
from evlm.reason.messages import build_messages
from evlm.request import Request
from trainer.__main__ import main
from trainer.collect.answers import Answers
from trainer.collect.plan import first, make_plan
from trainer.collect.recipe import load_recipe
from trainer.collect.services import Teacher as Asking
from trainer.collect.sources.item import Item, Media
from trainer.collect.teacher import Asked


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)


def recipe(folder: Path, teacher: Teacher, **more: Any) -> Path:
    """Eight pairs of two sources."""
    for n in range(8):
        picture = Image.new("RGB", (16, 16), (10 + n, 40, n))
        picture.paste((200, 200 - 20 * n, n), (n, 0, 16, 8))
        for name in ("originals", "edited"):
            path = folder / f"{'ab'[n % 2]}/{name}/{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            picture.paste((90, 90, 10 * n), (n, 8, n + 4, 12))
    settings = {
        "out": str(folder / "out"), "rows": 24, "split": {"test": 0.3},
        "sources": [{"kind": "folder", "path": str(folder / "a"), "license": "CC0-1.0"},
                    {"kind": "folder", "path": str(folder / "b"), "license": "CC-BY-NC-4.0",
                     "source_url": "https://example.org/b"}],
        "teacher": {"endpoint": teacher.url, "model": "scripted", "terms": "may be trained on", "samples": 1,
                    "send_pictures": True, "workers": 2, "prices": {"input": 2, "output": 10}, **more},
    }  # fmt: skip
    path = folder / "r.json"
    path.write_text(json.dumps(settings))
    return path


def test_the_card_says_what_is_there_and_replaces_only_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, max_cost=0.01)
        main(["data", "make", str(path), "--dry-run"])
        said = capsys.readouterr().out
        assert "1 to a question; " in said and "more cost at most" in said and "may stop it" in said
        main(["data", "make", str(path), "teacher.max_cost=9"])
        main(["data", "make", str(path), "--dry-run"])
        said = capsys.readouterr().out
        assert "are there; 0 more cost about 0" in said and "spent" in said
    assert main(["data", "card", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert f"{len(rows)} rows of " in card and "may be trained on" in card and "CC-BY-NC-4.0" in card
    assert "not be used commercially" in card and "https://example.org/b" in card
    assert "| image | " in card and "33.3% |" in card and "Nobody has rated" in card
    assert "In 100.0% of the traces the plan is another than the intermediate" in card
    assert "### Questions of several references" in card and "| thinking | 2.0 | 2 |" in card
    assert "](words.svg)" in card and "](edit-types.svg)" in card
    for name in ("words", "edit-types"):
        assert ElementTree.parse(tmp_path / f"out/{name}.svg").getroot().tag.endswith("svg")
    assert main(["data", "card", str(tmp_path / "out")]) == 0
    (tmp_path / "out/README.md").write_text("mine")
    assert main(["data", "card", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out/README.md").read_text() == "mine"
    assert main(["data", "card", str(tmp_path / "out"), "--out", str(tmp_path / "CARD.md")]) == 0
    assert main(["data", "card", str(tmp_path / "nowhere")]) == 2


def item(number: int, kind: Any = "image", **more: Any) -> Item:
    media = {name: Media(f"{number}/{name}", "image", Path) for name in ("edited",) if name in more}
    rest = {name: value for name, value in more.items() if name != "edited"}
    original = Media(f"{number}/original", kind, Path)
    return Item(str(number), f"0/{number}", original, "CC0-1.0", "folder", **media, **rest)


def test_a_few_questions_show_every_category_and_more_of_them_go_on(tmp_path: Path) -> None:
    with teaching() as teacher:
        made = load_recipe(recipe(tmp_path, teacher, max_cost=1), ["rows=60", "split.test=0"])
    items = [item(n, edited=True) for n in range(30)] + [item(100 + n, "video") for n in range(10)]
    questions = make_plan(made, items).questions
    few, more = first(questions, 6), first(questions, 20)
    assert len({question.category for question in few}) == 6 and len(more) == 20
    assert {each.id for each in few} < {each.id for each in more}
    assert first(questions, None) == questions == first(questions, 10**6)
    assert [questions.index(each) for each in more] == sorted(questions.index(each) for each in more)


def test_a_row_names_the_licences_of_the_pictures_that_others_lent(tmp_path: Path) -> None:
    with teaching() as teacher:
        main(["data", "make", str(recipe(tmp_path, teacher, max_cost=9)), "rows=60", "seed=3"])
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    lent = [(row["meta"]["license"], row["meta"].get("reference_licenses")) for row in rows]
    assert any(each for _, each in lent)
    for own, others in lent:
        assert all(licence != own for _, licence in others or ())
    assert all(others is None for row, (_, others) in zip(rows, lent, strict=True)
               if row["category"] == "text")  # fmt: skip


def test_two_tasks_that_ask_the_same_send_it_once(tmp_path: Path) -> None:
    with teaching(seconds=0.3) as teacher:
        answers = Answers(tmp_path / "answers.sqlite")
        asked = Asked(Asking(teacher.url, "scripted", "ours", send_pictures=True), answers)
        chat = build_messages(Request(torch.zeros(1, 8, 8, 3), "red"), asked.model.codec, asked.model.style)
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(asked.ask(chat, 0).text)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        answers.close()
    assert len(set(texts)) == 1 and len(texts) == 4 and len(teacher.asked) == 1
