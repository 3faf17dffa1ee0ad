"""Writes a trace with a model so that its form cannot be missed (`guide`).

Forced text, all its tokens together, costs one forward; the model's own tokens one each, as ever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .decoding import Chooser, Decoder, Words, log_probability
from .guide import Guide, Verdict


class Vocabulary:
    """A tokenizer's tokens as texts, one by one.

    size: of the logits, which may be more than the tokens that there are. stops: what ends an answer.
    """

    def __init__(self, tokenizer: Any, size: int, stops: frozenset[int]) -> None:
        self.tokenizer, self.size, self.stops = tokenizer, size, stops
        self._special = frozenset(tokenizer.all_special_ids) - stops
        self._texts: dict[int, str | None] = {}
        self._within: dict[str, list[int]] = {}
        self._masks: dict[Hashable, Tensor] = {}
        self._forms: dict[str, list[int]] = {}

    def text(self, token: int) -> str | None:
        """None for a token that is no text: a mark of the chat, or beyond the tokenizer."""
        if token not in self._texts:
            known = token < len(self.tokenizer) and token not in self._special
            self._texts[token] = self.tokenizer.decode([token]) if known else None
        return self._texts[token]

    def judge(self, guide: Guide, token: int) -> Verdict:
        text = self.text(token)
        if text is None or (not text and token not in self.stops):
            return Verdict.NO
        return guide.judge(text, token in self.stops)

    def mask(self, guide: Guide) -> Tensor:
        """[size] bool, True where a token may be written now."""
        state = guide.state
        if state is not None and state in self._masks:
            return self._masks[state]
        fits = torch.zeros(self.size, dtype=torch.bool)
        alphabet = guide.alphabet
        tokens = range(self.size) if alphabet is None else self._spelled(alphabet)
        fits[[token for token in tokens if self.judge(guide, token) is not Verdict.NO]] = True
        if state is not None:
            self._masks[state] = fits
        return fits

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that the form writes."""
        if text not in self._forms:
            self._forms[text] = list(self.tokenizer.encode(text, add_special_tokens=False))
        return self._forms[text]

    def _spelled(self, alphabet: str) -> list[int]:
        """The tokens whose text begins with these characters, and the stops."""
        if alphabet not in self._within:
            first = frozenset(alphabet)
            self._within[alphabet] = [
                token
                for token in range(self.size)
                if token in self.stops or ((text := self.text(token)) and text[0] in first)
            ]
        return self._within[alphabet]


def write(
    decoder: Decoder,
    logits: Tensor,
    choose: Chooser,
    guide: Guide,
    vocabulary: Vocabulary,
    words: Words,
    lead: Sequence[int] = (),
) -> int:
    """Writes the text from behind `guide.opening` to its end. logits: of the first token. lead: tokens of the
    form that are written and not said yet. Gives the tokens written, the form's among them."""
    count = 0

    def fits(token: int) -> bool:
        return vocabulary.judge(guide, token) is not Verdict.NO

    def say(tokens: Iterable[tuple[int, Tensor | None]]) -> None:
        for token, log in tokens:
            words.add(token, log)

    def forms(tokens: Iterable[int]) -> list[tuple[int, Tensor | None]]:
        return [(token, None) for token in tokens]

    held = forms(lead)

    while True:
        token = choose.among(logits, fits, lambda: vocabulary.mask(guide))
        verdict = vocabulary.judge(guide, token)
        holds, written = guide.holds, [] if verdict is Verdict.END else [token]
        own = [(each, log_probability(logits, each)) for each in written]
        held += own if holds else []
        say([] if holds else own)
        step = guide.take("" if verdict is Verdict.END else vocabulary.text(token) or "", verdict)
        form, later = vocabulary.encode(step.form), vocabulary.encode(step.held)
        if step.says:
            say(held if step.instead is None else forms(vocabulary.encode(step.instead)))
            held = []
        say(forms(form))
        held += forms(later)
        count += len(written) + len(form) + len(later)
        if guide.done:
            return count
        if following := [*written, *form, *later]:
            logits = decoder.feed(following)
