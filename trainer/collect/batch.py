"""Questions for a batch: files in OpenAI's batch form, which `vllm run-batch` and hosted services take, too.

OUT/work/batch/0001-in.jsonl has the requests, whoever runs them writes 0001-out.jsonl beside it, and the
next `data make` reads the answers into the same store that single requests fill: one may change over in the
middle.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from evlm.errors import EVLMError, RecordError

from .answers import Answers, Kept

FOLDER = "batch"
URL = "/v1/chat/completions"
_LINES, _BYTES = 50_000, 190_000_000  # of a file: OpenAI takes 50,000 and 200 MB
_KEY = re.compile(rb'\{"custom_id": "([0-9a-f]{8,64})"')
_SURE = (400, 413, 422)  # says that the question itself is refused


class Waiting(EVLMError):
    """The question stands in a batch that nobody has answered yet."""


class Batches:
    """OUT/work/batch. waiting: keys that are in a file without an answer. wanted: those of them that
    this run asks for. A file appears whole; what a killed
    run had not finished is written again. Safe from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.waiting: set[str] = set()
        self.wanted: set[str] = set()
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._lines = self._bytes = 0

    def read(self, answers: Answers, cost: Callable[[int | None, int], float]) -> int:
        """Keeps all answers that have come, and gives how many are new. cost: of tokens asked and written.
        Raises RecordError for a file that is not in the form, with its line."""
        count = 0
        for asked in sorted(self.folder.glob("*-in.jsonl")):
            came = beside(asked)
            if came.is_file():  # who failed there is asked again
                count += sum(self._keep(answers, cost, came, *each) for each in _answers(came))
            else:
                self.waiting |= set(_keys(asked))
        return count

    def _keep(
        self,
        answers: Answers,
        cost: Callable[[int | None, int], float],
        file: Path,
        key: str,
        result: dict[str, Any],
    ) -> bool:
        if answers.get(key) is not None or answers.refusal(key) is not None:
            return False
        response = as_dict(result.get("response"))  # somebody else's gateway may have written it
        body, status = as_dict(response.get("body")), response.get("status_code")
        choice = as_dict(first(body.get("choices")))
        text, reason = as_dict(choice.get("message")).get("content"), choice.get("finish_reason")
        if status == 200 and isinstance(text, str) and reason != "content_filter":
            usage = as_dict(body.get("usage"))
            asked, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
            spent = cost(asked, written or 0)
            answers.put(answers.sending(key), key, Kept(text, reason == "stop", asked, written, 0.0, spent))
            return True
        said = f"{file.name} says {status}: {json.dumps(result.get('error') or response.get('body'))[:200]}"
        if not answers.noted(key, said):
            answers.failed(answers.sending(key), said)
        if status in _SURE or reason == "content_filter":
            answers.refuse([(key, said)])
        return False

    def add(self, key: str, body: dict[str, Any]) -> bool:
        """Writes a request, unless it is waiting; whether it did. Raises RecordError."""
        request = {"custom_id": key, "method": "POST", "url": URL, "body": body}
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            if key in self.waiting:
                return False
            try:
                if self._file is None or self._lines >= _LINES or self._bytes + len(line) > _BYTES:
                    self._next()
                assert self._file is not None
                self._file.write(line)
            except OSError as error:
                raise RecordError(f"{self.folder}: cannot be written ({error.strerror or error})") from error
            self._lines, self._bytes = self._lines + 1, self._bytes + len(line)
            self.waiting.add(key)
            return True

    def close(self) -> list[Path]:
        """What was begun becomes a file; gives the files with something wanted that wait for their answers.
        Raises RecordError."""
        with self._lock:
            try:
                self._finish()
            except OSError as error:
                raise RecordError(f"{self.folder}: cannot be written ({error.strerror or error})") from error
        open_ = [file for file in sorted(self.folder.glob("*-in.jsonl")) if not beside(file).is_file()]
        return [file for file in open_ if not self.wanted.isdisjoint(_keys(file))]

    def _next(self) -> None:
        self._finish()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / "unfinished", "wb")  # noqa: SIM115 - open until it is full
        self._lines = self._bytes = 0

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.close()
        taken = [int(file.name[:4]) for file in self.folder.glob("[0-9][0-9][0-9][0-9]-in.jsonl")]
        target = self.folder / f"{max(taken, default=0) + 1:04d}-in.jsonl"
        (self.folder / "unfinished").rename(target)
        self._file = None


def beside(asked: Path) -> Path:
    """Where the answers to a file come."""
    return asked.with_name(asked.name.replace("-in.", "-out."))


def as_dict(value: Any) -> dict[str, Any]:
    """{} for what is none."""
    return value if isinstance(value, dict) else {}


def first(value: Any) -> Any:
    """Of a list; None where there is no such."""
    return value[0] if isinstance(value, list) and value else None


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _keys(file: Path) -> Iterator[str]:
    with open(file, "rb") as lines:
        for line in lines:
            if found := _KEY.match(line):
                yield found[1].decode()


def _answers(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
                yield str(data["custom_id"]), data
            except (ValueError, TypeError, LookupError, RecursionError):
                raise RecordError(
                    f"{file}, line {number}: expected an object with custom_id and response; is the batch "
                    "still being written? Then wait, and run it again"
                ) from None
