"""The first stage: what each model answers. Kept by the hash of the model and of all that it was asked."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from evlm.errors import EndpointError, TraceError
from evlm.plan.native_boxes import in_our_form
from evlm.reason.reasoner import Generated, Sampling

from ..collect.stages import Stage, key_of
from ..evaluation.accuracy import Outcome, judge
from ..evaluation.model_marks import marks
from ..evaluation.questions import Question
from .recipe import Model

TOGETHER = 32  # questions of a batch, which is answered whole: a killed run's answers are then the same
REFUSED = (400, 413, 415, 422)  # a server's words about the question itself: it will never answer it
FAILURES = 5  # questions in a row without an answer; then an endpoint is given up


class Asked(NamedTuple):
    """A question, the hash of all that is in it, right answer and pictures included, and the number of its
    references."""

    question: Question
    key: str
    references: int


def asked(questions: Sequence[Question]) -> list[Asked]:
    """With their keys, which takes opening each one's pictures."""
    return [Asked(question, *_question_key(question)) for question in questions]


def answer_keys(model: Model, questions: Sequence[Asked]) -> list[str]:
    """What the answers of a model are kept under. Raises ModelError where it is not there."""
    asking = [_fingerprint(model), model.style, model.tokens, 0.0]
    if model.endpoint:
        return [key_of(*asking, each.key) for each in questions]
    keys = []
    for at in range(0, len(questions), TOGETHER):  # floats of a batch depend on what else is in it
        some = [each.key for each in questions[at : at + TOGETHER]]
        keys += [key_of(*asking, some, each) for each in some]
    return keys


def answers(
    model: Model, questions: Sequence[Asked], file: Path, report: Callable[[int], object]
) -> list[dict[str, Any]]:
    """One answer a question, greedy, from the file where it was given before: {text, tokens, seconds,
    strict, parts}; "refused" and no text where an endpoint refuses the question for good. report: told how
    many more there are. Raises EVLMError; what was answered is kept."""
    stage, keys = Stage(file), answer_keys(model, questions)
    missing = [at for at, key in enumerate(keys) if key not in stage]
    report(len(keys) - len(missing))
    if missing and model.endpoint:
        _ask_endpoint(model, questions, keys, missing, stage, report)
    elif missing:
        _ask_here(model, questions, keys, missing, stage, report)
    return [stage[key] for key in keys]


def outcome(question: Question, answer: dict[str, Any]) -> Outcome:
    """What it is worth. A model that was tuned on the form must keep it; another's near misses are mended,
    as the nodes do."""
    return judge(question, answer["text"], answer["tokens"], not answer["strict"], answer["parts"])


# --- parts ---


def _ask_here(
    model: Model, questions: Sequence[Asked], keys: Sequence[str], missing: Sequence[int], stage: Stage,
    report: Callable[[int], object],
) -> None:  # fmt: skip
    from ..evaluation.accuracy import load_styled

    asked = load_styled(model.base, model.adapter or None, model.style, model.tokens)
    for at in sorted({number - number % TOGETHER for number in missing}):
        numbers = range(at, min(at + TOGETHER, len(questions)))
        start = time.perf_counter()
        texts = asked.answer([questions[number].question.request() for number in numbers])
        seconds = round((time.perf_counter() - start) / len(numbers), 3)
        new = [(number, text) for number, text in zip(numbers, texts, strict=True) if number in set(missing)]
        stage.add([
            (keys[number], {"id": questions[number].question.id, "text": text, "tokens": asked.tokens(text),
                            "seconds": seconds, "strict": asked.tuned, "parts": list(asked.parts)})
            for number, text in new
        ])  # fmt: skip
        report(len(new))


def _ask_endpoint(
    model: Model, questions: Sequence[Asked], keys: Sequence[str], missing: Sequence[int], stage: Stage,
    report: Callable[[int], object],
) -> None:  # fmt: skip
    """Each answer is on the disk before its worker asks another one."""
    from evlm.reason.messages import chosen_style
    from evlm.reason.remote import HOSTS_VARIABLE, RemoteReasoner

    hosts = os.environ.get(HOSTS_VARIABLE, "").split(",")
    remote = RemoteReasoner(model.endpoint, model.model, model.timeout, key_hosts=hosts, trust=model.trust)
    sampling = Sampling(model.tokens, 0.0, style=model.style)
    style = chosen_style(remote.style, model.style)
    lock, failed = threading.Lock(), 0
    last: EndpointError | None = None
    refused: list[int] = []

    def one(at: int) -> None:
        nonlocal failed, last
        if failed >= FAILURES:
            return
        try:
            generated = _tried(model, lambda: remote.generate(questions[at].question.request(), sampling))
        except EndpointError as error:
            with lock:
                failed, last = failed + 1, error
                if error.status in REFUSED:
                    refused.append(at)
            return
        text = generated.text
        if not (style.boxes.pixels and generated.seen is None):  # else the schema held it to our numbers
            with suppress(TraceError):  # which makes it malformed
                text = in_our_form(text, style.boxes, generated.seen)
        with lock:
            failed = 0 if failed < FAILURES else failed
            stage.add([(keys[at], {
                "id": questions[at].question.id, "text": text, "tokens": generated.tokens,
                "seconds": round(generated.seconds, 3), "strict": model.trust == "tuned",
                "parts": list(style.parts),
            })])  # fmt: skip
            report(1)

    first: dict[str, int] = {}
    for at in missing:  # a question that is there twice is asked once
        first.setdefault(keys[at], at)
    with ThreadPoolExecutor(model.workers) as pool:
        coming = [pool.submit(one, at) for at in first.values()]
        try:
            for each in coming:
                each.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if failed < FAILURES and len(refused) < len(first):  # held for this run alone: the next one asks again
        stage.add([(keys[at], {
            "id": questions[at].question.id, "text": "", "tokens": 0, "seconds": 0.0, "strict": True,
            "parts": list(style.parts), "refused": True, "passing": True,
        }) for at in refused])  # fmt: skip
    left = sum(key not in stage for key in keys)
    if left:
        raise EndpointError(
            f"{model.name} left {left:,} questions without an answer ({last}); what was answered is kept in "
            f"{stage.file}: run the same command again"
        )


def _tried(model: Model, ask: Callable[[], Generated]) -> Generated:
    for left in range(model.tries - 1, -1, -1):
        try:
            return ask()
        except EndpointError:
            if not left:
                raise
            time.sleep(model.pause * 2 ** (model.tries - 1 - left))
    raise AssertionError("tries is at least 1")


def _fingerprint(model: Model) -> Any:
    """What tells that it is another model: of one here the bytes of its folder and of its adapter; of an
    endpoint's its name there."""
    if model.endpoint:
        return [model.endpoint, model.model, model.trust]
    from evlm.models.zoo import resolve

    places = [Path(resolve(model.base, "reasoner")), *([Path(model.adapter)] if model.adapter else [])]
    return [marks(place) for place in places]


def _question_key(question: Question) -> tuple[str, int]:
    request, digest = question.request(), hashlib.sha256()
    mask = question.mask()
    for frames in (request.original, *(each.frames for each in request.references), mask):
        if isinstance(frames, Tensor):
            array = frames.detach().cpu().contiguous().numpy()
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(array.tobytes())
    references = [[each.kind, each.text, each.note, each.fps] for each in request.references]
    right = [question.instruction, list(question.targets), question.edit_type, question.category]
    key = key_of(question.id, request.prompt, request.fps, references, right, digest.hexdigest())
    return key, len(references)
