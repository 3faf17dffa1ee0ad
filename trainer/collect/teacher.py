"""A teacher or judge, behind an OpenAI-compatible endpoint or of this machine: asked at a pace, again after
faults, never twice for the same, and not beyond what may be spent."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from evlm.errors import AnswerError, Cancelled, ConfigError, EndpointError, RecordError, UnreachableError
from evlm.reason.messages import Chat
from evlm.reason.openai_form import Encoded, Messages, openai_messages
from evlm.reason.reasoner import Sampling
from evlm.reason.remote import Completion, RemoteReasoner

from .answers import Answers, Kept
from .batch import Batches, Waiting
from .local import LocalTeacher
from .pace import Pace
from .services import Judge, Service
from .stages import key_of_texts
from .web import passing

_REFUSES = (400, 413, 422)  # what may speak of one question alone
_REFUSALS = 8  # in a row
_LONGEST = 60.0  # seconds of one pause
_PICTURES = 64 << 20  # characters of pictures that are kept for the next questions about them
_PATIENCE = 300.0  # seconds that a server may ask for; more is for people to wait


class Refused(Exception):
    """This one question has no answer; says why. Others may have one."""


class Sending:
    """Sends what has no answer yet. complete: asks one question. called: the service's place in the recipe.
    Raises EndpointError, ConfigError."""

    def __init__(
        self, service: Service, answers: Answers, complete: Callable[..., Completion], called: str
    ) -> None:
        self.service, self.answers, self.called = service, answers, called
        self._complete = complete
        self._stopped = threading.Event()
        self.pace = Pace(service.requests_a_minute, sleep=self._stopped.wait)
        self._lock = threading.Lock()
        sums = answers.sums()
        self._spent, self._count = float(sums["cost"]), int(sums["answers"])
        self._lost = float(sums["lost"])  # on what broke off, as far as anybody knows
        self._open = 0  # requests on their way
        self._gates: dict[str, threading.Lock] = {}  # of what is being asked
        self._in_a_row = 0  # refusals
        self._refused: list[tuple[str, str]] = []  # (key, why); whether it is of that question is open
        self._sure = 0  # refusals that are not in that list any more
        self._given_up: EndpointError | None = None

    @property
    def spent(self) -> float:
        """On answers, in all runs."""
        return self._spent

    def stop(self) -> None:
        """Nothing more is sent, and nobody waits to send; whoever is in `ask` gets Cancelled, unless its
        answer is on its way."""
        self._stopped.set()

    def once(self, key: str, *asked: Any, good: Callable[[Kept], bool] = lambda kept: True) -> Kept:
        """The answer to what `complete` takes, as it was kept where it was asked before and is `good`. Raises
        Refused, EndpointError, ConfigError."""
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:  # of two tasks that ask the same, one waits for the other's answer
            kept = self._known(key)
            if kept is None or not good(kept):
                kept = self._tried(key, *asked)
        with self._lock:
            self._gates.pop(key, None)
        return kept

    def _known(self, key: str) -> Kept | None:
        refused = self.answers.refusal(key)
        if refused is not None:
            raise Refused(refused)
        return self.answers.get(key)

    def _tried(self, key: str, *asked: Any) -> Kept:
        try:
            return self._send(key, *asked)
        except EndpointError as error:
            if self._refuses(key, error):
                raise Refused(str(error)) from None
            raise

    def _refuses(self, key: str, error: EndpointError) -> bool:
        """Whether an error speaks of this one question, and not of all: then it is dropped, and the next one
        asked; after several such errors in a row it is taken to speak of all. Then nothing more is sent."""
        with self._lock:
            one = isinstance(error, AnswerError) or error.status in _REFUSES
            if self._given_up is None and one and not error.broken:
                self._refused.append((key, str(error)))
                self._in_a_row += 1
                if self._in_a_row < _REFUSALS:
                    return True
            self._given_up = self._given_up or error
        self.stop()
        return False

    def _send(self, key: str, *asked: Any) -> Kept:
        for left in range(self.service.tries - 1, -1, -1):
            self.pace.wait(self._stopped.is_set)
            if self._given_up is not None:
                raise self._given_up
            if self._stopped.is_set():
                raise Cancelled
            before = self._reserve()
            try:
                number = self.answers.sending(key)
                try:
                    completion = self._complete(*asked)
                except EndpointError as error:
                    self._lose(number, str(error), self._estimate() if _charged(error) else 0.0)
                    if not left or not passing(error) or (error.after or 0) > _PATIENCE:
                        raise
                    pause = self._pause(error, self.service.tries - 1 - left)
                except RecordError as error:  # it came, and the disk did not take it
                    self._lose(number, str(error), self._estimate())
                    raise
                else:
                    generated, tokens = completion.generated, completion.prompt_tokens
                    kept = Kept(
                        generated.text, generated.finished, tokens, generated.tokens,
                        round(generated.seconds, 3), self._cost(tokens, generated.tokens),
                    )  # fmt: skip
                    try:
                        self.answers.put(number, key, kept)
                    except RecordError as error:
                        self._lose(number, str(error), kept.cost)
                        raise
                    with self._lock:
                        self._spent, self._count = self._spent + kept.cost, self._count + 1
                        self._in_a_row = 0
                        sure = self._refused[: max(0, before - self._sure)]
                        self._refused = self._refused[len(sure) :]
                        self._sure += len(sure)
                    self.answers.refuse(sure)  # for what was sent after them was answered
                    return kept
            finally:
                with self._lock:
                    self._open -= 1
            self._stopped.wait(pause)
        raise AssertionError("tries is at least 1")

    def _lose(self, number: int, said: str, cost: float) -> None:
        """Notes a request that gave nothing, and what it may have cost."""
        with self._lock:
            self._lost += cost
        with suppress(RecordError):  # the disk is full: whoever keeps an answer next says so
            self.answers.failed(number, said, cost)

    def _pause(self, error: EndpointError, times: int) -> float:
        """Full jitter: anything up to a limit that doubles; not before the server wants it."""
        if error.status == 429:
            self.pace.busy(error.after)
        most = min(_LONGEST, self.service.pause * 2**times)
        return min(_LONGEST, error.after or 0) + random.uniform(0, most)

    def _reserve(self) -> int:
        """One request more on its way, if what it may cost can still be spent; gives the number of refusals
        before it."""
        with self._lock:
            most = self.service.max_cost
            if most is not None and self._spent + self._lost + self._estimate() * (self._open + 1) > most:
                raise ConfigError(
                    f"{self.called}.max_cost {most:g}: {self._spent:.4g} is spent for {self._count:,} answers"
                    + (f" and perhaps {self._lost:.4g} for what broke off" if self._lost else "")
                    + ", and the next ones may cost more than is left; raise it and run the same command "
                    "again"
                )
            self._open += 1
            return self._sure + len(self._refused)

    def _cost(self, asked: int | None, written: int) -> float:
        cost = self.service.cost(asked, written)
        return self._estimate() if cost is None else cost

    def _estimate(self) -> float:
        """What an answer costs: as those before, else as one of full length."""
        if self._count and self._spent:
            return self._spent / self._count
        return self.service.cost(4 * self.service.max_tokens, self.service.max_tokens) or 0.0


class Asked(Sending):
    """What `teach` and `judging` ask through. key_hosts: where EVLM_API_KEY may go. batches: what was asked
    by files before: their answers are read, and what waits in one is not asked beside it."""

    def __init__(
        self,
        service: Service,
        answers: Answers,
        key_hosts: tuple[str, ...] = (),
        called: str = "teacher",
        batches: Batches | None = None,
    ) -> None:
        self.model: RemoteReasoner | LocalTeacher
        if service.local:
            self.model = LocalTeacher(service.local, traces=not isinstance(service, Judge))
        else:
            self.model = RemoteReasoner(
                service.endpoint,
                service.model,
                service.timeout,
                max_pixels=service.max_pixels,
                key_hosts=key_hosts,
            )
        super().__init__(service, answers, lambda *asked: self.model.complete(*asked), called)
        self.batches = batches
        self._pictures = Encoded(_PICTURES)
        if batches is not None:
            batches.read(answers, self._cost)
            sums = answers.sums()
            self._spent, self._count = float(sums["cost"]), int(sums["answers"])

    @property
    def tuned(self) -> bool:
        """Whether it was tuned on EVLM's questions, and takes neither hints nor corrections."""
        return isinstance(self.model, LocalTeacher) and self.model.tuned

    def ask(self, chat: Chat, sample: int) -> Kept:
        """The answer to a chat. Raises Refused, EndpointError, ConfigError."""
        key, sampling, messages = self._question(chat, sample)
        if self.batches is not None and key in self.batches.waiting and self._known(key) is None:
            raise ConfigError(
                f"{self.called}.batch: {self.batches.folder} has a file with this question that nobody has "
                "answered yet, and it would be paid for twice: set batch as it was until the answers are "
                "there, or delete the file"
            )
        return self.once(key, chat, sampling, messages)

    def _question(self, chat: Chat, sample: int) -> tuple[str, Sampling, Messages]:
        """(what its answer is kept by, how it is asked, what is sent)."""
        sampling = Sampling(self.service.max_tokens, self.service.temperature, self.service.top_p, sample)
        messages = openai_messages(chat, self.service.max_pixels, self._pictures)
        asked: list[Any] = [self.service.endpoint, self.service.model]
        if isinstance(self.model, LocalTeacher) and not self.model.traces:
            asked.append("free")  # what a judge said in a trace's form is no answer
        written = [json.dumps(each) for each in (*asked, [*vars(sampling).values()][:4])]
        return key_of_texts([*written[:-1], messages.text, written[-1]]), sampling, messages


class BatchAsked(Asked):
    """Sends nothing: what has no answer yet is written into `batches`, whose answers are read first. The cost
    of what waits counts as spent."""

    def __init__(self, service: Service, answers: Answers, batches: Batches, called: str = "teacher") -> None:
        super().__init__(service, answers, called=called, batches=batches)
        self.files = batches
        self._open = len(batches.waiting)

    def ask(self, chat: Chat, sample: int) -> Kept:
        """As `Asked.ask`. Raises Waiting, Refused, ConfigError, RecordError."""
        key, sampling, messages = self._question(chat, sample)
        kept = self._known(key)
        if kept is not None:
            return kept
        if key not in self.files.waiting:
            self._reserve()
            body = {"model": self.service.model, "messages": messages, "max_tokens": sampling.max_new_tokens,
                    "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sample}  # fmt: skip
            self.files.add(key, body)
        self.files.wanted.add(key)
        raise Waiting("it is in a batch that nobody has answered yet")


def _charged(error: EndpointError) -> bool:
    """Whether a question without an answer may have been worked on, and paid for."""
    began = error.broken and error.status is None and not isinstance(error, UnreachableError)
    return began or isinstance(error, AnswerError)


def corrected(chat: Chat, answer: str, reason: str, parts: str = "all four parts") -> Chat:
    """The same chat, in which the answer is refused with the parser's reason."""
    say = f"That cannot be read: {reason}. Write {parts} again, in exactly the form asked for."
    more = [
        {"role": "assistant", "content": [{"type": "text", "text": answer[:4000] or "(nothing)"}]},
        {"role": "user", "content": [{"type": "text", "text": say}]},
    ]
    return chat._replace(messages=[*chat.messages, *more])
