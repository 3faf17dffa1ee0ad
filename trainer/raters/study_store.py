"""Who takes part in a study, what each has rated, and nothing else about them: one sqlite file."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evlm.errors import ConfigError, RecordError

from .sqlite_file import SqliteFile
from .study_plan import Screen
from .study_table import Rating

FILE = "study.sqlite"
AGES = ("18-29", "30-44", "45-59", "60+")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS person(id INTEGER PRIMARY KEY, token BLOB UNIQUE, agreed REAL, age TEXT);
CREATE TABLE IF NOT EXISTS rating(person INTEGER NOT NULL REFERENCES person, screen INTEGER NOT NULL,
    value INTEGER NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, ms INTEGER NOT NULL,
    PRIMARY KEY(person, screen));
CREATE TABLE IF NOT EXISTS design(hash TEXT NOT NULL);
"""


class DoneError(RecordError):
    """A screen that has a rating already, by another key press, or that is not there."""


@dataclass(frozen=True)
class Person:
    """number: whose screens they are shown, from 0. age: "" where it was not said."""

    number: int
    agreed: bool
    age: str


class StudyStore(SqliteFile):
    """plans: the screens of each participant; a file that was made for others is refused. Raises
    RecordError."""

    def __init__(self, path: Path, plans: Sequence[Sequence[Screen]]) -> None:
        super().__init__(path)
        self.plans = plans
        design = hashlib.sha256(
            repr([list(map(tuple, map(_pair, plan))) for plan in plans]).encode()
        ).hexdigest()
        with self._errors():
            self._sql.executescript(_SCHEMA)
            known = self._sql.execute("SELECT hash FROM design").fetchone()
            if known is None:
                self._sql.execute("INSERT INTO design VALUES(?)", (design,))
            elif known[0] != design:
                raise RecordError(
                    f"{path}: of a study with other items, methods or numbers: put it elsewhere"
                )

    def invite(self, count: int) -> list[str]:
        """Tokens of so many more participants, which nobody can be told again. Raises ConfigError."""
        with self.write() as sql:
            (there,) = sql.execute("SELECT count(*) FROM person").fetchone()
            if there + count > len(self.plans):
                raise ConfigError(
                    f"{there} are invited, the study is for {len(self.plans)}: a new one may be for more"
                )
            tokens = [secrets.token_urlsafe(32) for _ in range(count)]
            for number, token in enumerate(tokens, there):
                sql.execute("INSERT INTO person(id, token) VALUES(?, ?)", (number, _digest(token)))
        return tokens

    def person(self, token: str) -> Person | None:
        """Whose token it is."""
        with self._lock, self._errors():
            row = self._sql.execute(
                "SELECT id, agreed, age FROM person WHERE token = ?", (_digest(token),)
            ).fetchone()
        return None if row is None else Person(row[0], row[1] is not None, row[2] or "")

    def agree(self, person: Person, age: str) -> None:
        with self.write() as sql:
            sql.execute("UPDATE person SET agreed = coalesce(agreed, ?), age = ? WHERE id = ?",
                        (time.time(), age, person.number))  # fmt: skip

    def withdraw(self, person: Person) -> None:
        """Takes all of them away: ratings, age, and the token."""
        with self.write() as sql:
            sql.execute("DELETE FROM rating WHERE person = ?", (person.number,))
            sql.execute(
                "UPDATE person SET token = NULL, agreed = NULL, age = NULL WHERE id = ?", (person.number,)
            )

    def done(self, person: Person) -> int:
        """How many screens they have rated, which are the first ones."""
        with self._lock, self._errors():
            (count,) = self._sql.execute(
                "SELECT count(*) FROM rating WHERE person = ?", (person.number,)
            ).fetchone()
        return int(count)

    def rate(self, person: Person, screen: int, value: int, key: str, ms: int) -> str:
        """ "kept", or "known" where the same key came before. Screens are rated in their order. Raises
        DoneError."""
        with self.write() as sql:
            row = sql.execute(
                "SELECT key FROM rating WHERE person = ? AND screen = ?", (person.number, screen)
            ).fetchone()
            if row is not None:
                if row[0] == key:
                    return "known"
                raise DoneError("this one is rated already")
            if screen != self.done(person) or screen >= len(self.plans[person.number]):
                raise DoneError("not the one that is shown")
            sql.execute("INSERT INTO rating VALUES(?, ?, ?, ?, ?, ?)",
                        (person.number, screen, value, key, time.time(), ms))  # fmt: skip
        return "kept"

    def back(self, person: Person) -> int:
        """Takes the last rating back; gives how many are left."""
        with self.write() as sql:
            sql.execute("DELETE FROM rating WHERE person = ? AND screen = (SELECT max(screen) FROM rating "
                        "WHERE person = ?)", (person.number, person.number))  # fmt: skip
        return self.done(person)

    def ratings(self, tasks: dict[str, str]) -> list[Rating]:
        """All that hold. tasks: of each item."""
        with self._lock, self._errors():
            rows = self._sql.execute(
                "SELECT person, screen, value FROM rating ORDER BY person, screen"
            ).fetchall()
        found = []
        for person, screen, value in rows:
            shown = self.plans[person][screen]
            found.append(Rating(f"p{person + 1:03d}", shown.item, tasks[shown.item], shown.method, value))
        return found

    def people(self) -> tuple[int, int]:
        """(invited, agreed)."""
        with self._lock, self._errors():
            row = self._sql.execute("SELECT count(*), count(agreed) FROM person").fetchone()
        return int(row[0]), int(row[1])


def _pair(screen: Screen) -> tuple[str, str]:
    return screen.item, screen.method


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
