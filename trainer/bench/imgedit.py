"""ImgEdit's basic suite: nine kinds of edits of one turn (arXiv 2505.20275).

DATA/singleturn/singleturn.json (or basic_edit.json, or singleturn.json in DATA itself), {KEY: {id, prompt,
edit_type}}, beside the pictures; a model's pictures are OUT/MODEL/KEY.png.

Arithmetic (step1_get_avgscore.py, step2_typescore.py at c14480a): the mean of three numbers 1 to 5, then
the mean of each type. Their questions say that the second and third number may not be above the first; the
script does not hold judges to it: as_published, an item's mean is rounded to two places and nothing is
lowered, and what is missing is left out of the mean; else the numbers are lowered, nothing is rounded, and an
item without all three has none. Overall by items, and by types.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evlm.errors import ConfigError

from ..evaluation.graded import Ask
from .base import Answers, Figure, Item, inside_of, read_json

FILES = ("singleturn/singleturn.json", "singleturn.json", "basic_edit.json")
ASPECTS = {
    "replace": ("right_thing_right_place", "fits_in", "rest_kept"),
    "add": ("as_asked", "fits_in", "rest_kept"),
    "adjust": ("as_asked", "looks_real", "rest_kept"),
    "remove": ("all_of_it_gone", "hole_filled", "rest_kept"),
    "style": ("style_as_asked", "content_kept", "looks_good"),
    "action": ("action_as_asked", "same_one", "looks_real"),
    "extract": ("right_thing", "cut_out_cleanly", "nothing_else"),
    "background": ("as_asked", "fits_together", "thing_kept"),
    "compose": ("all_as_asked", "fits_together", "rest_kept"),
}
_SCALE = (
    "Give each a whole number: 1: not at all; 2: little; 3: in part; 4: nearly; 5: wholly. The second and "
    "the third may not be above the first."
)


class ImgEdit:
    """The benchmark."""

    name = "imgedit"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published

    def items(self, folder: Path, work: Path) -> list[Item]:
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise ConfigError(f"{folder}: expected {' or '.join(FILES)}, as ImgEdit has it")
        data = read_json(file)
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: expected a mapping of items")
        found = []
        for key, each in data.items():
            kind = each.get("edit_type") if isinstance(each, dict) else None
            if kind not in ASPECTS or not isinstance(each.get("prompt"), str):
                raise ConfigError(
                    f"{file}, item {key:.60}: expected a prompt and an edit_type, one of {', '.join(ASPECTS)}"
                )
            found.append(Item(str(key), kind, (inside_of(file.parent, each.get("id")),), each["prompt"]))
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        names = ASPECTS[item.stratum]
        words = (
            "The first picture was edited as this instruction asks; the second is the result.",
            f"Instruction: {item.prompt}",
            "Before:",
            item.originals[0],
            "After:",
            edited,
            _SCALE,
        )
        return {"all": Ask(words, names)}

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        names = ASPECTS[item.stratum]
        given = [answers[name] for name in names if name in answers]
        if not given or (len(given) < len(names) and not self.as_published):
            return {"score": math.nan}
        first, *others = given
        if self.as_published:
            return {"score": round(sum(given) / len(given), 2)}
        return {"score": math.fsum((first, *(min(first, each) for each in others))) / len(names)}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        there = [kind for kind in ASPECTS if any(item.stratum == kind for item in items)]
        return [
            *(Figure(kind, "score", (kind,)) for kind in there),
            Figure("by items", "score"),
            Figure("by types", "score", how="strata"),
        ]
