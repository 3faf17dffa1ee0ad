"""One stage of the work: a result for each content hash, appended to one JSONL file, so that a killed run
goes on and a changed setting redoes only what it touches."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from evlm.errors import RecordError
from evlm.files.append import append_lines

T = TypeVar("T")
Result = dict[str, Any]
_EVERY = 1.0  # seconds between writes; what a kill in between loses is done again
_MOST = 256  # results between writes


def key_of(*parts: Any) -> str:
    """A hash of what a result is made of: JSON values, whatever the order of their keys."""
    return key_of_texts(json.dumps(each, sort_keys=True, allow_nan=False) for each in parts)


def key_of_texts(parts: Iterable[str]) -> str:
    """The same, of what was written as JSON before."""
    return hashlib.sha256(f"[{', '.join(parts)}]".encode()).hexdigest()[:32]


class Stage:
    """Results on disk by their key. A half-written line is none; nothing that was written is changed. A
    result that is "passing" is held for this run alone: the next one tries again. flush: brings the files to
    the disk that results speak of; raises OSError."""

    def __init__(self, file: Path, flush: Callable[[], object] = lambda: None) -> None:
        self.file, self._flush = file, flush
        self._at: dict[str, int] = {}
        self._passing: dict[str, Result] = {}
        at = 0
        try:
            with open(file, "rb") as lines:
                for line in lines:
                    key = _key(line)
                    if key is not None:
                        self._at[key] = at
                    at += len(line)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RecordError(f"{file}: cannot be read ({error.strerror})") from None

    def __contains__(self, key: str) -> bool:
        return key in self._at or key in self._passing

    def __getitem__(self, key: str) -> Result:
        if key in self._passing:
            return self._passing[key]
        with open(self.file, "rb") as lines:
            lines.seek(self._at[key])
            result: Result = json.loads(lines.readline())["result"]
        return result

    def add(self, results: Iterable[tuple[str, Result]]) -> None:
        """Appends results, flushed to the disk. Raises RecordError; the file is then as it was."""
        results = list(results)
        self._passing |= {key: result for key, result in results if result.get("passing")}
        lines = [(key, json.dumps({"key": key, "result": result}) + "\n") for key, result in results
                 if not result.get("passing")]  # fmt: skip
        if not lines:
            return
        try:
            self._flush()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self.file, "".join(line for _, line in lines).encode())
            end = self.file.stat().st_size
        except OSError as error:
            raise RecordError(
                f"{self.file}: cannot be written ({error.strerror or error}); nothing of it is lost: make "
                "room and run the same command again"
            ) from error
        for key, line in reversed(lines):
            end -= len(line)
            self._at[key] = end

    def run(
        self,
        work: Iterable[tuple[str, T]],
        do: Callable[[T], Result],
        workers: int = 1,
        report: Callable[[int], object] = lambda count: None,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        """Does what has no result yet, `workers` at once, and writes the results in the order of the work.

        report: told how many are done. stop: called when several workers have come to an end, whatever it is,
        so that they wait for nothing. Whatever `do` raises ends the stage after what was done before it is
        written.
        """
        held: list[tuple[str, Result]] = []
        last = time.monotonic()
        try:
            with closing(_in_order(self.left(work, report), do, workers, stop)) as done:
                for key, result in done:
                    held.append((key, result))
                    report(1)
                    if len(held) >= _MOST or time.monotonic() - last > _EVERY:
                        self.add(held)
                        held, last = [], time.monotonic()
        finally:
            self.add(held)

    def left(self, work: Iterable[tuple[str, T]], report: Callable[[int], object]) -> Iterator[tuple[str, T]]:
        """What has no result yet, each once; the rest is reported as done."""
        asked: set[str] = set()
        for key, each in work:
            if key in self or key in asked:
                report(1)
            else:
                asked.add(key)
                yield key, each


def _in_order(
    work: Iterator[tuple[str, T]], do: Callable[[T], Result], workers: int, stop: Callable[[], object]
) -> Generator[tuple[str, Result], None, None]:
    if workers == 1:
        for key, each in work:
            yield key, do(each)
        return
    coming: deque[tuple[str, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for key, each in work:
                coming.append((key, pool.submit(do, each)))
                if len(coming) >= 4 * workers:
                    yield coming[0][0], coming.popleft()[1].result()
            while coming:
                yield coming[0][0], coming.popleft()[1].result()
        finally:  # after an error or Ctrl-C nothing more is begun
            stop()
            pool.shutdown(wait=False, cancel_futures=True)


def _key(line: bytes) -> str | None:
    """The key of a whole line."""
    if not line.endswith(b"}\n"):
        return None
    try:
        data = json.loads(line)
        return str(data["key"]) if isinstance(data["result"], dict) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
