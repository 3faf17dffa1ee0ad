"""The page's server: tokens, limits, what a rater's token gets to see, hostile requests."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from raters_folder import Client, new_key, opened, rated_folder

from trainer.raters import app as served
from trainer.raters.store import Store, add_rater, revoke

testclient = pytest.importorskip("starlette.testclient")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield opened(rated_folder(tmp_path, 6))


@pytest.fixture
def web(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.setattr(served, "BURST", 1e9)
    with testclient.TestClient(served.make_app(tmp_path, store), raise_server_exceptions=False) as client:
        yield client


def raters(web: object, store: Store, *names: str) -> list[Client]:
    return [Client(web, add_rater(store, name)) for name in names]


def test_an_item_is_shown_voted_on_and_taken_back(web: object, store: Store) -> None:
    (one,) = raters(web, store, "anna")
    state = one.get("/api/state").json()
    assert state["left"] == 6 and state["store"] > 0
    items = one.get("/api/next?n=3").json()["items"]
    assert len(items) == 3 and [each["id"] for each in items] == [
        each["id"] for each in one.get("/api/next?n=3").json()["items"]
    ]
    item = items[0]
    assert item["instruction"] == "make the red hat blue" and item["prompt"] == "like this"
    assert item["references"][1]["text"] == "a blue hat" and item["masked"]
    for number in (*item["original"], *item["edited"], *item["references"][0]["frames"]):
        picture = one.get(f"/api/items/{item['id']}/pictures/{number}")
        assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    assert one.get(f"/api/items/{item['id']}/mask").content.startswith(b"\x89PNG")
    key = new_key()
    assert one.vote(item["id"], True, key).json() == {"status": "kept", "votes": 1, "left": 5}
    assert one.get("/api/last").json()["votes"][0]["key"] == key
    assert one.post("/api/undo", {"key": key}).json()["item"]["id"] == item["id"]
    assert one.get("/api/state").json()["votes"] == 0


def test_a_rater_learns_nothing_of_source_label_paths_or_others(web: object, store: Store) -> None:
    first, second = raters(web, store, "anna", "bert")
    for each in first.get("/api/next?n=5").json()["items"]:
        first.post(
            "/api/votes", {"key": new_key(), "item": each["id"], "value": True, "note": "a word of mine"}
        )
    said = "".join(
        second.get(path).text for path in ("/api/state", "/api/next?n=5", "/api/last", "/api/admin", "/")
    )
    for secret in ("secret source", "pictures/", "anna", "a word of mine", "label", "r-0", "recolour"):
        assert secret not in said
    assert second.get("/api/admin").status_code == 403


def test_pictures_are_those_of_leased_items_alone(web: object, store: Store) -> None:
    first, second = raters(web, store, "anna", "bert")
    (item,) = first.get("/api/next").json()["items"]
    assert second.get(f"/api/items/{item['id']}/pictures/0").status_code == 404
    assert first.get(f"/api/items/{item['id']}/pictures/99").status_code == 404
    first.vote(item["id"], True)
    assert first.get(f"/api/items/{item['id']}/pictures/0").status_code == 404


@pytest.mark.parametrize(
    "trick",
    [
        "/api/items/../../rows.jsonl", "/api/items/..%2f..%2frows.jsonl/mask", "/api/items/1/pictures/..%2f0",
        "/api/items/%00/mask", "/api/items/-1/mask", "/api/items/1e3/mask", f"/api/items/{10**40}/mask",
        f"/api/items/{10**18}/pictures/{10**40}", "/ratings.sqlite", "/rows.jsonl", "/../app.py", "/app.py",
        "/page.html%00.js", "//etc/passwd", "/docs", "/openapi.json", "/known.jsonl", "/guidelines.md",
    ],
)  # fmt: skip
def test_path_tricks_lead_nowhere(web: object, store: Store, trick: str) -> None:
    (one,) = raters(web, store, "anna")
    one.get("/api/next?n=5")
    assert one.get(trick).status_code in (404, 405, 422)


def test_without_a_valid_token_there_is_the_empty_page_alone(web: object, store: Store) -> None:
    assert web.get("/").status_code == 200  # type: ignore[attr-defined]
    paths = ("/api/state", "/api/next", "/api/last", "/api/admin", "/api/items/1/mask")
    (one,) = raters(web, store, "anna")
    revoked = Client(web, add_rater(store, "bert"))
    revoke(store, "bert")
    for client in (Client(web, ""), Client(web, "wrong"), Client(web, "x" * 9000), revoked):
        assert {client.get(path).status_code for path in paths} == {401}
        assert client.vote(1, True).status_code == 401
    token = one.headers["Authorization"].split()[1]
    assert web.get(f"/api/state?token={token}").status_code == 401  # type: ignore[attr-defined]
    answer = web.post("/api/votes", json={}, headers={"Cookie": f"token={token}"})  # type: ignore[attr-defined]
    assert answer.status_code == 401


def test_every_answer_forbids_what_the_page_does_not_need(web: object, store: Store) -> None:
    for path in ("/", "/page.js", "/page.css", "/admin", "/api/state", "/nowhere"):
        headers = web.get(path).headers  # type: ignore[attr-defined]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_asks_nobody_but_its_server() -> None:
    here = Path(served.__file__).parent
    for file in here.iterdir():
        if file.suffix in (".html", ".js", ".css"):
            text = file.read_text(encoding="utf-8")
            assert "http://" not in text and "https://" not in text and "innerHTML" not in text, file.name
            assert "style=" not in text and "eval(" not in text and " onclick" not in text, file.name


def test_large_bodies_are_refused_and_too_many_requests_too(
    web: object, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = raters(web, store, "anna", "bert")
    large = {"key": new_key(), "item": 1, "value": True, "note": "x" * 20_000}
    assert first.post("/api/votes", large).status_code == 413
    monkeypatch.setattr(served, "RATE", 0.0)
    monkeypatch.setattr(served, "BURST", 5.0)
    codes = [first.get("/api/last").status_code for _ in range(7)]
    assert codes[-1] == 429 and codes.count(200) == 5
    assert second.get("/api/last").status_code == 200


def test_training_comes_first_and_says_why(tmp_path: Path, web: object, store: Store) -> None:
    folder = rated_folder(
        tmp_path / "more", 4, [{"id": "r-1", "yes": False, "why": "the cap", "training": True}]
    )
    store = opened(folder)
    with testclient.TestClient(served.make_app(folder, store)) as client:
        (one,) = raters(client, store, "anna")
        (item,) = one.get("/api/next?n=3").json()["items"]
        assert item["training"]
        wrong = one.post("/api/lessons", {"key": new_key(), "item": item["id"], "value": True}).json()
        assert wrong == {"right": False, "answer": False, "why": "the cap", "trained": False}
        assert one.post("/api/lessons", {"key": new_key(), "item": item["id"], "value": False}).json()[
            "trained"
        ]
        assert not one.get("/api/next").json()["items"][0]["training"]


def test_a_picture_that_breaks_the_reader_is_no_fault_of_the_server(
    web: object, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 5xx is asked for again: one bad item would keep the rater from all others."""

    def broken(*asked: object) -> tuple[bytes, str]:
        raise RuntimeError("stack expects each tensor to be equal size")

    monkeypatch.setattr(served, "picture", broken)
    (one,) = raters(web, store, "anna")
    (item,) = one.get("/api/next").json()["items"]
    answer = one.get(f"/api/items/{item['id']}/pictures/0")
    assert answer.status_code == 404 and "cannot be shown" in answer.text


def test_a_missing_picture_is_said_and_the_rest_goes_on(tmp_path: Path, web: object, store: Store) -> None:
    (one,) = raters(web, store, "anna")
    (item,) = one.get("/api/next").json()["items"]
    (tmp_path / "pictures/frame-0.png").unlink()
    answer = one.get(f"/api/items/{item['id']}/pictures/0")
    assert answer.status_code == 404 and str(tmp_path) not in answer.text
    assert one.vote(item["id"], None).json()["status"] == "kept"


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>no picture</html>", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF\0\0\0\0WEBP", "pipe", "folder"],
)
def test_what_is_no_picture_is_said_to_the_owner_and_its_name_to_nobody_else(
    content: bytes | str, tmp_path: Path, web: object, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Names may say who made it. The page says that it cannot be shown where it gets no 200."""
    (one,) = raters(web, store, "anna")
    (item,) = one.get("/api/next").json()["items"]
    file = tmp_path / "pictures/frame-0.png"
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        (os.mkfifo if content == "pipe" else os.mkdir)(file)
    answer = one.get(f"/api/items/{item['id']}/pictures/0")
    assert (answer.status_code, answer.json()) == (404, {"detail": "picture: it cannot be shown"})
    assert f"item {item['id']}: " in caplog.text and "frame-0.png" in caplog.text
    assert one.get(f"/api/items/{item['id']}/pictures/1").status_code == 200


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_requests_change_nothing_and_break_nothing(count: int, web: object, store: Store) -> None:
    (one,) = raters(web, store, "anna")
    (item,) = one.get("/api/next").json()["items"]
    chance = random.Random(15)
    good = {"key": "k" * 20, "item": item["id"], "value": True, "note": "", "ms": 5}
    odd = [
        None,
        [],
        {},
        "",
        "x",
        -1,
        0,
        1.5,
        10**40,
        True,
        "\x00",
        "é" * 3000,
        [[[]]],
        {"a": 1},
        "\ud800",
        1e308,
    ]
    paths = ["/api/votes", "/api/undo", "/api/lessons", "/api/next", "/api/state", "/api/items/1/mask", "/x"]
    codes = set()
    for _ in range(count):
        body: object = dict(good)
        kind = chance.randrange(6)
        if kind == 0:
            body = chance.choice(odd)
        elif kind < 4:
            name = chance.choice(list(good))
            body[name] = chance.choice(
                [v for v in odd if v != good[name] and not (name == "note" and v in ("", "x"))]
            )  # type: ignore[index]
            if name in ("value", "note", "ms") and chance.random() < 0.5:
                body["more"] = 1  # type: ignore[index]
            if (name == "value" and body["value"] is None) or (name == "ms" and body["ms"] == 0):  # type: ignore[index]
                body["item"] = "x"  # type: ignore[index]
        elif kind == 4:
            body["item"] = item["id"] + chance.randrange(1, 99)  # type: ignore[index]
        data = json.dumps(body).encode()
        if kind == 5:
            data = (
                bytes(chance.randrange(256) for _ in range(chance.randrange(60)))
                + data[: chance.randrange(len(data))]
            )
        method = chance.choice(["POST", "POST", "POST", "PUT", "DELETE", "GET", "PATCH"])
        answer = web.request(method, chance.choice(paths), content=data, headers=one.headers)  # type: ignore[attr-defined]
        codes.add(answer.status_code)
        assert answer.status_code < 500, (method, data)
    assert {404, 405, 422} <= codes
    with store.read() as sql:
        assert sql.execute("SELECT count(*) FROM vote").fetchone()[0] == 0
    assert one.vote(item["id"], True).json()["status"] == "kept"
