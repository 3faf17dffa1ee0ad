"""The study's page by its addresses: consent, blind screens in their order, one rating each, withdrawal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raters_folder import Client, new_key

from evlm.errors import ConfigError, RecordError
from trainer.__main__ import main
from trainer.raters.study_plan import assign, load_study
from trainer.raters.study_store import StudyStore

testclient = pytest.importorskip("starlette.testclient")


def folder(place: Path, **more: Any) -> Path:
    """Four items of two tasks by two methods, whose files say who made them."""
    lines = []
    for number in range(4):
        for name in ("original", "ours", "theirs"):
            kind = "mp4" if number % 2 and name != "original" else "png"
            (place / f"{number}-{name}.{kind}").write_bytes(f"{number} {name}".encode())
        kind = "mp4" if number % 2 else "png"
        outputs = {name: f"{number}-{name}.{kind}" for name in ("ours", "theirs")}
        lines.append({"id": f"i{number}", "task": ("2D", "video")[number % 2], "text": "red",
                      "original": f"{number}-original.png", "outputs": outputs})  # fmt: skip
    (place / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "items": "items.jsonl",
        "methods": ["ours", "theirs"],
        "participants": 4,
        "each": 2,
        "apart": 1,
    }
    (place / "study.yaml").write_text(json.dumps({**settings, **more}))
    return place / "study.yaml"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, StudyStore, Any]]:
    from trainer.raters.study_app import make_study_app

    study, items, files = load_study(folder(tmp_path))
    store = StudyStore(tmp_path / "study.sqlite", assign(study, items))
    with testclient.TestClient(make_study_app(study, items, files, store, tmp_path)) as web:
        yield web, store, items
    store.close()


def test_a_participant_agrees_rates_each_screen_once_and_learns_no_method(served: Any) -> None:
    web, store, _ = served
    (token,) = store.invite(1)
    one = Client(web, token)
    state = one.get("/api/state").json()
    assert not state["agreed"] and state["shown"] is None and state["screens"] == 4
    assert one.post("/api/ratings", {"screen": 0, "value": 3, "key": new_key(), "ms": 1}).status_code == 403
    assert one.get("/api/screens/0/0").status_code == 403
    for wrong in ({}, {"agree": 1}, {"agree": True, "age": "7"}):
        assert one.post("/api/consent", wrong).status_code == 422
    said = one.post("/api/consent", {"agree": True, "age": "30-44"}).text
    for number, screen in enumerate(store.plans[0]):
        state = one.get("/api/state").json()
        assert state["done"] == number == state["shown"]["screen"]
        files = [one.get(f"/api/screens/{number}/{at}") for at in range(len(state["shown"]["files"]))]
        assert files[-1].text.endswith(screen.method) and files[0].text.endswith("original")
        assert one.get(f"/api/screens/{number}/{len(files)}").status_code == 404
        assert one.get(f"/api/screens/{number + 1}/0").status_code == 404
        vote = {"screen": number, "value": 1 + number, "key": new_key(), "ms": 10}
        said += json.dumps(state) + one.post("/api/ratings", vote).text
        assert one.post("/api/ratings", vote).json()["status"] == "known"
        assert one.post("/api/ratings", {**vote, "key": new_key()}).status_code == 409
    assert "ours" not in said and "theirs" not in said
    assert one.get("/api/state").json()["shown"] is None
    tasks = {f"i{n}": ("2D", "video")[n % 2] for n in range(4)}
    assert [each.value for each in store.ratings(tasks)] == [1, 2, 3, 4]
    assert one.post("/api/back", {}).json()["done"] == 3
    assert one.post("/api/withdraw", {}).status_code == 422
    assert one.post("/api/withdraw", {"sure": True}).status_code == 200
    assert store.ratings(tasks) == [] and one.get("/api/state").status_code == 401


def test_malformed_ratings_and_tokens_are_refused(served: Any) -> None:
    web, store, _ = served
    one = Client(web, store.invite(1)[0])
    one.post("/api/consent", {"agree": True})
    good = {"screen": 0, "value": 3, "key": new_key(), "ms": 1}
    for name, values in {
        "value": (0, 6, "3", None, True, 2.5), "screen": (-1, 1, "0", None, 10**9),
        "key": ("", "x" * 99, 7), "ms": (-1, "1", None),
    }.items():  # fmt: skip
        for value in values:
            assert one.post("/api/ratings", {**good, name: value}).status_code in (409, 422), (name, value)
    headers = one.headers
    for body in (b"", b"{", b"[]", b"\xff", b"null"):
        assert web.post("/api/ratings", content=body, headers=headers).status_code == 422
    assert web.post("/api/ratings", content=b"x" * 20_000, headers=headers).status_code == 413
    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic " + "x" * 40}):
        assert web.get("/api/state", headers=wrong).status_code == 401
    page = web.get("/")
    assert "media-src 'self' blob:" in page.headers["content-security-policy"] and "study.js" in page.text
    assert store.ratings({}) == []


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path)
    assert main(["data", "study", "table", str(path)]) == 2
    assert main(["data", "study", "invite", str(path), "--people", "3", "--url", "https://x.example/"]) == 0
    said = capsys.readouterr()
    assert "nobody has rated" in said.err and said.out.count("https://x.example/#token=") == 3
    assert main(["data", "study", "invite", str(path), "--people", "2"]) == 2
    study, items, _ = load_study(path)
    store = StudyStore(tmp_path / "study.sqlite", assign(study, items))
    for token in ("x",):
        assert store.person(token) is None
    from trainer.raters.study_store import Person

    for number in range(3):
        for screen in range(4):
            store.rate(Person(number, True, ""), screen, 1 + (number + screen) % 5, new_key(), 5)
    store.close()
    assert main(["data", "study", "table", str(path)]) == 0
    assert "| video |" in capsys.readouterr().out
    folder(tmp_path, seed=9)
    with pytest.raises(RecordError, match="other items"):
        StudyStore(tmp_path / "study.sqlite", assign(*load_study(tmp_path / "study.yaml")[:2]))
    (tmp_path / "study.yaml").write_text("items: nothing.jsonl\nmethods: [a, b]\n")
    with pytest.raises(ConfigError, match="no file"):
        load_study(tmp_path / "study.yaml")
