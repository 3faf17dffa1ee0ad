"""Batch files sent to OpenAI's Batch API, or whoever has its addresses: uploaded, looked at, fetched.

Beside 0001-in.jsonl, 0001-batch.json keeps the file's and the batch's ids, so that a killed run waits for the
same batch. A batch is made once: after a kill, or an answer that was lost, the list of batches is looked
through for one of that file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evlm.errors import EndpointError, RecordError
from evlm.files.pictures import write_atomically

from .batch import URL, as_dict, beside, first
from .web import Web, passing

_WINDOW = "24h"
_ENDED = ("completed", "expired", "cancelled")  # with what was answered till then


class BatchApi:
    """poll: seconds between two looks, 0 for one look. say: told what changed. sleep: of tests. Raises
    EndpointError, RecordError."""

    def __init__(
        self,
        web: Web,
        poll: float,
        say: Callable[[str], object],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.web, self.poll, self.say, self._sleep = web, poll, say, sleep

    def fetch(self, files: Sequence[Path]) -> bool:
        """Whether the answers to all files lie beside them. What is not there yet is sent first, then waited
        for."""
        states = {file: self._sent(file) for file in files}
        said: dict[Path, str] = {}
        while True:
            for file in [each for each in states if not beside(each).is_file()]:
                batch = self.web.json("GET", f"/batches/{quote(states[file], safe='')}")
                counts = as_dict(batch.get("request_counts"))
                status = f"{batch.get('status')}, {counts.get('completed', 0)} of {counts.get('total', '?')}"
                if said.get(file) != status:
                    self.say(f"{file.name}: {states[file]} is {status}")
                    said[file] = status
                self._take(file, batch)
            if all(beside(file).is_file() for file in files):
                return True
            if not self.poll:
                return False
            self._sleep(self.poll)

    def _sent(self, file: Path) -> str:
        """The id of a file's batch."""
        state, known = _state(file), True
        if "file" not in state:
            uploaded = self.web.form("/files", {"purpose": "batch"}, {"file": (file.name, file)})
            state, known = {"file": _text(uploaded, "id", "/files")}, False
            _keep(file, state)
        if "batch" not in state:
            state["batch"] = self._made(state["file"], known)
            _keep(file, state)
        return state["batch"]

    def _made(self, uploaded: str, known: bool) -> str:
        """known: whether a batch of that file may be there already."""
        body = {"input_file_id": uploaded, "endpoint": URL, "completion_window": _WINDOW}
        once = Web(self.web.endpoint, self.web.timeout)  # an answer that is lost may have made one
        for left in range(self.web.tries - 1, -1, -1):
            if known and (found := self._of(uploaded)):
                return found
            try:
                return _text(once.json("POST", "/batches", body), "id", "/batches")
            except EndpointError as error:
                if not left or not passing(error):
                    raise
                known = True
                self._sleep(max(min(60.0, error.after or 0), self.web.pause))
        raise AssertionError("tries is at least 1")

    def _of(self, uploaded: str) -> str:
        """The batch of a file, "" where none of the last hundred is."""
        every = self.web.json("GET", "/batches?limit=100").get("data")
        listed = [as_dict(each) for each in every] if isinstance(every, list) else []
        return next((str(each.get("id")) for each in listed if each.get("input_file_id") == uploaded), "")

    def _take(self, file: Path, batch: dict[str, Any]) -> None:
        """Fetches what was answered, once it is all there is. Raises EndpointError where a batch failed, or
        was cancelled: whether the rest is sent is for people to say."""
        status = batch.get("status")
        if status == "failed":
            error = as_dict(first(as_dict(batch.get("errors")).get("data")))
            _state_of(file).unlink(missing_ok=True)
            raise EndpointError(
                f"{file.name}: the batch {batch.get('id')} failed: {str(error.get('message'))[:300]}; "
                "the same command sends it again"
            )
        if status not in _ENDED:
            return
        ids = [batch.get(name) for name in ("output_file_id", "error_file_id")]

        def write(out: Any) -> None:
            for each in filter(None, ids):
                self.web.save(f"/files/{quote(str(each), safe='')}/content", out)
                out.write(b"\n")  # a blank line where it ended in one already

        try:
            write_atomically(beside(file), write)
        except OSError as error:
            raise RecordError(f"{beside(file)}: cannot be written ({error.strerror or error})") from error
        if status == "cancelled":
            raise EndpointError(
                f"{file.name}: the batch {batch.get('id')} was cancelled; the same command sends the rest"
            )


def _state_of(file: Path) -> Path:
    return file.with_name(file.name.replace("-in.jsonl", "-batch.json"))


def _state(file: Path) -> dict[str, str]:
    try:
        data = json.loads(_state_of(file).read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise RecordError(
            f"{_state_of(file)}: expected the ids of a batch; delete it to send it anew"
        ) from None


def _keep(file: Path, state: dict[str, str]) -> None:
    data = json.dumps(state).encode()
    try:
        write_atomically(_state_of(file), lambda out: out.write(data))
    except OSError as error:
        raise RecordError(f"{_state_of(file)}: cannot be written ({error.strerror or error})") from error


def _text(answer: dict[str, Any], name: str, path: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise EndpointError(f"{path} answered with no {name}: {str(answer)[:200]}")
    return value
