"""Votes as rows: majority, ties, names that stay at home; the owner's figures; a process that is killed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from raters_folder import new_key, opened, rated_folder, rater

from evlm.files.pictures import load_picture, save_picture
from evlm.plan.trace import Plan, Trace
from evlm.ratings import rated_row
from evlm.records import ROWS_FILE, RowWriter, read_rows
from trainer.__main__ import main
from trainer.raters.agree import summary
from trainer.raters.cli import _url
from trainer.raters.items import load_items, mask_picture, picture
from trainer.raters.queue import Vote, next_items, undo, view, vote
from trainer.raters.rated import write_rated
from trainer.raters.store import FILE, Store

ROOT = Path(__file__).resolve().parents[3]


def names(store: Store) -> dict[int, str]:
    with store.read() as sql:
        return {row["id"]: row["row_id"] for row in sql.execute("SELECT id, row_id FROM item")}


def test_the_majority_is_the_label_and_ties_and_unfinished_ones_are_left_out(tmp_path: Path) -> None:
    folder = rated_folder(tmp_path / "data", 4)
    store = opened(folder)
    yes = {"anna": {"r-0", "r-1"}, "bert": {"r-0"}, "carl": {"r-0", "r-1", "r-2"}}
    people = {name: rater(store, name) for name in yes}
    by_id = names(store)
    for name, one in people.items():
        while items := next_items(store, one, 1):
            row = by_id[items[0].id]
            value = None if row == "r-3" and name != "anna" else row in yes[name]
            vote(store, one, Vote(new_key(), items[0].id, value, "why not" if row == "r-1" else "", 1500))
    count = write_rated(store, folder, tmp_path / "rated", pytest.fail)
    assert count == {"rows": 3, "ties": 0, "unfinished": 1, "unvoted": 0, "changed": 0, "unknown": 0}
    rows = {row.id: row for row in read_rows(tmp_path / "rated")}  # with every picture there
    assert {name: (row.label, row.raters) for name, row in rows.items()} == {
        "r-0": (True, (True, True, True)),
        "r-1": (True, (True, False, True)),
        "r-2": (False, (False, False, True)),
    }
    votes = rows["r-1"].meta["votes"]
    assert [(each["rater"], each["yes"], each["ms"]) for each in votes] == [
        ("r01", True, 1500), ("r02", False, 1500), ("r03", True, 1500),
    ]  # fmt: skip
    assert votes[0]["note"] == "why not" and "anna" not in (tmp_path / "rated/rows.jsonl").read_text()
    assert write_rated(store, folder, tmp_path / "all", pytest.fail, partial=True)["rows"] == 4
    assert main(["data", "rated", str(folder), str(tmp_path / "rated")]) == 2  # it is there
    # An even number is left when somebody takes a vote back.
    with store.read() as sql:
        (key,) = sql.execute("SELECT key FROM vote WHERE item = (SELECT id FROM item WHERE row_id = 'r-1') "
                             "AND rater = 1").fetchone()  # fmt: skip
    undo(store, people["anna"], key)
    assert write_rated(store, folder, tmp_path / "tie", pytest.fail, partial=True)["ties"] == 1


def test_votes_are_of_what_was_seen(tmp_path: Path) -> None:
    """A row whose text changed behind a vote is not labelled by it, before and after the page is started."""
    folder = rated_folder(tmp_path / "data", 3)
    store = opened(folder, wanted=1)
    one = rater(store, "anna")
    while items := next_items(store, one, 1):
        vote(store, one, Vote(new_key(), items[0].id, True))
    file = folder / ROWS_FILE
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["instruction"] = "make it another thing"
    rows.append({**rows[0], "id": "later"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    count = write_rated(store, folder, tmp_path / "first", pytest.fail)
    assert (count["rows"], count["changed"], count["unknown"]) == (2, 1, 1)
    load_items(store, folder, 1, 0, pytest.fail)
    count = write_rated(store, folder, tmp_path / "second", pytest.fail)
    assert (count["rows"], count["unvoted"], count["changed"]) == (2, 2, 0)
    shown = {each.view["instruction"] for each in next_items(store, one, 3)}
    assert "make it another thing" in shown and len(shown) == 2  # the new text is asked about


def test_the_owner_sees_who_agrees_and_who_knows(tmp_path: Path) -> None:
    store = opened(rated_folder(tmp_path, 30, [{"id": f"r-{at}", "yes": True} for at in range(6)]))
    by_id = names(store)
    for name in ("anna", "bert", "carl"):
        one = rater(store, name)
        while items := next_items(store, one, 1):
            good = int(by_id[items[0].id][2:]) % 2 == 0
            vote(store, one, Vote(new_key(), items[0].id, good if name != "carl" else True, ms=2000))
    said = summary(store)
    assert (said["items"], said["complete"], said["votes"], said["seconds"]) == (24, 24, 72, 2.0)
    assert said["hour"] >= 72 and len(said["disputed"]) == 12
    pairs = {tuple(each["raters"]): each["kappa"] for each in said["agreement"]["cohen"]}
    assert pairs == {("r01", "r02"): 1.0, ("r01", "r03"): 0.0, ("r02", "r03"): 0.0}
    carl = said["raters"][2]
    assert carl["gold"] > 0 and carl["gold_right"] == 1.0 and carl["yes"] == 1.0


def test_rows_of_rate_edit_are_items(tmp_path: Path) -> None:
    trace = Trace("a hat", "blue", "yes", Plan("make the hat blue", ("hat",), None, "local"))
    row, pictures = rated_row(
        trace, torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 3), "like this", True, "a note of mine",
        torch.ones(1, 8, 8),
    )  # fmt: skip
    RowWriter(tmp_path).append(row, pictures)
    store = Store(tmp_path / FILE)
    assert load_items(store, tmp_path, 3, 0, pytest.fail) == {"edit": 1}
    seen = view(store, 1)
    assert seen["instruction"] == "make the hat blue" and "a note of mine" not in json.dumps(seen)
    assert picture(tmp_path, seen, seen["edited"][0])[1] == "image/png"
    assert mask_picture(tmp_path, seen).startswith(b"\x89PNG")


def test_masks_of_several_sizes_are_one_picture(tmp_path: Path) -> None:
    for name, size in (("a", (4, 8)), ("b", (8, 16))):
        mask = torch.zeros(1, *size, 3)
        mask[:, :, : size[1] // 4] = float(name == "a")
        mask[:, :, -size[1] // 4 :] = float(name == "b")
        save_picture(tmp_path / f"{name}.png", mask)
    shown = mask_picture(tmp_path, {"masks": ["a.png", "b.png"], "mask_texts": []})
    (tmp_path / "both.png").write_bytes(shown)
    both = load_picture(tmp_path / "both.png")[0, ..., 0]
    assert both.shape == (8, 16) and both[0].tolist() == [1.0] * 4 + [0.0] * 8 + [1.0] * 4


_CHILD = """
import sys
from pathlib import Path
from trainer.raters.queue import Vote, next_items, vote
from trainer.raters.store import Store, rater_of
store = Store(Path(sys.argv[1]))
one = rater_of(store, sys.argv[2])
while items := next_items(store, one, 3):
    for item in items:
        vote(store, one, Vote(f"key-{item.id:012d}", item.id, True))
        print(item.id, flush=True)
"""


def test_a_process_killed_between_votes_has_kept_all_that_it_acknowledged(tmp_path: Path) -> None:
    from trainer.raters.store import add_rater, rater_of

    store = opened(rated_folder(tmp_path, 40), wanted=1)
    token, acknowledged = add_rater(store, "anna"), []
    for _ in range(2):
        words = [sys.executable, "-c", _CHILD, str(tmp_path / FILE), token]
        child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged.append(int(line))
            if len(acknowledged) % 12 == 0:
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
    one = rater_of(store, token)
    assert one is not None and len(acknowledged) == 24
    for item in acknowledged:  # sent again, as a page does that heard nothing
        assert vote(store, one, Vote(f"key-{item:012d}", item, True)) == "kept"
    with store.read() as sql:
        kept = [row["item"] for row in sql.execute("SELECT item FROM vote WHERE undone = 0")]
        assert sql.execute("SELECT count(*) FROM item WHERE votes > 1").fetchone()[0] == 0
    assert set(acknowledged) <= set(kept) and len(set(kept)) == len(kept) <= 26


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(rated_folder(tmp_path, 2))
    for words in (["raters", folder, "list"], ["rated", folder, str(tmp_path / "out")]):
        assert main(["data", *words]) == 2 and "begin with `data rate" in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()
    assert main(["data", "raters", folder, "add", "anna", "--url", "https://rate.example/"]) == 0
    assert "https://rate.example/#token=" in capsys.readouterr().out
    assert main(["data", "raters", folder, "list"]) == 0
    assert capsys.readouterr().out == "r01  rater  anna\n"
    assert main(["data", "raters", folder, "revoke", "anna"]) == 0
    for wrong, why in (
        (["data", "raters", folder, "add"], "expected a name"),
        (["data", "raters", folder, "revoke", "bert"], "no rater is called 'bert'"),
        (["data", "raters", folder, "add", "anna", "--admin"], "is there as rater"),
        (["data", "rate", str(tmp_path / "no"), "--port", "1"], "expected a dataset folder"),
        (["data", "rate", folder, "--port", "70000"], "--port 70000"),
        (["data", "rate", folder, "--wanted", "0"], "--wanted 0"),
        (["data", "rate", folder, "--guidelines", str(tmp_path / "none.md")], "guidelines"),
    ):
        capsys.readouterr()
        assert main(wrong) == 2 and why in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["data", "rate", str(rated_folder(tmp_path, 2)), "--port", port]) == 2
    assert "--port names another" in capsys.readouterr().err


def test_a_host_that_is_no_address_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(rated_folder(tmp_path, 2))
    assert main(["data", "rate", folder, "--host", "b\u00fcro..lan", "--port", "0"]) == 2
    assert "--host 'b\\xfcro..lan': expected an address" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "trainer.raters.app", raising=False)
    assert main(["data", "rate", str(rated_folder(tmp_path, 2))]) == 2
    assert "pip install 'fastapi' 'uvicorn'" in capsys.readouterr().err


def test_a_link_to_an_address_of_version_six_can_be_followed() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert (
            _url("::1", listener) == f"http://[::1]:{port}" and _url("a.b", listener) == f"http://a.b:{port}"
        )
