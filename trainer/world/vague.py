"""Edits of the whole picture that are asked vaguely: "gloomy", or "like this" over a rainy street."""

from __future__ import annotations

import random

from .edits import GLOBAL
from .question import CATEGORIES, Question
from .questions import ask
from .scene import Split
from .word_questions import WORDS


def is_vague(question: Question) -> bool:
    """Whether the edit is of the whole picture and its value is never said: a picture shows it, or a word
    means it that is not its name."""
    edit = question.edit
    if edit.op not in GLOBAL:
        return False
    if any(ref.scenes for ref in question.refs):
        return True
    plain, *vague = WORDS[edit.op][edit.value]
    return question.prompt in vague and question.prompt != plain


def ask_vague(rng: random.Random, split: Split, category: str | None = None) -> Question:
    """A vague question of that split; operation and category are uniform, unless given."""
    category = category or rng.choice(CATEGORIES)
    while True:
        question = ask(rng, split, rng.choice(GLOBAL), category)
        if is_vague(question):
            return question
