"""The paper's five kinds of edit, and as many questions of each."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

from evlm.errors import ConfigError

from ..evaluation.questions import Question, dataset_questions, stratified, stratum, world_question

OF_EDIT = {
    "recolour": "color", "color": "color", "colour": "color",
    "restyle": "style", "weather": "style", "ground": "style", "style": "style",
    "retexture": "texture", "texture": "texture",
    "replace": "object replacement", "object replacement": "object replacement",
    "move": "layout", "add": "layout", "remove": "layout", "addition": "layout", "removal": "layout",
    "layout": "layout",
}  # fmt: skip
"""What an edit type counts as: the world's operations, and what the paper's data call theirs. Their
"transformation" is a new colour as well as a new thing, and counts as neither."""
STRATA = ("color", "style", "texture", "object replacement", "layout")


def world_strata(rows: int, seed: int, split: str, lamp: float) -> list[Question]:
    """As many questions of each stratum, the first ones of the world's endless sequence. Raises
    ConfigError."""
    left = dict(zip(STRATA, _shares(rows), strict=True))
    found: list[Question] = []
    for number in count():
        kind = OF_EDIT[stratum(split, seed, number)[0]]
        if left[kind]:
            left[kind] -= 1
            found.append(world_question(number, seed, split, lamp))
            if not any(left.values()):
                return found
    raise AssertionError("the world has no end")


def dataset_strata(folder: Path, rows: int, seed: int, split: str, balanced: bool) -> list[Question]:
    """As many questions of each stratum, drawn by the seed in the order of `questions.stratified`; balanced:
    False takes what there is of one that has fewer. Raises ConfigError, RecordError."""
    every = dataset_questions(folder, None, seed, split)
    kinds = [OF_EDIT.get(question.edit_type.lower().replace("-", " "), "") for question in every]
    counts, wanted = Counter(kinds), dict(zip(STRATA, _shares(rows), strict=True))
    if balanced and any(counts[kind] < number for kind, number in wanted.items()):
        there = ", ".join(f"{counts[kind]:,} {kind}" for kind in STRATA)
        raise ConfigError(
            f"{folder}: {there}, and {counts['']:,} of none of these; expected {rows:,} questions, as many "
            "of each: ask for fewer rows, or set questions.balanced to false"
        )
    order = stratified([(kind, every[at].category) for at, kind in enumerate(kinds)], seed)
    chosen = []
    for at in order:
        if wanted.get(kinds[at], 0):
            wanted[kinds[at]] -= 1
            chosen.append(every[at])
    return chosen


def _shares(rows: int) -> list[int]:
    """Of five strata, as even as can be."""
    if rows < len(STRATA):
        raise ConfigError(f"questions.rows {rows}: expected at least {len(STRATA)}, one of each stratum")
    return [rows // len(STRATA) + (at < rows % len(STRATA)) for at in range(len(STRATA))]
