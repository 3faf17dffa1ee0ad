"""`batch: openai` against a stand-in of OpenAI's Batch API: uploads, waits, fetches, goes on after a kill."""

from __future__ import annotations

import errno
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer, batching
from test_collect_make import make, private, recipe, rows  # noqa: F401 (private is a fixture)

from benchmarks.scripted_teacher import Teacher, teaching
from evlm.errors import EndpointError
from trainer.collect.batch_api import BatchApi
from trainer.collect.web import Web


def by_batch(tmp_path: Path, server: BatchServer, **more: Any) -> Path:
    path = recipe(tmp_path, Teacher(), batch="openai", poll=0, **more)
    data = json.loads(path.read_text())
    data["teacher"]["endpoint"] = server.url
    path.write_text(json.dumps(data))
    return path


def made(tmp_path: Path) -> bool:
    return (tmp_path / "out/rows.jsonl").exists()


def test_a_batch_is_sent_waited_for_and_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLM_API_KEY", "secret")
    with teaching() as calm, batching() as server:
        monkeypatch.setenv("EVLM_API_HOSTS", "127.0.0.1")
        make(recipe(tmp_path, calm, "calm"))
        server.failing = 3
        path = by_batch(tmp_path, server)
        assert make(path) == 1 and "the endpoint is working on" in capsys.readouterr().out
        assert server.asked == ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/batch_1"]
        assert make(path) == 1 and not made(tmp_path)
        make(path)  # done, but for three questions, which are another batch
        assert len(server.batches) == 2 and not made(tmp_path)
        second = server.files[server.batches["batch_2"]["input_file_id"]].splitlines()
        assert len(second) == 3
        make(path)
        make(path)
        assert rows(tmp_path) == rows(tmp_path, "calm")
        assert set(server.keys) == {"Bearer secret"} and len(server.batches) == 2
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())
        assert ledger["answers"] == calm.served
        assert ledger["cost"] == pytest.approx(calm.served * (100 * 2 + 10 * 10) / 1e6)
        count = len(server.asked)
        make(path)
        assert len(server.asked) == count


def test_one_command_waits_for_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with batching() as server:
        server.failing = 1
        make(by_batch(tmp_path, server), "teacher.poll=0.01")
        assert made(tmp_path) and len(server.batches) == 2
        said = capsys.readouterr().err
        assert "0001-in.jsonl: batch_1 is in_progress, 0 of " in said and "batch_2 is completed" in said


def test_a_batch_whose_making_was_not_heard_of_is_found_and_not_made_twice(tmp_path: Path) -> None:
    with batching() as server:
        server.loses = 1
        make(by_batch(tmp_path, server))
        assert len(server.batches) == 1
        state = tmp_path / "out/work/batch/0001-batch.json"
        kept = json.loads(state.read_text())
        assert kept["batch"] == "batch_1"
        state.write_text(json.dumps({"file": kept["file"]}))  # killed before the answer was written down
        make(by_batch(tmp_path, server))
        assert len(server.batches) == 1 and json.loads(state.read_text()) == kept
        assert [each for each in server.asked if each.startswith("POST /v1/files")] == ["POST /v1/files"]


def test_a_batch_that_failed_is_said_and_sent_again_by_the_next_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with batching() as server:
        server.after, server.ends = 0, "failed"
        path = by_batch(tmp_path, server)
        assert make(path) == 2 and "Enqueued token limit reached" in capsys.readouterr().err
        server.ends = "completed"
        make(path)
        assert made(tmp_path) and len(server.batches) == 2


def test_what_expired_is_asked_again(tmp_path: Path) -> None:
    with batching() as server:
        server.after, server.ends, server.failing = 0, "expired", 4
        make(by_batch(tmp_path, server))
        assert made(tmp_path) and len(server.batches) == 2


def test_what_was_cancelled_is_sent_again_by_the_next_command_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with batching() as server:
        server.after, server.ends, server.failing = 0, "cancelled", 4
        path = by_batch(tmp_path, server)
        assert make(path) == 2 and "was cancelled; the same command sends the rest" in capsys.readouterr().err
        assert len(server.batches) == 1
        server.ends = "completed"
        make(path)
        assert made(tmp_path) and len(server.batches) == 2
        assert len(server.files[server.batches["batch_2"]["input_file_id"]].splitlines()) == 4


@pytest.mark.parametrize("odd", ["none", 3, [], ["x"], {"data": ["x"]}])
def test_fields_of_another_form_are_passed_over(tmp_path: Path, odd: Any) -> None:
    file = tmp_path / "0001-in.jsonl"
    file.write_text('{"custom_id": "0123456789"}\n')
    with batching() as server:
        web = Web(server.url, 5.0)
        status = {"id": "batch_1", "status": "in_progress", "request_counts": odd, "errors": odd}
        api = BatchApi(web, 0, lambda said: None)
        api.fetch([file])
        web.json = lambda method, path, body=None: {**status, "data": odd}  # type: ignore[method-assign]
        assert not api.fetch([file]) and api._of("file-in-0") == ""
        status["status"] = "failed"
        with pytest.raises(EndpointError, match="failed: None"):
            api.fetch([file])


@contextmanager
def breaking(length: int, data: bytes, status: int = 200, after: str = "") -> Iterator[str]:
    """A server that promises `length` bytes, and ends after `data`. after: what it says of when to come."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.send_header("Retry-After", after)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def test_a_download_that_breaks_off_is_not_taken_for_whole() -> None:
    with breaking(100, b'{"a": 1}') as url:
        for get in (lambda web: web.save("/x", io.BytesIO()), lambda web: web.json("GET", "/x")):
            with pytest.raises(EndpointError, match="92 bytes before the end") as error:
                get(Web(url, 5.0))
            assert error.value.broken
    with breaking(8, b'{"a": 1}') as url:
        file = io.BytesIO()
        Web(url, 5.0).save("/x", file)
        assert file.getvalue() == b'{"a": 1}' and Web(url, 5.0).json("GET", "/x") == {"a": 1}


@pytest.mark.parametrize(("said", "after"), [("7", 7.0), ("\u00b2", None), ("soon", None), ("9" * 400, None)])
def test_when_a_busy_server_wants_to_be_asked_again(said: str, after: float | None) -> None:
    with breaking(2, b"{}", 429, said) as url, pytest.raises(EndpointError) as error:
        Web(url, 5.0).json("GET", "/x")
    assert (error.value.status, error.value.after) == (429, after)


def test_a_full_disk_is_no_fault_of_the_connection() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with breaking(8, b'{"a": 1}') as url, pytest.raises(OSError, match="No space left"):
        Web(url, 5.0).save("/x", Full())


def test_questions_that_never_get_an_answer_end_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with batching() as server:
        server.after = 0
        work = server._work

        def failing(batch: dict[str, Any]) -> None:
            server.failing = 1
            work(batch)

        monkeypatch.setattr(server, "_work", failing)
        assert make(by_batch(tmp_path, server, tries=3)) == 2
        assert "3 batches one after the other" in capsys.readouterr().err and len(server.batches) == 3


def test_an_endpoint_without_batches_says_so_and_the_key_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "0001-in.jsonl"
    file.write_text('{"custom_id": "0123456789"}\n')
    monkeypatch.setenv("EVLM_API_KEY", "secret")
    with teaching() as teacher:
        api = BatchApi(Web(teacher.url, 5.0), 0, print)
        with pytest.raises(EndpointError, match="EVLM_API_HOSTS"):
            api.fetch([file])
        monkeypatch.setenv("EVLM_API_HOSTS", "127.0.0.1")
        with pytest.raises(EndpointError, match="/v1/files") as error:
            api.fetch([file])
        assert "secret" not in str(error.value)
