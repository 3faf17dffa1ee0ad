"""What a teacher answered, in one sqlite file: asked once, kept for good; and what was sent and spent."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

_TABLES = """
CREATE TABLE IF NOT EXISTS answer(key TEXT PRIMARY KEY, text TEXT NOT NULL, finished INTEGER NOT NULL,
    asked INTEGER, written INTEGER, seconds REAL NOT NULL, date TEXT NOT NULL, cost REAL NOT NULL);
CREATE TABLE IF NOT EXISTS sent(number INTEGER PRIMARY KEY, key TEXT NOT NULL, date TEXT NOT NULL,
    said TEXT);
CREATE INDEX IF NOT EXISTS sent_key ON sent(key);
CREATE TABLE IF NOT EXISTS lost(number INTEGER PRIMARY KEY, cost REAL NOT NULL);
CREATE TABLE IF NOT EXISTS refused(key TEXT PRIMARY KEY, said TEXT NOT NULL, date TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Kept:
    """An answer. asked, written: tokens of the question and of the answer, None where nobody says. cost: in
    the currency of the recipe's prices."""

    text: str
    finished: bool
    asked: int | None
    written: int | None
    seconds: float
    cost: float


class Answers:
    """OUT/work/answers.sqlite; safe from several threads. Raises RecordError where it cannot be used."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        with self._told():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(file, timeout=30, check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.executescript(_TABLES)

    def get(self, key: str) -> Kept | None:
        """What was answered before."""
        with self._told():
            row = self._base.execute(
                "SELECT text, finished, asked, written, seconds, cost FROM answer WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Kept(row[0], bool(row[1]), *row[2:])

    def sending(self, key: str) -> int:
        """Notes a request before it is sent; gives its number."""
        with self._told():
            cursor = self._base.execute("INSERT INTO sent(key, date) VALUES (?, ?)", (key, _now()))
        return int(cursor.lastrowid or 0)

    def failed(self, number: int, said: str, cost: float = 0.0) -> None:
        """Notes that a request had no answer, and why. cost: what it may have cost all the same."""
        with self._told():
            if cost:
                self._base.execute("INSERT OR REPLACE INTO lost VALUES (?, ?)", (number, cost))
            self._base.execute("UPDATE sent SET said = ? WHERE number = ?", (said[:300], number))

    def noted(self, key: str, said: str) -> bool:
        """Whether a request of that question failed in these words: what a file says is noted once."""
        with self._told():
            query = "SELECT 1 FROM sent WHERE key = ? AND said = ? LIMIT 1"
            return self._base.execute(query, (key, said[:300])).fetchone() is not None

    def put(self, number: int, key: str, kept: Kept) -> None:
        """Keeps the answer to the request of that number."""
        row = (key, kept.text, int(kept.finished), kept.asked, kept.written, kept.seconds, _now(), kept.cost)
        with self._told():
            self._base.execute("BEGIN IMMEDIATE")
            self._base.execute("INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._base.execute("UPDATE sent SET said = 'answered' WHERE number = ?", (number,))
            self._base.execute("COMMIT")

    def refusal(self, key: str) -> str | None:
        """Why a question has no answer, where that is kept."""
        with self._told():
            row = self._base.execute("SELECT said FROM refused WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def refuse(self, refused: list[tuple[str, str]]) -> None:
        """Keeps that questions have no answer: (key, why). They are not asked again."""
        with self._told():
            self._base.executemany(
                "INSERT OR REPLACE INTO refused VALUES (?, ?, ?)",
                [(key, said[:400], _now()) for key, said in refused],
            )

    def sums(self) -> dict[str, Any]:
        """Of all runs in this folder: requests sent, answers, tokens, cost, seconds, first and last date.
        lost: what those without a usable answer may have cost beside that."""
        with self._told():
            sent, first, last = self._base.execute(
                "SELECT count(*), min(date), max(date) FROM sent"
            ).fetchone()
            count, asked, written, cost, seconds = self._base.execute(
                "SELECT count(*), sum(asked), sum(written), sum(cost), sum(seconds) FROM answer"
            ).fetchone()
            lost = self._base.execute("SELECT sum(cost) FROM lost").fetchone()[0]
        return {
            "sent": sent, "answers": count, "tokens_in": asked or 0, "tokens_out": written or 0,
            "cost": cost or 0.0, "lost": lost or 0.0, "seconds": seconds or 0.0, "first": first, "last": last,
        }  # fmt: skip

    def close(self) -> None:
        """What was written is in one file then."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                raise RecordError(
                    f"{self.file}: answers cannot be kept there ({error}); make it writable and with room, "
                    "then run the same command again"
                ) from None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
