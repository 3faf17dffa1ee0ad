"""The queue: nobody sees an item twice, no item gets a fourth vote, no vote is lost or counted twice."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from pathlib import Path

import pytest
from raters_folder import new_key, opened, rated_folder, rater

from evlm.errors import ConfigError, RecordError
from trainer.raters.items import load_items
from trainer.raters.queue import (
    LEASE,
    KeyUsedError,
    UnknownItemError,
    Vote,
    holds,
    last_votes,
    lesson,
    next_items,
    progress,
    undo,
    vote,
)
from trainer.raters.store import FILE, Rater, Store, add_rater, rater_of, raters, revoke


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(rated_folder(tmp_path, 6))


def count(store: Store, what: str) -> int:
    with store.read() as sql:
        return int(sql.execute(what).fetchone()[0])


def test_a_store_keeps_its_number_and_another_has_another(tmp_path: Path) -> None:
    """Browsers keep answers by it, so that none meant for one dataset reaches the next on the same port."""
    one, other = Store(tmp_path / "one.sqlite"), Store(tmp_path / "other.sqlite")
    assert one.number > 0 and one.number != other.number
    number = one.number
    one.close()
    assert Store(tmp_path / "one.sqlite").number == number


def test_an_item_is_asked_until_three_have_voted_and_no_longer(store: Store) -> None:
    people = [rater(store, name) for name in "abcd"]
    seen: dict[str, list[int]] = {each.name: [] for each in people}
    while True:
        given = [(each, next_items(store, each, 1)) for each in people]
        if not any(items for _, items in given):
            break
        for each, items in given:
            for item in items:
                assert vote(store, each, Vote(new_key(), item.id, True)) == "kept"
                seen[each.name].append(item.id)
    assert all(len(set(ids)) == len(ids) for ids in seen.values())
    assert sum(map(len, seen.values())) == 18
    assert count(store, "SELECT count(*) FROM item WHERE votes = 3 AND wanted = 3") == 6


def test_items_with_most_votes_come_first_so_that_they_are_finished(store: Store) -> None:
    first, second = rater(store, "a"), rater(store, "b")
    (item,) = next_items(store, first, 1)
    vote(store, first, Vote(new_key(), item.id, True))
    assert next_items(store, second, 1)[0].id == item.id


def test_the_same_key_is_one_vote_and_belongs_to_it(store: Store) -> None:
    one, key = rater(store, "a"), new_key()
    first, second = next_items(store, one, 2)
    assert [vote(store, one, Vote(key, first.id, True)) for _ in range(3)] == ["kept"] * 3
    assert progress(store, one) == {"votes": 1, "left": 5}
    with pytest.raises(KeyUsedError):
        vote(store, one, Vote(key, second.id, True))
    other = rater(store, "b")
    assert vote(store, other, Vote(new_key(), next_items(store, other, 1)[0].id, True)) == "kept"
    # Another tab of the same rater: its answer to the same item changes nothing.
    assert vote(store, one, Vote(new_key(), first.id, False)) == "already"
    assert count(store, "SELECT value FROM vote WHERE rater = 1") == 1


def test_two_raters_may_have_made_the_same_key(store: Store) -> None:
    key = new_key()
    for name in "ab":
        one = rater(store, name)
        assert vote(store, one, Vote(key, next_items(store, one, 1)[0].id, True)) == "kept"
    assert count(store, "SELECT count(*) FROM vote") == 2


def test_undo_takes_back_once_and_gives_the_item_again(store: Store) -> None:
    one, key = rater(store, "a"), new_key()
    (item,) = next_items(store, one, 1)
    vote(store, one, Vote(key, item.id, True))
    assert last_votes(store, one) == [{"key": key, "item": item.id}]
    for _ in range(2):
        assert undo(store, one, key).id == item.id
        assert count(store, f"SELECT votes FROM item WHERE id = {item.id}") == 0
    assert holds(store, one, item.id) and last_votes(store, one) == []
    assert vote(store, one, Vote(key, item.id, True)) == "undone"  # resent too late: it stays taken back
    assert vote(store, one, Vote(new_key(), item.id, False)) == "kept"
    assert count(store, "SELECT count(*) FROM vote") == 2  # append only
    with pytest.raises(UnknownItemError):
        undo(store, rater(store, "b"), key)


def test_a_skipped_item_counts_nothing_and_does_not_come_back(store: Store) -> None:
    one = rater(store, "a")
    (item,) = next_items(store, one, 1)
    assert vote(store, one, Vote(new_key(), item.id, None)) == "kept"
    assert count(store, f"SELECT votes FROM item WHERE id = {item.id}") == 0
    assert item.id not in {each.id for each in next_items(store, one, 5)}


def test_a_closed_tab_gives_its_items_back_and_a_late_vote_takes_nobodys_place(tmp_path: Path) -> None:
    store = opened(rated_folder(tmp_path, 1), wanted=1)
    late, other = rater(store, "a"), rater(store, "b")
    (item,) = next_items(store, late, 3, now=0)
    assert next_items(store, other, 1, now=LEASE - 1) == []
    assert next_items(store, other, 1, now=LEASE + 1)[0].id == item.id
    assert not holds(store, late, item.id, now=LEASE + 1)
    assert vote(store, late, Vote(new_key(), item.id, True), now=LEASE + 2) == "late"
    assert vote(store, other, Vote(new_key(), item.id, True), now=LEASE + 3) == "kept"
    # With room left a late vote is as good as another.
    store = opened(rated_folder(tmp_path / "second", 1), wanted=1)
    late = rater(store, "a")
    (item,) = next_items(store, late, 1, now=0)
    assert vote(store, late, Vote(new_key(), item.id, True), now=10 * LEASE) == "kept"


def test_an_item_that_was_never_given_takes_no_vote(store: Store) -> None:
    one, other = rater(store, "a"), rater(store, "b")
    (item,) = next_items(store, one, 1)
    for wrong in (item.id, 10**9):
        with pytest.raises(UnknownItemError):
            vote(store, other, Vote(new_key(), wrong, True))
        assert not holds(store, other, wrong)


def test_a_skip_that_is_taken_back_on_a_complete_item_makes_no_vote_too_many(tmp_path: Path) -> None:
    store = opened(rated_folder(tmp_path, 1), wanted=1)
    one, other, key = rater(store, "a"), rater(store, "b"), new_key()
    (item,) = next_items(store, one, 1)
    vote(store, one, Vote(key, item.id, None))
    assert vote(store, other, Vote(new_key(), next_items(store, other, 1)[0].id, True)) == "kept"
    assert undo(store, one, key).id == item.id
    assert vote(store, one, Vote(new_key(), item.id, True)) == "late"
    assert count(store, "SELECT votes FROM item") == 1


@pytest.mark.parametrize("items", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_twenty_raters_without_thinking_time_give_no_fourth_vote(tmp_path: Path, items: int) -> None:
    store = opened(rated_folder(tmp_path, items))
    people = [rater(store, f"rater {at}") for at in range(20)]
    errors: list[Exception] = []

    def work(one: Rater) -> None:
        try:
            chance = random.Random(one.id)
            while found := next_items(store, one, 3):
                for item in found:
                    given = Vote(new_key(), item.id, chance.choice((True, True, False, None)))
                    assert {vote(store, one, given) for _ in range(2)} == {"kept"}
                    if chance.random() < 0.1:
                        undo(store, one, last_votes(store, one)[0]["key"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in people:  # who found everything taken comes back: an undo or a skip may have left something
        work(one)
    assert not errors
    live = "(SELECT count(*) FROM vote WHERE item = item.id AND undone = 0 AND value IS NOT NULL)"
    assert count(store, f"SELECT count(*) FROM item WHERE votes != {live}") == 0
    assert count(store, "SELECT max(votes) FROM item") == 3
    assert count(store, "SELECT count(*) FROM item WHERE votes < 3") == 0


def test_items_with_a_known_answer_are_one_in_twenty_and_look_like_any_other(tmp_path: Path) -> None:
    known = [{"id": f"r-{at}", "yes": True} for at in range(5)]
    store = opened(rated_folder(tmp_path, 85, known))
    one, golden = rater(store, "a"), []
    with store.read() as sql:
        gold = {row["id"] for row in sql.execute("SELECT id FROM item WHERE kind = 'gold'")}
    while items := next_items(store, one, 1):
        golden.append(items[0].id in gold)
        assert not items[0].training
        vote(store, one, Vote(new_key(), items[0].id, True))
    assert sum(not each for each in golden) == 80 and 3 <= sum(golden) <= 5


def test_training_ends_with_eight_of_ten_right(tmp_path: Path) -> None:
    known = [{"id": f"r-{at}", "yes": at % 2 == 0, "why": "because", "training": True} for at in range(12)]
    store = opened(rated_folder(tmp_path, 14, known))
    one = rater(store, "a")
    answers = {f"r-{at}": at % 2 == 0 for at in range(12)}
    with store.read() as sql:
        names = {row["id"]: row["row_id"] for row in sql.execute("SELECT id, row_id FROM item")}
    for at in range(13):
        (item,) = next_items(store, one, 3)
        assert item.training
        right = answers[names[item.id]] == (at >= 5)  # five wrong answers, then right ones
        said = lesson(store, one, Vote(new_key(), item.id, answers[names[item.id]] is (at >= 5)))
        assert said["right"] is (at >= 5) and said["why"] == "because"
        assert said["trained"] is (at == 12), right
    assert not next_items(store, one, 3)[0].training
    with pytest.raises(UnknownItemError):
        lesson(store, one, Vote(new_key(), next_items(store, one, 3)[0].id, True))


def test_a_lesson_counts_once_a_key_and_in_its_turn(tmp_path: Path) -> None:
    known = [{"id": f"r-{at}", "yes": True, "training": True} for at in range(3)]
    store = opened(rated_folder(tmp_path, 5, known))
    one, key = rater(store, "a"), new_key()
    (first,) = next_items(store, one, 1)
    (other,) = next_items(store, rater(store, "b"), 1)
    assert first.id == other.id
    said = [lesson(store, one, Vote(key, first.id, True)) for _ in range(3)]  # whose reply was lost
    assert said == [said[0]] * 3 and not said[0]["trained"]
    assert lesson(store, one, Vote(new_key(), first.id, True))["right"]  # out of its turn: told, not counted
    assert count(store, "SELECT count(*) FROM lesson") == 1
    (second,) = next_items(store, one, 1)
    with pytest.raises(KeyUsedError):
        lesson(store, one, Vote(key, second.id, True))
    with store.read() as sql:
        ids = {row["id"] for row in sql.execute("SELECT id FROM item WHERE kind = 'training'")}
    (third,) = ids - {first.id, second.id}
    with pytest.raises(UnknownItemError):  # not told before its turn
        lesson(store, one, Vote(new_key(), third, True))


def test_tokens_are_kept_as_hashes_and_end_when_they_are_revoked(tmp_path: Path, store: Store) -> None:
    token = add_rater(store, "anna")
    assert len(token) >= 43 and rater_of(store, token) == raters(store)[0]
    held = b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))
    assert b"anna" in held and token.encode() not in held
    newer = add_rater(store, "anna")
    assert rater_of(store, token) is None and rater_of(store, newer) is not None
    revoke(store, "anna")
    assert rater_of(store, newer) is None and len(raters(store)) == 1
    with pytest.raises(ConfigError, match="there are: anna"):
        revoke(store, "bert")
    for wrong in ("", "a\nb", "x" * 81):
        with pytest.raises(ConfigError, match="name"):
            add_rater(store, wrong)


def test_rows_that_came_later_become_items_and_a_changed_one_with_votes_is_a_new_one(tmp_path: Path) -> None:
    folder = rated_folder(tmp_path, 3)
    store = opened(folder)
    one = rater(store, "a")
    (item,) = next_items(store, one, 1)
    vote(store, one, Vote(new_key(), item.id, True))
    rated_folder(tmp_path, 5)
    assert load_items(store, folder, 3, 0, print) == {"edit": 5}
    assert count(store, f"SELECT votes FROM item WHERE id = {item.id}") == 1
    text = (folder / "rows.jsonl").read_text()
    (waiting,) = next_items(store, one, 1)  # held while it changes
    (folder / "rows.jsonl").write_text(text.replace("red hat", "red cap"))
    assert load_items(store, folder, 3, 0, print) == {"edit": 5, "gone": 1}
    with pytest.raises(UnknownItemError):  # an answer that comes late is about the old text
        vote(store, one, Vote(new_key(), waiting.id, True))
    assert count(store, "SELECT sum(votes) FROM item WHERE kind = 'edit'") == 0
    assert count(store, f"SELECT votes FROM item WHERE id = {item.id} AND kind = 'gone'") == 1
    assert all("red cap" in json.dumps(each.view) for each in next_items(store, one, 5))


def test_an_item_that_becomes_a_lesson_is_held_no_longer(tmp_path: Path) -> None:
    folder = rated_folder(tmp_path, 3)
    store = opened(folder)
    one = rater(store, "a")
    held = next_items(store, one, 3)[1].id
    with store.read() as sql:
        row = sql.execute("SELECT row_id FROM item WHERE id = ?", (held,)).fetchone()["row_id"]
    (folder / "known.jsonl").write_text(json.dumps({"id": row, "yes": True, "training": True}))
    load_items(store, folder, 3, 0, print)
    for _ in range(2):
        (item,) = next_items(store, one, 3)
        assert item.id == held and item.training
    assert lesson(store, one, Vote(new_key(), held, True))["trained"]
    assert [each.training for each in next_items(store, one, 3)] == [False, False]


def test_a_file_that_is_no_store_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(RecordError, match=r"ratings\.sqlite: file is not a database"):
        Store(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    Store(tmp_path / FILE).close()
    with sqlite3.connect(tmp_path / FILE) as sql:
        sql.execute("PRAGMA user_version = 9")
    with pytest.raises(RecordError, match="version 9"):
        Store(tmp_path / FILE)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"id": 1, "yes": true}',
        '{"id": "r-0"}',
        '{"id": "r-0", "yes": 1}',
        '{"id": "r-0", "yes": true, "why": "\\ud83d"}',  # half a character, which sqlite cannot keep
    ],
)
def test_a_bad_line_of_known_answers_is_named(tmp_path: Path, line: str) -> None:
    folder = rated_folder(tmp_path, 2)
    (folder / "known.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ConfigError, match=r"known\.jsonl, line 2"):
        opened(folder)


def test_a_row_has_one_known_answer(tmp_path: Path) -> None:
    both = [{"id": "r-0", "yes": True}, {"id": "r-1", "yes": True}, {"id": "r-0", "yes": False}]
    with pytest.raises(ConfigError, match=r"known\.jsonl, line 3: 'r-0' was said on line 1"):
        opened(rated_folder(tmp_path, 2, both))


def test_a_known_answer_of_no_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'elsewhere' is no row"):
        opened(rated_folder(tmp_path, 2, [{"id": "elsewhere", "yes": True}]))


def test_what_waited_in_a_browser_counts_with_the_new_link_of_a_revoked_rater(tmp_path: Path) -> None:
    store = opened(rated_folder(tmp_path, 3))
    given = next_items(store, rater(store, "anna"), 1)[0]
    revoke(store, "anna")
    again = rater(store, "anna")
    assert vote(store, again, Vote(new_key(), given.id, True)) == "kept"
