"""GEdit-Bench: 606 edits of users, in English and Chinese (arXiv 2504.17761), judged by VIEScore.

DATA: the tables of stepfun-ai/GEdit-Bench (parquet, arrow, or jsonl with paths): task_type, key, instruction,
instruction_language, input_image. A model's pictures are OUT/MODEL/fullset/TASK/LANGUAGE/KEY.png.

Arithmetic (VIEScore, "tie"): semantics is the smaller of success and not-overedited, quality the smaller of
natural and free of artefacts, 0 to 10 each; an item's O is the root of their product; the figure is the
mean of the eleven groups' means; intersection: of the items that no editor refused (Intersection_exist).
as_published: its flag for Chinese is "zh" and the data's "cn", so asking
it for Chinese finds nothing: only English items are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evlm.errors import ConfigError

from ..collect.sources import tables
from ..evaluation.graded import Ask
from .base import Answers, Figure, Item, unpacked

LANGUAGES = ("en", "cn")
_SCALE = "Whole numbers from 0 (not at all) to 10 (wholly)."
_SEMANTIC = (
    "The first picture was edited as the instruction asks; the second is the result. success: does it "
    "show what was asked? not_overedited: is what was not asked as it was?"
)
_QUALITY = (
    "Judge this picture alone. natural: light, shadow, distance and sizes are as they would be. clean: no "
    "distortion, no blurred or broken things, no seams."
)


class GEdit:
    """The benchmark."""

    name = "gedit"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published

    def items(self, folder: Path, work: Path) -> list[Item]:
        found = []
        for file in tables.files(folder):
            for number, row in tables.rows(file):
                task, key, language = (row.get(n) for n in ("task_type", "key", "instruction_language"))
                if not all(isinstance(each, str) and each for each in (task, key, row.get("instruction"))):
                    raise ConfigError(f"{file}, row {number}: expected task_type, key and instruction")
                if language not in LANGUAGES:
                    raise ConfigError(f"{file}, row {number}: language {language!r:.20}: expected en or cn")
                if self.as_published and language != "en":
                    continue
                picture = unpacked(row.get("input_image"), file.parent, work)
                found.append(
                    Item(
                        f"{language}/{task}/{key}",
                        f"{task} {language}",
                        (picture,),
                        row["instruction"],
                        {
                            "task": task,
                            "language": language,
                            "key": key,
                            "intersection": row.get("Intersection_exist") in (True, 1, "True", "true"),
                        },
                    )
                )
        return found

    def place(self, model: str, item: Item) -> Path:
        more = item.more
        return Path(model) / "fullset" / more["task"] / more["language"] / f"{more['key']}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        words = (
            _SEMANTIC,
            f"Instruction: {item.prompt}",
            "Before:",
            item.originals[0],
            "After:",
            edited,
            _SCALE,
        )
        return {
            "semantic": Ask(words, ("success", "not_overedited"), 0, 10),
            "quality": Ask((_QUALITY, edited, _SCALE), ("natural", "clean"), 0, 10),
        }

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        nan = math.nan
        semantic = min(answers.get("success", nan), answers.get("not_overedited", nan), key=_nan_first)
        quality = min(answers.get("natural", nan), answers.get("clean", nan), key=_nan_first)
        found = {"semantic": semantic, "quality": quality, "overall": math.sqrt(semantic * quality)}
        shared = found.items() if item.more.get("intersection") else ()
        return {**found, **{f"{name} intersection": value for name, value in shared}}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        found = []
        for language in LANGUAGES:
            own = [item for item in items if item.more["language"] == language]
            strata = tuple(dict.fromkeys(item.stratum for item in own))
            if own:
                found += [
                    Figure(f"{title} {language}", value, strata, "strata")
                    for title, value in (("S", "semantic"), ("Q", "quality"), ("O", "overall"))
                ]
                if any(item.more.get("intersection") for item in own):
                    found += [
                        Figure(f"{title} {language} intersection", f"{value} intersection", strata, "strata")
                        for title, value in (("S", "semantic"), ("Q", "quality"), ("O", "overall"))
                    ]
                found += [Figure(f"O, {each}", "overall", (each,)) for each in strata]
        return found


def _nan_first(value: float) -> float:
    """nan is less than all, so that it is what remains."""
    return -math.inf if math.isnan(value) else value
