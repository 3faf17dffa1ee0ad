"""Who rates, what is rated, and every vote: one sqlite file in the dataset's folder."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evlm.errors import ConfigError, RecordError

from .sqlite_file import SqliteFile

FILE = "ratings.sqlite"
ROLES = ("rater", "admin")
_VERSION = 1
# vote: append only. `undone` is 0 while it holds and its own id afterwards, so that one vote of a rater on
# an item holds at a time. value: 1 yes, 0 no, NULL skipped. lease: kept when it is over, to know a late vote
# from one on an item that was never given. item.kind: edit, gold, training, gone (no longer in the dataset).
_SCHEMA = """
CREATE TABLE rater(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token BLOB UNIQUE, role TEXT NOT NULL,
    trained INTEGER NOT NULL DEFAULT 0, joined REAL NOT NULL);
CREATE TABLE item(id INTEGER PRIMARY KEY, row_id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    rank INTEGER NOT NULL, wanted INTEGER NOT NULL, votes INTEGER NOT NULL DEFAULT 0, gold INTEGER,
    why TEXT NOT NULL DEFAULT '', view TEXT NOT NULL);
CREATE INDEX item_open ON item(votes DESC, rank) WHERE kind = 'edit' AND votes < wanted;
CREATE INDEX item_kind ON item(kind, rank);
CREATE TABLE vote(id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, rater INTEGER NOT NULL
    REFERENCES rater, value INTEGER, note TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL,
    ms INTEGER NOT NULL, undone INTEGER NOT NULL DEFAULT 0, UNIQUE(item, rater, undone), UNIQUE(rater, key));
CREATE TABLE lease(item INTEGER NOT NULL REFERENCES item, rater INTEGER NOT NULL REFERENCES rater,
    until REAL NOT NULL, PRIMARY KEY(item, rater));
CREATE INDEX lease_rater ON lease(rater, until);
CREATE TABLE lesson(id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, rater INTEGER NOT NULL
    REFERENCES rater, value INTEGER NOT NULL, good INTEGER NOT NULL, key TEXT NOT NULL, at REAL NOT NULL,
    UNIQUE(rater, key));
"""


@dataclass(frozen=True)
class Rater:
    """id: of the table; `name` is for the owner alone, `pseudonym` goes into datasets. trained: whether the
    training items are done."""

    id: int
    name: str
    role: str
    trained: bool

    @property
    def pseudonym(self) -> str:
        return pseudonym(self.id)


def pseudonym(rater: int) -> str:
    """Of a rater's id: what exported rows call them."""
    return f"r{rater:02d}"


class Store(SqliteFile):
    """The raters, items and votes of a dataset. Raises RecordError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self.write() as sql:
            (version,) = sql.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    sql.execute(statement)
                sql.execute(f"PRAGMA user_version = {_VERSION}")
                sql.execute(f"PRAGMA application_id = {1 + secrets.randbelow(2**31 - 1)}")
            elif version != _VERSION:
                raise RecordError(f"{path}: of version {version}, expected {_VERSION}: update the pack")

    @property
    def number(self) -> int:
        """Of this store, drawn when it was made: a browser's kept answers are of one store."""
        with self._lock, self._errors():
            return int(self._sql.execute("PRAGMA application_id").fetchone()[0])

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """What is asked in one block belongs together. Raises RecordError."""
        with self._lock, self._errors():
            if self._sql.in_transaction:
                yield self._sql
                return
            self._sql.execute("BEGIN")
            try:
                yield self._sql
            finally:
                self._sql.execute("ROLLBACK")


# --- raters ---


def add_rater(store: Store, name: str, role: str = "rater") -> str:
    """A new rater's token, 256 bits, which nobody can be told again. A name that is there gets a new token,
    and the old one is over. Raises ConfigError, RecordError."""
    if not name.strip() or not name.isprintable() or len(name) > 80:
        raise ConfigError(f"name {name!r:.90}: expected 1 to 80 printable characters")
    if role not in ROLES:
        raise ConfigError(f"role {role!r}: expected one of {', '.join(ROLES)}")
    token = secrets.token_urlsafe(32)
    with store.write() as sql:
        known = sql.execute("SELECT role FROM rater WHERE name = ?", (name,)).fetchone()
        if known and known["role"] != role:
            raise ConfigError(f"{name!r} is there as {known['role']}: choose another name")
        sql.execute(
            "INSERT INTO rater(name, token, role, joined) VALUES(?, ?, ?, ?) "
            "ON CONFLICT(name) DO UPDATE SET token = excluded.token",
            (name, _digest(token), role, time.time()),
        )
    return token


def revoke(store: Store, name: str) -> None:
    """Ends a rater's token; the votes stay, leased items go back. What waits in their browser still counts
    with a new token, where there is room. Raises ConfigError, RecordError."""
    with store.write() as sql:
        found = sql.execute("SELECT id FROM rater WHERE name = ?", (name,)).fetchone()
        if not found:
            names = ", ".join(row["name"] for row in sql.execute("SELECT name FROM rater ORDER BY id"))
            raise ConfigError(f"no rater is called {name!r:.90}; there are: {names or 'none'}")
        sql.execute("UPDATE rater SET token = NULL WHERE id = ?", (found["id"],))
        sql.execute("UPDATE lease SET until = 0 WHERE rater = ?", (found["id"],))


def raters(store: Store) -> list[Rater]:
    """All of them, in the order in which they came, those whose token was revoked too."""
    with store.read() as sql:
        return [_rater(row) for row in sql.execute("SELECT * FROM rater ORDER BY id")]


def rater_of(store: Store, token: str) -> Rater | None:
    """Whose token it is. It is looked up by its hash, so the time says nothing about the token."""
    with store.read() as sql:
        row = sql.execute("SELECT * FROM rater WHERE token = ?", (_digest(token),)).fetchone()
    return _rater(row) if row else None


def _rater(row: sqlite3.Row) -> Rater:
    return Rater(row["id"], row["name"], row["role"], bool(row["trained"]))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
