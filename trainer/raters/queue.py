"""Who gets which item next, and what becomes of a vote: none is lost, none counts twice, none is too many."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from evlm.errors import EVLMError

from .store import Rater, Store

LEASE = 600.0  # seconds; a tab that was closed gives its items back
GOLD_EVERY = 20  # one item in so many has a known answer, where there are any
LESSONS, LESSONS_RIGHT = 10, 0.8


class UnknownItemError(EVLMError):
    """An item or vote that this rater was never given."""


class KeyUsedError(EVLMError):
    """A vote's key that was used for another vote."""


@dataclass(frozen=True)
class Vote:
    """key: of the client's making, one a vote. value: True yes, False no, None skipped. ms: from showing to
    answering."""

    key: str
    item: int
    value: bool | None
    note: str = ""
    ms: int = 0


@dataclass(frozen=True)
class Given:
    """An item as a rater gets it. view: what may be seen of the row (`items.view_of`)."""

    id: int
    training: bool
    view: dict[str, Any]


def next_items(store: Store, rater: Rater, count: int, now: float | None = None) -> list[Given]:
    """Up to `count` items that are this rater's for the next ten minutes: those that were so already, then
    those with most votes below the wanted number, so that items are finished early. Until the training is
    passed, one training item. Raises RecordError."""
    now = time.time() if now is None else now
    with store.write() as sql:
        if not _trained(sql, rater.id):
            lesson = _lesson(sql, rater.id)
            if lesson is not None:
                return [_given(sql, lesson)]
        mine = [
            row["item"]
            for row in sql.execute(
                "SELECT item FROM lease WHERE rater = ? AND until > ? ORDER BY rowid", (rater.id, now)
            )
        ]
        while len(mine) < count:
            found = _fresh(sql, rater.id, now)
            if found is None:
                break
            _lease(sql, found, rater.id, now)
            mine.append(found)
        for item in mine[:count]:
            sql.execute(
                "UPDATE lease SET until = ? WHERE item = ? AND rater = ?", (now + LEASE, item, rater.id)
            )
        return [_given(sql, item) for item in mine[:count]]


def vote(store: Store, rater: Rater, given: Vote, now: float | None = None) -> str:
    """ "kept" (the same key again: still kept, once); "undone", where that key's vote was taken back;
    "already", where this rater's vote on the item holds from elsewhere (another tab); "late", where the item
    was complete before: the vote is not kept. Raises UnknownItemError, KeyUsedError, RecordError."""
    now = time.time() if now is None else now
    value = None if given.value is None else int(given.value)
    with store.write() as sql:
        old = sql.execute(
            "SELECT item, value, undone FROM vote WHERE rater = ? AND key = ?", (rater.id, given.key)
        ).fetchone()
        if old:
            if (old["item"], old["value"]) != (given.item, value):
                raise KeyUsedError("this key belongs to another vote: make a new one")
            return "undone" if old["undone"] else "kept"
        if sql.execute(
            "SELECT 1 FROM vote WHERE item = ? AND rater = ? AND undone = 0", (given.item, rater.id)
        ).fetchone():
            return "already"
        lease = sql.execute(
            "SELECT until FROM lease WHERE item = ? AND rater = ?", (given.item, rater.id)
        ).fetchone()
        if lease is None:
            raise UnknownItemError("no such item")
        room = lease["until"] > now or _room(sql, given.item, rater.id, now)
        sql.execute("DELETE FROM lease WHERE item = ? AND rater = ?", (given.item, rater.id))
        if value is not None and not room:
            return "late"
        sql.execute(
            "INSERT INTO vote(item, rater, value, note, key, at, ms) VALUES(?, ?, ?, ?, ?, ?, ?)",
            (given.item, rater.id, value, given.note, given.key, now, given.ms),
        )
        if value is not None:
            sql.execute("UPDATE item SET votes = votes + 1 WHERE id = ?", (given.item,))
    return "kept"


def undo(store: Store, rater: Rater, key: str, now: float | None = None) -> Given:
    """Takes a vote back, once however often it is asked, and gives its item to the rater again. Raises
    UnknownItemError, RecordError."""
    now = time.time() if now is None else now
    with store.write() as sql:
        old = sql.execute(
            "SELECT id, item, value, undone FROM vote WHERE rater = ? AND key = ?", (rater.id, key)
        ).fetchone()
        if old is None:
            raise UnknownItemError("no such vote")
        if not old["undone"]:
            sql.execute("UPDATE vote SET undone = id WHERE id = ?", (old["id"],))
            if old["value"] is not None:
                sql.execute("UPDATE item SET votes = votes - 1 WHERE id = ?", (old["item"],))
            # Who skipped may find the item complete by now: it is shown again, and their vote would be late.
            room = _room(sql, old["item"], rater.id, now)
            _lease(sql, old["item"], rater.id, now if room else now - LEASE)
        return _given(sql, old["item"])


def last_votes(store: Store, rater: Rater, count: int = 1) -> list[dict[str, Any]]:
    """{key, item} of the rater's newest votes that hold, the newest first."""
    with store.read() as sql:
        rows = sql.execute(
            "SELECT key, item FROM vote WHERE rater = ? AND undone = 0 ORDER BY id DESC LIMIT ?",
            (rater.id, count),
        )
        return [dict(row) for row in rows]


def lesson(store: Store, rater: Rater, given: Vote, now: float | None = None) -> dict[str, Any]:
    """Answers a training item: {right, answer, why, trained}. It counts where it is the one that is due, once
    a key. Raises UnknownItemError, KeyUsedError, RecordError."""
    now = time.time() if now is None else now
    with store.write() as sql:
        item = sql.execute(
            "SELECT gold, why FROM item WHERE id = ? AND kind = 'training'", (given.item,)
        ).fetchone()
        if item is None or given.value is None:
            raise UnknownItemError("no such training item")
        right = int(given.value) == item["gold"]
        old = sql.execute(
            "SELECT item FROM lesson WHERE rater = ? AND key = ?", (rater.id, given.key)
        ).fetchone()
        if old and old["item"] != given.item:
            raise KeyUsedError("this key belongs to another answer: make a new one")
        if not old and given.item == _lesson(sql, rater.id):
            sql.execute(
                "INSERT INTO lesson(item, rater, value, good, key, at) VALUES(?, ?, ?, ?, ?, ?)",
                (given.item, rater.id, int(given.value), int(right), given.key, now),
            )
        elif not old and not _answered(sql, given.item, rater.id):
            raise UnknownItemError("no such training item")
        done = _trained(sql, rater.id)
        return {"right": right, "answer": bool(item["gold"]), "why": item["why"], "trained": done}


def progress(store: Store, rater: Rater) -> dict[str, int]:
    """What a rater may know of the whole: {votes: their own, left: items that wait for more of them}."""
    with store.read() as sql:
        (mine,) = sql.execute(
            "SELECT count(*) FROM vote WHERE rater = ? AND undone = 0 AND value IS NOT NULL", (rater.id,)
        ).fetchone()
        (left,) = sql.execute(
            "SELECT count(*) FROM item WHERE kind = 'edit' AND votes < wanted AND NOT EXISTS "
            "(SELECT 1 FROM vote WHERE item = item.id AND rater = ? AND undone = 0)",
            (rater.id,),
        ).fetchone()
    return {"votes": mine, "left": left}


def holds(store: Store, rater: Rater, item: int, now: float | None = None) -> bool:
    """Whether a rater may see an item's pictures: it is leased to them, or one they train with."""
    now = time.time() if now is None else now
    with store.read() as sql:
        kind = sql.execute("SELECT kind FROM item WHERE id = ?", (item,)).fetchone()
        if kind is None:
            return False
        if kind["kind"] == "training" or rater.role == "admin":
            return True
        return bool(
            sql.execute(
                "SELECT 1 FROM lease WHERE item = ? AND rater = ? AND until > ?", (item, rater.id, now)
            ).fetchone()
        )


def view(store: Store, item: int) -> dict[str, Any]:
    """What may be seen of an item, with the paths that stay on the server. Raises UnknownItemError."""
    with store.read() as sql:
        row = sql.execute("SELECT view FROM item WHERE id = ?", (item,)).fetchone()
    if row is None:
        raise UnknownItemError("no such item")
    return dict(json.loads(row["view"]))


# --- within a write ---


def _fresh(sql: sqlite3.Connection, rater: int, now: float) -> int | None:
    """An item that the rater has neither seen nor holds, and that has room for a vote more."""
    unseen = (
        "NOT EXISTS (SELECT 1 FROM vote WHERE item = item.id AND rater = :rater AND undone = 0) "
        "AND NOT EXISTS (SELECT 1 FROM lease WHERE item = item.id AND rater = :rater AND until > :now)"
    )
    values = {"rater": rater, "now": now}
    found = sql.execute(
        f"SELECT id FROM item WHERE kind = 'edit' AND votes < wanted AND {unseen} AND votes + "
        "(SELECT count(*) FROM lease WHERE item = item.id AND until > :now) < wanted "
        "ORDER BY votes DESC, rank LIMIT 1",
        values,
    ).fetchone()
    if found is None:
        return None
    shown, gold = sql.execute(
        "SELECT count(*), coalesce(sum(kind = 'gold'), 0) FROM item JOIN (SELECT item FROM vote "
        "WHERE rater = :rater AND undone = 0 UNION SELECT item FROM lease "
        "WHERE rater = :rater AND until > :now) ON item = id",
        values,
    ).fetchone()
    if gold <= (shown - 3 - rater % GOLD_EVERY) // GOLD_EVERY:  # each rater meets them at other places
        due = sql.execute(
            f"SELECT id FROM item WHERE kind = 'gold' AND {unseen} ORDER BY rank LIMIT 1", values
        ).fetchone()
        found = due or found
    return int(found["id"])


def _room(sql: sqlite3.Connection, item: int, rater: int, now: float) -> bool:
    """Whether a vote would take nobody's place who holds the item."""
    row = sql.execute(
        "SELECT wanted - votes - (SELECT count(*) FROM lease WHERE item = id AND rater != ? AND until > ?) "
        "AS room FROM item WHERE id = ?",
        (rater, now, item),
    ).fetchone()
    return bool(row and row["room"] > 0)


def _lease(sql: sqlite3.Connection, item: int, rater: int, now: float) -> None:
    sql.execute("INSERT OR REPLACE INTO lease VALUES(?, ?, ?)", (item, rater, now + LEASE))


def _given(sql: sqlite3.Connection, item: int) -> Given:
    row = sql.execute("SELECT kind, view FROM item WHERE id = ?", (item,)).fetchone()
    return Given(item, row["kind"] == "training", json.loads(row["view"]))


def _lesson(sql: sqlite3.Connection, rater: int) -> int | None:
    """The training item that the rater has answered least often; None where there is none."""
    row = sql.execute(
        "SELECT id FROM item WHERE kind = 'training' ORDER BY "
        "(SELECT count(*) FROM lesson WHERE item = item.id AND rater = ?), rank LIMIT 1",
        (rater,),
    ).fetchone()
    return None if row is None else int(row["id"])


def _answered(sql: sqlite3.Connection, item: int, rater: int) -> bool:
    """Whether the rater was told a training item's answer before."""
    told = sql.execute("SELECT 1 FROM lesson WHERE item = ? AND rater = ?", (item, rater))
    return told.fetchone() is not None


def _trained(sql: sqlite3.Connection, rater: int) -> bool:
    """Eight of the last ten training items right; once passed it stays so."""
    if sql.execute("SELECT trained FROM rater WHERE id = ?", (rater,)).fetchone()["trained"]:
        return True
    (count,) = sql.execute("SELECT count(*) FROM item WHERE kind = 'training'").fetchone()
    if not count:
        return True  # nothing to train with today; items that come later are still to be done
    need = min(LESSONS, count)
    last = sql.execute(
        "SELECT good FROM lesson WHERE rater = ? ORDER BY id DESC LIMIT ?", (rater, need)
    ).fetchall()
    if len(last) < need or sum(row["good"] for row in last) < math.ceil(LESSONS_RIGHT * need):
        return False
    sql.execute("UPDATE rater SET trained = 1 WHERE id = ?", (rater,))
    return True
