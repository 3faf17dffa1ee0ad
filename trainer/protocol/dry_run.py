"""What a protocol would still ask, how long that takes and what it may cost; nothing is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..collect.services import Prices
from ..collect.stages import Stage
from ..evaluation.questions import Question
from .answers import Asked, answer_keys, answers, asked, outcome
from .recipe import Protocol
from .verdicts import FILE, cases, panel, planted

RATE = 20  # answers from which a rate is taken
_WORDS = 1100  # tokens of the words around the pictures
_PICTURES = 640  # tokens of the pictures of a question, about


def shown(protocol: Protocol, questions: Sequence[Question]) -> str:
    """A line a model and a judge. Raises EVLMError."""
    every = asked(questions)
    lines = [f"{len(every):,} questions, {len(protocol.models)} models, {len(protocol.judges)} judges"]
    ready = True
    for model in protocol.models:
        file = protocol.folder / "answers" / f"{model.file}.jsonl"
        stage, keys = Stage(file), answer_keys(model, every)
        left = sum(key not in stage for key in keys)
        ready &= not left
        seconds = [stage[key]["seconds"] for key in keys if key in stage]
        line = f"{model.name}: {left:,} answers to come, {len(keys) - left:,} are there"
        if left and len(seconds) >= RATE:
            workers = model.workers if model.endpoint else 1
            line += f"; about {left * sum(seconds) / len(seconds) / workers / 3600:.2g} hours"
        elif left:
            line += f"; how long that takes is known from {RATE} answers on"
        if model.endpoint:
            line += _price(model.prices, left, model.tokens)
        lines.append(line)
    if protocol.judges:
        lines += _judges(protocol, every, ready)
    if protocol.humans is not None:
        lines.append(f"people: at most {len(every) * len(protocol.models) * protocol.humans.wanted:,} votes, "
                     f"in {protocol.rated}")  # fmt: skip
    return "\n".join(lines)


def _judges(protocol: Protocol, every: Sequence[Asked], ready: bool) -> list[str]:
    questions = [each.question for each in every]
    known = planted(questions, protocol.planted, protocol.seed)
    if not ready:
        most = (len(every) * len(protocol.models) + len(known)) * len(protocol.modes)
        return [f"{each.title}: at most {most:,} verdicts" + _price(each.prices, most, 4)
                for each in protocol.judges]  # fmt: skip
    rows = {}
    for model in protocol.models:
        file = protocol.folder / "answers" / f"{model.file}.jsonl"
        given = answers(model, every, file, lambda count: None)
        rows[model.name] = [outcome(one.question, each) for one, each in zip(every, given, strict=True)]
    wanted = [case for mode in protocol.modes for case in cases(rows, questions, mode)]
    left = [sum(not each.reached for each in row) for row in panel(protocol).kept(wanted)]
    used = _tokens(protocol.folder / FILE)
    return [f"{each.title}: {count:,} verdicts to come, {len(wanted) - count:,} are there, beside "
            f"{len(known) * len(protocol.modes):,} planted ones" + _price(each.prices, count, 4, used)
            for each, count in zip(protocol.judges, left, strict=True)]  # fmt: skip


def _price(prices: Prices, count: int, tokens: int, asked: float | None = None) -> str:
    """What so many answers cost at the prices that were said; "" where none were."""
    if not (prices.input or prices.output):
        return ""
    each = (asked or _WORDS + _PICTURES) * prices.input / 1e6 + tokens * prices.output / 1e6
    return f"; {'about' if asked else 'a guess:'} {count * each:.3g}"


def _tokens(file: Path) -> float | None:
    """Mean of the tokens that judges were asked with, as their servers count them."""
    found = []
    try:
        for line in file.read_bytes().splitlines():
            try:
                number = json.loads(line).get("asked")
            except (ValueError, AttributeError):
                continue
            if type(number) is int:
                found.append(number)
    except OSError:
        return None
    return sum(found) / len(found) if found else None
