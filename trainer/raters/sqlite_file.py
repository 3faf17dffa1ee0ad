"""One sqlite file: each change is whole and on the disk, and what fails is said in one line."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evlm.errors import RecordError


class SqliteFile:
    """The file, made when it is not there yet; threads and processes may use it at once.

    Every write is on the disk when its block ends: WAL, synchronous FULL, BEGIN IMMEDIATE.
    Raises RecordError: the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._errors():
            self._sql = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._sql.row_factory = sqlite3.Row
            self._sql.execute("PRAGMA journal_mode = WAL")
            for pragma in ("synchronous = FULL", "busy_timeout = 30000", "foreign_keys = ON"):
                self._sql.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        with self._lock:
            self._sql.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One change: all of it is kept, or nothing. Raises RecordError."""
        with self._lock, self._errors():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._sql
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RecordError(
                f"{self.path}: {error}; is the disk full, or the file read-only or damaged?"
            ) from error
