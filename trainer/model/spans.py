"""Which tokens of an answer belong to which part of its trace, for any tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evlm.reason.decoding import Words

_PARTS = {
    name: re.compile(rf"<{name}>\n?(.*?)\n?</{name}>", re.DOTALL) for name in ("intermediate", "reflection")
}
_MASK = re.compile(r"^mask:[ ]*(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Spans:
    """text: the answer without chat markers. intermediate, reflection, mask: numbers of the tokens that write
    them, in order, of a plan of several steps all its masks; empty where the answer lacks the part.
    after_reflection: the number of the token behind the reflection, which ends it; None where there is
    none."""

    text: str
    intermediate: tuple[int, ...]
    reflection: tuple[int, ...]
    mask: tuple[int, ...]
    after_reflection: int | None


def find_spans(tokenizer: Any, ids: Sequence[int]) -> Spans:
    """The parts of an answer's tokens. A token that lies across a border belongs to the part that it begins
    in or ends in; any text is accepted."""
    text, ends = _decoded(tokenizer, ids)
    starts = [0, *ends[:-1]]

    def inside(match: re.Match[str] | None) -> tuple[int, ...]:
        if match is None:
            return ()
        low, high = match.span(1)
        return tuple(n for n, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < high and b > low)

    reflection = inside(_PARTS["reflection"].search(text))
    after = reflection[-1] + 1 if reflection and reflection[-1] + 1 < len(ids) else None
    intermediate = inside(_PARTS["intermediate"].search(text))
    output = text.find("<output>")
    masks = [] if output < 0 else _MASK.finditer(text, output)
    mask = tuple(token for step in masks for token in inside(step))
    return Spans(text, intermediate, reflection, tuple(dict.fromkeys(mask)), after)


def token_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Where each token's text ends in the answer's text."""
    return _decoded(tokenizer, ids)[1]


def _decoded(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """(text, where each token's text ends in it); chat markers have none."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    silent = frozenset(number for word, number in named if word.startswith("<|"))
    pieces: list[str] = []
    words = Words(tokenizer, silent, pieces.append, every=0)
    ends, length = [], 0
    for token in ids:
        decoded_length = len(pieces)
        words.add(int(token))
        length += sum(map(len, pieces[decoded_length:]))
        ends.append(length)
    text = words.finish()
    if ends:
        ends[-1] = len(text)
    return text, ends
