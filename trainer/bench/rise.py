"""RISEBench: edits that need temporal, causal, spatial or logical reasoning (arXiv 2504.02826).

DATA/datav2_total_w_subtask.json (or data_total.json) beside {temporal,...}_reasoning_images/; a model's
pictures are OUT/MODEL/images/CATEGORY/INDEX.png, as its own script wants them.

Arithmetic (gpt_eval.py at 21d1871): of temporal, causal and spatial items .3 consistency + .5 reasoning +
.2 plausibility, without consistency .8 reasoning + .2 plausibility; of logical ones, whose answers are 0 or
1 and become 1 or 5, .3 consistency + .7 reasoning. Reasoning 1 halves it, to no less than 1. An item is
right where all of its dimensions are 5. as_published: an item that is judged without consistency is never
right there (until ce8cba3, 2026-04-13), nor is one whose judgement cannot be read; and as soon as one item is
marked as free of consistency, the others' missing mark is read as one: the score, not the accuracy, of all
but the logical items leaves consistency out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evlm.errors import ConfigError

from ..evaluation.graded import Ask
from .base import Answers, Figure, Item, inside_of, read_json

FILES = ("datav2_total_w_subtask.json", "data_total.json")
CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")
LOGICAL = "logical_reasoning"
SIDE = 768  # pixels of a picture that a judge sees
_CONSISTENT = (
    "The first picture was edited as this instruction asks. Judge only what the instruction leaves alone: is "
    "it as it was (things, places, style, light, background)? Do not judge whether the edit is right."
)
_REASONED = (
    "A picture was edited; this is the result. Judge whether it shows what follows from the instruction, as "
    "the reference says, whichever way it looks."
)
_PLAUSIBLE = "Judge this picture alone: is it sharp, whole, free of artefacts, and possible as a picture?"
_SCALE = "1: not at all; 2: little; 3: in part; 4: nearly; 5: wholly."
_LOGICAL_SCALE = "0: no; 1: yes."


class Rise:
    """The benchmark."""

    name = "rise"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published

    def items(self, folder: Path, work: Path) -> list[Item]:
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise ConfigError(f"{folder}: expected {' or '.join(FILES)}, as RISEBench has it")
        data = read_json(file)
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise ConfigError(f"{file}: expected a list of items")
        some_free = any(each.get("consistency_free") is not None for each in data)
        found = []
        for each in data:
            name, category = str(each.get("index")), each.get("category")
            if category not in CATEGORIES or not isinstance(each.get("instruction"), str):
                raise ConfigError(f"{file}, item {name:.60}: expected a category and an instruction")
            pictured = each.get("reference_img")
            found.append(
                Item(
                    name,
                    category,
                    (inside_of(folder, each.get("image")),),
                    each["instruction"],
                    {
                        "subtask": str(each.get("subtask") or ""),
                        "reference": str(each.get("reference") or each.get("reference_txt") or ""),
                        "reference_img": inside_of(folder, pictured) if pictured else None,
                        "free": bool(each.get("consistency_free")),
                        "some_free": some_free,
                    },
                )
            )
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / "images" / item.stratum / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        logical = item.stratum == LOGICAL
        scale, low, high = (_LOGICAL_SCALE, 0, 1) if logical else (_SCALE, 1, 5)
        said = f"Instruction: {item.prompt}"
        found = {}
        if not item.more["free"]:
            words = (_CONSISTENT, said, "Before:", item.originals[0], "After:", edited, scale)
            found["consistency"] = Ask(words, ("consistency",), low, high, SIDE)
        shown: tuple[str | Path, ...] = (f"Reference: {item.more['reference']}",)
        if item.more["reference_img"] is not None:
            shown = (*shown, "Reference picture:", item.more["reference_img"])
        shown = (_REASONED, said, *shown, "Result:", edited, scale)
        found["reasoning"] = Ask(shown, ("reasoning",), low, high, SIDE)
        if not logical:
            found["plausibility"] = Ask((_PLAUSIBLE, edited, _SCALE), ("plausibility",), 1, 5, SIDE)
        return found

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        nan = math.nan
        logical, free = item.stratum == LOGICAL, bool(item.more["free"])
        consistency = nan if free else answers.get("consistency", nan)
        reasoning, plausibility = answers.get("reasoning", nan), answers.get("plausibility", nan)
        if logical:
            consistency, reasoning = (
                4 * min(each, 1) + 1 if each == each else nan for each in (consistency, reasoning)
            )
            total, parts = 0.3 * consistency + 0.7 * reasoning, [consistency, reasoning]
        elif free or (self.as_published and item.more.get("some_free")):
            total, parts = 0.2 * plausibility + 0.8 * reasoning, [reasoning, plausibility]
            parts += [] if free else [consistency]
        else:
            total = 0.3 * consistency + 0.5 * reasoning + 0.2 * plausibility
            parts = [consistency, reasoning, plausibility]
        if math.isnan(total) or any(
            map(math.isnan, parts)
        ):  # a dimension without a number: none of the item's counts
            return {"score": nan, "right": 0.0 if self.as_published else nan}
        if reasoning == 1:
            total = max(1.0, total * 0.5)
        right = float(all(each == 5 for each in parts) and not (free and self.as_published))
        return {
            "score": total,
            "percent": 25 * (total - 1),
            "right": 100 * right,
            "consistency": consistency,
            "reasoning": reasoning,
            "plausibility": nan if logical else plausibility,
        }

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        there = [each for each in CATEGORIES if any(item.stratum == each for item in items)]
        return [
            *(Figure(each.partition("_")[0], "right", (each,), places=1, share=True) for each in there),
            Figure("accuracy", "right", places=1, share=True),
            Figure("score", "percent", places=1),
            *(Figure(name, name) for name in ("consistency", "reasoning", "plausibility")),
        ]
