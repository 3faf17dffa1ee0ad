"""Several requests to one reasoner: one after the other on this machine, several at once at an endpoint."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import BusyError, Cancelled, EndpointError, EVLMError, TraceError
from ..request import Request
from .endpoint import Calls
from .reasoner import Reasoned, Sampling

TICK = 0.1  # seconds between two looks at whether somebody wants to stop
TRIES = 4  # of a request that the server is too busy for
PAUSE = 2.0  # seconds before its second try, then twice as long each time
LONGEST_PAUSE = 30.0


class Listener(Protocol):
    """Who watches several requests. What a method raises ends them all, and comes out of `reason_all`.

    Pieces and answers come in the requests' order: what a later one writes is held back until those before it
    have ended.
    """

    def piece(self, number: int, text: str) -> None:
        """As `Reasoner.reason`'s on_token, of one request."""

    def answer(self, number: int, reasoned: Reasoned) -> None:
        """One request has ended."""

    def progress(self, done: int, pieces: int) -> None:
        """Of all requests: how many have ended, and the pieces that the others have written. Told at once,
        and some ten times a second while an endpoint is silent."""


def reason_all(
    reasoner: Any,
    requests: Sequence[Request],
    sampling: Sampling | None = None,
    repair: bool = True,
    listener: Listener | None = None,
    numbers: Sequence[int] | None = None,
) -> list[Reasoned]:
    """The answers to several requests, in their order.

    reasoner: a `Reasoner`, or anything else that reasons; one with `at_once` above 1 (`RemoteReasoner`) is
    asked for so many at once. numbers: which of the requests are asked; None: all. Raises what its `reason`
    raises; of several requests the error says which picture it was.
    """
    listener = listener or _Nobody()
    numbers = range(len(requests)) if numbers is None else numbers
    if getattr(reasoner, "at_once", 1) > 1:
        return _Crew(reasoner, requests, numbers, sampling, repair, listener).work()
    answers: list[Reasoned] = []
    for done, number in enumerate(numbers):
        heard = 0

        def on_token(text: str, number: int = number, done: int = done) -> None:
            nonlocal heard
            heard += 1
            listener.piece(number, text)
            listener.progress(done, heard)

        try:
            answers.append(reasoner.reason(requests[number], sampling, on_token, repair))
        except EVLMError as error:
            raise _named(error, number, len(requests)) from None
        listener.answer(number, answers[-1])
        listener.progress(done + 1, 0)
    return answers


class _Nobody:
    def piece(self, number: int, text: str) -> None:
        pass

    def answer(self, number: int, reasoned: Reasoned) -> None:
        pass

    def progress(self, done: int, pieces: int) -> None:
        pass


class _Heard(NamedTuple):
    """From a worker: a piece of text, an answer, or what went wrong."""

    number: int
    what: str | Reasoned | BaseException


class _Crew:
    """Threads that ask; the thread that called hears them all, so that a listener need not be thread-safe."""

    def __init__(
        self,
        reasoner: Any,
        requests: Sequence[Request],
        numbers: Sequence[int],
        sampling: Sampling | None,
        repair: bool,
        listener: Listener,
    ) -> None:
        self.reasoner, self.requests, self.numbers = reasoner, requests, list(numbers)
        self.sampling, self.repair, self.listener = sampling, repair, listener
        self.workers = min(reasoner.at_once, len(self.numbers))
        # A server may take one request after the other: the last then waits for all that were sent with it.
        self.calls = Calls(patience=max(1, self.workers))
        self.heard: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
        self.open: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in self.numbers:
            self.open.put(number)
        self.pieces: dict[int, list[str]] = {number: [] for number in self.numbers}
        self.answers: dict[int, Reasoned] = {}
        self.told = 0  # how many of `numbers` have ended for the listener

    def work(self) -> list[Reasoned]:
        for _ in range(self.workers):
            threading.Thread(target=self._ask, daemon=True).start()
        under_way = 0  # pieces of those that have not ended
        try:
            while len(self.answers) < len(self.numbers):
                try:
                    number, what = self.heard.get(timeout=TICK)
                except queue.Empty:
                    self.listener.progress(len(self.answers), under_way)
                    continue
                if isinstance(what, BaseException):
                    raise _named(what, number, len(self.requests)) from None
                if isinstance(what, str):
                    under_way += 1
                    self._take(number, what)
                else:
                    under_way -= len(self.pieces[number])
                    self.answers[number] = what
                    self._pass_on()
                self.listener.progress(len(self.answers), under_way)
        finally:
            self.calls.end()
        return [self.answers[number] for number in self.numbers]

    def _take(self, number: int, text: str) -> None:
        self.pieces[number].append(text)
        if number == self.numbers[self.told]:
            self.listener.piece(number, text)

    def _pass_on(self) -> None:
        """Tells what was held back of those whose turn has come."""
        while self.told < len(self.numbers) and (number := self.numbers[self.told]) in self.answers:
            self.listener.answer(number, self.answers[number])
            self.told += 1
            if self.told < len(self.numbers):
                for text in self.pieces[self.numbers[self.told]]:
                    self.listener.piece(self.numbers[self.told], text)

    def _ask(self) -> None:
        """One thread's work: request after request, until there are none or it is the end."""
        while not self.calls.ended.is_set():
            try:
                number = self.open.get_nowait()
            except queue.Empty:
                return
            try:
                self.heard.put(_Heard(number, self._answer(number)))
            except BaseException as error:  # for the thread that called, whatever it is
                self.heard.put(_Heard(number, error))
                return

    def _answer(self, number: int) -> Reasoned:
        """Of one request, asked again where the server is too busy."""

        def on_token(text: str) -> None:
            if self.calls.ended.is_set():
                raise Cancelled
            self.heard.put(_Heard(number, text))

        pause, tries = PAUSE, 1
        while True:
            try:
                answer: Reasoned = self.reasoner.reason(
                    self.requests[number], self.sampling, on_token, self.repair, calls=self.calls
                )
                return answer
            except BusyError as error:
                wait = pause if error.after is None else error.after
                if tries == TRIES or self.calls.ended.wait(min(wait, LONGEST_PAUSE)):
                    raise
                pause, tries = 2 * pause, tries + 1


def _named(error: BaseException, number: int, count: int) -> BaseException:
    """The same error, which says which of several pictures it is about."""
    if count == 1 or not isinstance(error, EVLMError):
        return error
    which = f"picture {number + 1} of {count}"
    if isinstance(error, TraceError):
        return type(error)(error.part, error.offset, f"{error.reason} ({which})")
    said = f"{which}: {error}"
    if isinstance(error, EndpointError):
        return type(error)(said, error.status, error.broken, error.after)
    return type(error)(said)
