"""Several requests to one reasoner."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import torch
from chat_server import TRACE, Server, as_json, event, send, stream

from evlm.errors import BusyError, Cancelled, EndpointError, TraceError
from evlm.plan.trace import Plan, render
from evlm.reason import batch
from evlm.reason.batch import reason_all
from evlm.reason.reasoner import Generated, Reasoned, Sampling, understood
from evlm.reason.remote import RemoteReasoner
from evlm.request import Request

PICTURES = 20
STOP = event(finish_reason="stop")


def requests(count: int = PICTURES) -> list[Request]:
    return [Request(torch.rand(1, 8, 8, 3), f"picture-{number}") for number in range(count)]


def text_of(number: int) -> str:
    return render(replace(TRACE, plan=Plan(f"paint {number}", ("hat",))))


def number_of(handler: BaseHTTPRequestHandler) -> int:
    """Which of `requests` it is."""
    content = handler.asked["messages"][-1]["content"]  # type: ignore[attr-defined]
    said = " ".join(part.get("text", "") for part in content)
    return int(said.split("picture-")[1].split()[0])


class Slow:
    """Answers when `most` are there at once, or after a while; counts them. The first answers last."""

    def __init__(self, most: int) -> None:
        self.most, self.here, self.highest = most, 0, 0
        self.lock = threading.Condition()

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        number = number_of(handler)
        with self.lock:
            self.here += 1
            self.highest = max(self.highest, self.here)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.highest >= self.most, timeout=5)
        time.sleep(0.05 if number == 0 else 0.01)
        stream(text_of(number), 20)(handler)
        with self.lock:
            self.here -= 1


class Heard:
    """What a listener is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.texts: dict[int, str] = {}
        self.steps: list[tuple[int, int]] = []

    def piece(self, number: int, text: str) -> None:
        self.events.append(("piece", number))
        self.texts[number] = self.texts.get(number, "") + text

    def answer(self, number: int, reasoned: Reasoned) -> None:
        self.events.append(("answer", number))
        assert reasoned.text == self.texts[number]

    def progress(self, done: int, pieces: int) -> None:
        self.steps.append((done, pieces))


def test_an_endpoint_is_asked_eight_at_once_and_answers_in_order(server: Server) -> None:
    slow = server.reply = Slow(most=8)
    heard = Heard()
    threads = []

    def piece(number: int, text: str) -> None:
        threads.append(threading.get_ident())
        Heard.piece(heard, number, text)

    heard.piece = piece  # type: ignore[method-assign]
    answers = reason_all(RemoteReasoner(server.url, "m"), requests(), listener=heard)
    assert [each.trace.plan.instruction for each in answers] == [f"paint {n}" for n in range(PICTURES)]
    assert slow.highest == 8 and len(server.seen) == PICTURES
    numbers = [number for _, number in heard.events]
    assert numbers == sorted(numbers) and heard.texts == {n: text_of(n) for n in range(PICTURES)}
    assert [number for kind, number in heard.events if kind == "answer"] == list(range(PICTURES))
    done = [done for done, _ in heard.steps]
    assert done == sorted(done) and done[-1] == PICTURES and heard.steps[-1][1] == 0
    assert any(pieces > 0 for _, pieces in heard.steps)
    assert set(threads) == {threading.get_ident()}, "a listener is told in the thread that asked"


def test_some_of_the_requests(server: Server) -> None:
    server.reply = lambda handler: stream(text_of(number_of(handler)))(handler)
    answers = reason_all(RemoteReasoner(server.url, "m"), requests(6), numbers=[4, 1])
    assert [each.trace.plan.instruction for each in answers] == ["paint 4", "paint 1"]
    assert reason_all(RemoteReasoner(server.url, "m"), []) == []


class Silence:
    """Takes questions and says nothing, or nothing more, until the caller hangs up."""

    def __init__(self, begins: bool = False) -> None:
        self.begins = begins
        self.left = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        if self.begins:
            send(event("<thinking>a"))(handler)
            handler.wfile.flush()
        self.asked.release()
        handler.connection.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert handler.connection.recv(1) == b""
        self.left.release()
        handler.close_connection = True


@pytest.mark.parametrize("count", [1, PICTURES])
@pytest.mark.parametrize("begins", [False, True])
def test_a_listener_ends_all_of_them_while_the_server_is_silent(
    server: Server, count: int, begins: bool
) -> None:
    silence = server.reply = Silence(begins)
    began = time.perf_counter()
    open_ones = min(8, count)

    class Impatient(Heard):
        def progress(self, done: int, pieces: int) -> None:
            if all(silence.asked.acquire(timeout=5) for _ in range(open_ones)):
                raise Cancelled

    with pytest.raises(Cancelled):
        reason_all(RemoteReasoner(server.url, "m"), requests(count), listener=Impatient())
    assert time.perf_counter() - began < 5
    assert all(silence.left.acquire(timeout=5) for _ in range(open_ones)), "every connection is closed"
    assert len(server.seen) == open_ones, "nothing more is sent"


def test_one_that_fails_ends_the_others_and_says_which_it_was(server: Server) -> None:
    silence = Silence()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        number = number_of(handler)
        if number == 2:
            as_json({"error": {"message": "no such model"}}, 404)(handler)
        else:
            silence(handler)

    server.reply = reply
    with pytest.raises(EndpointError, match=r"^picture 3 of 20: .*no such model") as refused:
        reason_all(RemoteReasoner(server.url, "m"), requests())
    assert refused.value.status == 404 and not refused.value.broken
    assert silence.left.acquire(timeout=5)
    server.reply = lambda handler: stream("I see a cat.")(handler)
    with pytest.raises(TraceError, match=r"\(picture [1-8] of 20\)"):
        reason_all(RemoteReasoner(server.url, "m"), requests())
    with pytest.raises(TraceError) as alone:
        reason_all(RemoteReasoner(server.url, "m"), requests(1))
    assert "picture" not in str(alone.value)


def test_a_busy_server_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PAUSE", 0.01)
    turned_away: set[int] = set()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        number = number_of(handler)
        if number % 2 and number not in turned_away:
            turned_away.add(number)
            how = {"Retry-After": "0"} if number % 4 == 1 else {}
            as_json({"error": "too many requests"}, 429, **how)(handler)
        else:
            stream(text_of(number))(handler)

    server.reply = reply
    answers = reason_all(RemoteReasoner(server.url, "m"), requests())
    assert [each.trace.plan.instruction for each in answers] == [f"paint {n}" for n in range(PICTURES)]
    assert len(server.seen) == PICTURES + len(turned_away) == PICTURES + 10
    server.reply = as_json({"error": "too many requests"}, 429)
    with pytest.raises(BusyError, match="too many requests") as busy:
        reason_all(RemoteReasoner(server.url, "m"), requests(2))
    assert busy.value.status == 429


def test_who_waits_in_a_line_is_waited_for_longer(server: Server) -> None:
    """A server that takes one after the other is silent to the last for as long as the others take."""
    turn = threading.Lock()

    def one_by_one(handler: BaseHTTPRequestHandler) -> None:
        with turn:
            time.sleep(0.12)
            stream(text_of(number_of(handler)))(handler)

    server.reply = one_by_one
    remote = RemoteReasoner(server.url, "m", timeout=0.4)
    assert len(reason_all(remote, requests(8))) == 8


class Local:
    """A reasoner on this machine: not for two threads at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.thread = threading.get_ident()

    def reason(self, request: Request, sampling: Sampling | None, on_token: Any, repair: bool) -> Reasoned:
        assert threading.get_ident() == self.thread
        self.asked.append(request.prompt)
        number = int(request.prompt.split("-")[1])
        text = text_of(number) if number != 3 else "no plan"
        on_token(text)
        return understood(Generated(text, 9, 0.1), repair)


def test_a_model_on_this_machine_is_asked_one_after_the_other() -> None:
    local, heard = Local(), Heard()
    answers = reason_all(local, requests(3), listener=heard)
    assert [each.trace.plan.instruction for each in answers] == ["paint 0", "paint 1", "paint 2"]
    assert local.asked == ["picture-0", "picture-1", "picture-2"]
    assert heard.events == [(kind, n) for n in range(3) for kind in ("piece", "answer")]
    assert heard.steps == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    with pytest.raises(TraceError, match=r"\(picture 4 of 5\)"):
        reason_all(local, requests(5))
    assert local.asked[-1] == "picture-3"


def test_as_many_at_once_as_make_sense(server: Server) -> None:
    with pytest.raises(EndpointError, match="at_once 0"):
        RemoteReasoner(server.url, "m", at_once=0)
