"""Complex-Edit: instructions of one to eight steps (arXiv 2504.13143).

DATA: the tables of UCSC-VLAA/Complex-Edit (test_real, test_syn): image, and edit.compound[c - 1]
.compound_instruction for each complexity c, or jsonl with `image`, `compound` (a list of texts). A model's
pictures are OUT/MODEL/cC/NUMBER.png, in the data's order.

Arithmetic: instruction following, identity and quality, 0 to 10, each the mean of several answers (20
there, 5 here, their spread beside it); overall the mean of the three. as_published: its script writes
quality in place of overall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError

from ..collect.sources import tables
from ..evaluation.graded import Ask
from .base import Answers, Figure, Item, unpacked

SAMPLES = 5
NAMES = ("following", "identity", "quality")
_SCALE = "A whole number from 0 (not at all) to 10 (wholly)."
_WORDS = {
    "following": "Does the result show all that the instruction asks for, each of its steps?",
    "identity": "Is what the instruction leaves alone as it was?",
    "quality": "Judge the result alone: is it sharp, natural, free of artefacts?",
}


class ComplexEdit:
    """The benchmark. samples: how often each question is asked."""

    name = "complexedit"

    def __init__(self, as_published: bool = False, samples: int = SAMPLES) -> None:
        self.as_published, self.samples = as_published, samples

    def items(self, folder: Path, work: Path) -> list[Item]:
        found = []
        for file in tables.files(folder):
            for number, row in tables.rows(file):
                steps = _steps(row)
                if not steps:
                    raise ConfigError(f"{file}, row {number}: expected edit.compound, a list of instructions")
                picture = unpacked(row.get("image"), file.parent, work)
                for complexity, text in enumerate(steps, 1):
                    name = f"{tables.named(str(folder), file)}/{number:04d}"
                    found.append(Item(f"c{complexity}/{name}", f"c{complexity}", (picture,), text))
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        found = {}
        for name in NAMES:
            shown: tuple[str | Path, ...] = ("Before:", item.originals[0], "After:", edited)
            if name == "quality":
                shown = (edited,)
            words = (_WORDS[name], f"Instruction: {item.prompt}", *shown, _SCALE)
            for number in range(self.samples):
                found[f"{name} {number}"] = Ask(
                    words, (name,), 0, 10, repeat=number, sampled=self.samples > 1
                )
        return found

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        found = {}
        for name in NAMES:
            given = [answers[key] for n in range(self.samples) if (key := f"{name} {n}") in answers]
            found[name] = math.fsum(given) / len(given) if given else math.nan
            mean = found[name]
            found[f"{name} spread"] = math.sqrt(sum((x - mean) ** 2 for x in given) / max(1, len(given) - 1))
        overall = math.fsum(found[name] for name in NAMES) / len(NAMES)
        return {**found, "overall": found["quality"] if self.as_published else overall}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        strata = list(dict.fromkeys(item.stratum for item in items))
        return [
            *(Figure(name, name) for name in (*NAMES, "overall")),
            *(Figure(f"overall, {each}", "overall", (each,)) for each in strata),
            *(Figure(f"{name}: spread of answers", f"{name} spread") for name in NAMES),
        ]


def _steps(row: dict[str, Any]) -> list[str]:
    edit = row.get("edit")
    compound = row.get("compound", edit.get("compound") if isinstance(edit, dict) else None)
    if not isinstance(compound, list):
        return []
    texts = [each.get("compound_instruction") if isinstance(each, dict) else each for each in compound]
    return [each for each in texts if isinstance(each, str) and each.strip()] if all(texts) else []
