"""Judges that give numbers: how well a picture was edited, dimension by dimension.

    graders = Graders(Judge("http://127.0.0.1:8000/v1", "a-model"), Path("scores.jsonl"))
    scores = graders.scores(asks)       # {dimension: number} of each, None where no number came

A judge is shown words and pictures in the order of an `Ask` and answers with JSON, `{"dimension": number}`,
or lines of "dimension: number", the last ones of which count. What cannot be read is asked once more, then
has no score, and is counted; nothing is guessed. A first answer is greedy; several answers to one question,
and those to what is asked once more, are drawn, or they would be the same ones again. A question that the
server refuses has none, and is counted apart. Answers are kept as those of `judges` are.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import EndpointError
from evlm.files.pictures import load_picture
from evlm.reason.messages import Chat
from evlm.reason.reasoner import Sampling
from evlm.reason.remote import HOSTS_VARIABLE, RemoteReasoner, openai_messages

from .judges import FAILURES, Judge, Kept, ask_again, asked_key

_ROOM = Sampling(max_new_tokens=1024)
_FORM = (
    "Answer with one line of reasons, then with one line of JSON that has these whole numbers, and nothing "
    "after it: {form}"
)


@dataclass(frozen=True)
class Ask:
    """One question to a judge. content: words, and paths of pictures where they are shown. names: the
    dimensions wanted, each from low to high. side: pixels of a picture's longer side, 0 as it is. repeat: its
    number among several answers that are wanted to the same; sampled: whether they are."""

    content: tuple[str | Path, ...]
    names: tuple[str, ...]
    low: int = 1
    high: int = 5
    side: int = 0
    repeat: int = 0
    sampled: bool = False


class Graders:
    """One judge. Numbers as `judges.Panel` has them. Raises EndpointError, RecordError."""

    def __init__(
        self,
        judge: Judge,
        file: Path,
        workers: int = 4,
        tries: int = 3,
        pause: float = 2.0,
        timeout: float = 120.0,
    ) -> None:
        hosts = os.environ.get(HOSTS_VARIABLE, "").split(",")
        self.judge, self.kept = judge, Kept(file)
        self.remote = RemoteReasoner(judge.endpoint, judge.model, timeout, key_hosts=hosts)
        self.workers, self.tries, self.pause = workers, tries, pause
        self._failed, self._given_up = 0, False
        self._last: EndpointError | None = None
        self._lock = threading.Lock()

    def scores(
        self, asks: Sequence[Ask], report: Callable[[int], object] = lambda count: None
    ) -> list[dict[str, float] | None]:
        """Of each ask the number of each dimension, None where they could not be read, {} where no answer
        came. Raises EndpointError where none came to several in a row, or to any, and PictureError."""
        with ThreadPoolExecutor(self.workers) as pool:
            coming = [pool.submit(self._one, each) for each in asks]
            try:
                found = []
                for each in coming:
                    found.append(each.result())
                    report(1)
                if found and not any(each != {} for each in found):
                    raise self._silent()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return found

    def _one(self, ask: Ask) -> dict[str, float] | None:
        for again in range(2):
            drawn = 1.0 if ask.sampled or again else 0.0  # a server may take no seed: greedy is ever the same
            sampling = replace(_ROOM, seed=2 * ask.repeat + again, temperature=drawn)
            chat = grade_chat(ask)
            try:
                answer = self._answer(chat, sampling)
            except EndpointError as error:
                self._missed(error)
                return {}
            found = read_scores(answer, ask)
            if found is not None:
                return found
        return None

    def _answer(self, chat: Chat, sampling: Sampling) -> str:
        messages = openai_messages(chat, self.remote.max_pixels)
        drawn = {"seed": sampling.seed, "temperature": sampling.temperature}
        key = asked_key(self.judge, [*messages, drawn])
        known = self.kept.get(key)
        if known is not None:
            return known
        if self._given_up:
            raise self._silent()
        completion = ask_again(self.remote, chat, sampling, self.tries, self.pause)
        with self._lock:
            self._failed = 0
        answer = completion.generated.text
        self.kept.put(key, self.judge, answer, {
            "prompt": "graded-1", "served": completion.model, "temperature": sampling.temperature,
            "asked": completion.prompt_tokens, "tokens": completion.generated.tokens,
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        })  # fmt: skip
        return answer

    def _missed(self, error: EndpointError) -> None:
        """Counts a question without an answer. Raises EndpointError where there are too many in a row."""
        with self._lock:
            self._failed, self._last = self._failed + 1, self._last or error
            self._given_up |= self._failed >= FAILURES
        if self._given_up:
            raise self._silent()

    def _silent(self) -> EndpointError:
        count = FAILURES if self._given_up else self._failed
        return EndpointError(
            f"{self.judge.name} left {count} questions in a row without an answer ({self._last}); what "
            f"was answered is kept in {self.kept.file}"
        )


def read_scores(answer: str, ask: Ask) -> dict[str, float] | None:
    """The numbers of an answer's last JSON object that has all of them, else of its last lines "name: n";
    None where one is missing, is no whole number, or lies outside the scale."""
    answer = re.sub(r"\A\s*<think>.*?</think>", "", answer, count=1, flags=re.DOTALL)
    for text in reversed(re.findall(r"\{[^{}]{0,4000}\}", answer)):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict) and set(ask.names) <= data.keys():
            return _checked({name: data[name] for name in ask.names}, ask)
    found: dict[str, Any] = {}
    for name in ask.names:
        words = re.escape(name).replace("_", r"[\s_-]")
        lines = re.findall(rf"^\W*{words}\W*:\W*(-?[0-9]{{1,3}})\W*$", answer, re.I | re.M)
        if lines:
            found[name] = int(lines[-1])
    return _checked(found, ask) if len(found) == len(ask.names) else None


def grade_chat(ask: Ask) -> Chat:
    """What a judge is shown. Raises PictureError."""
    content: list[dict[str, Any]] = []
    images: list[Tensor] = []
    form = json.dumps(dict.fromkeys(ask.names, f"{ask.low} to {ask.high}"))
    for part in (*ask.content, _FORM.format(form=form)):
        if isinstance(part, Path):
            content.append({"type": "image"})
            images.append(_pixels(part, ask.side))
        else:
            content.append({"type": "text", "text": f"{re.sub(r'<(?=[|])', '< ', part)}\n"})
    return Chat([{"role": "user", "content": content}], images, [])


def _checked(values: dict[str, Any], ask: Ask) -> dict[str, float] | None:
    good = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        if value != int(value) or not ask.low <= value <= ask.high:
            return None
        good[name] = float(value)
    return good


def _pixels(path: Path, side: int) -> Tensor:
    """uint8 [3, H, W]."""
    frame = load_picture(path)[..., :3].movedim(-1, 1)  # [1, 3, H, W]
    longer = max(frame.shape[-2:])
    if side and longer > side:
        size = [max(1, round(each * side / longer)) for each in frame.shape[-2:]]
        frame = torch.nn.functional.interpolate(frame, size, mode="bilinear", antialias=True)
    return (frame[0].clamp(0, 1) * 255 + 0.5).byte()
