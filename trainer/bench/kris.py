"""KRIS-Bench: edits that need knowledge (arXiv 2505.16707).

DATA/CATEGORY/annotation.json, {ID: {ori_img (a name, or a list), gt_img, ins_en, explain_en}}, beside the
pictures; DATA may also hold them in KRIS_Bench/. A model's pictures are OUT/MODEL/CATEGORY/ID.png.

Arithmetic (metrics_*.py at 2114fec, added up as BAGEL's eval/gen/kris/summarize.py at 056b5fd does): every
number 1 to 5 becomes 25 (n - 1); a group's figure, and the overall one, is the mean of all its single numbers
and not of means. Knowledge is judged in the social, natural and logical groups alone. as_published: the
official script looks for "abnormality_correction", the folder is "anomaly_correction", so its special
question is never asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from evlm.errors import ConfigError

from ..evaluation.graded import Ask
from .base import Answers, Figure, Item, inside_of, read_json

GROUPS = {
    "attribute": ("color_change", "count_change", "part_completion", "size_adjustment", "anomaly_correction"),
    "spatial": ("position_movement", "viewpoint_change"),
    "temporal": ("temporal_prediction",),
    "social": ("humanities", "practical_knowledge"),
    "natural": ("biology", "chemistry", "geography", "mathematics", "medicine", "physics"),
    "logical": ("abstract_reasoning", "rule-based_reasoning"),
    "decomposition": ("multi-element_composition", "multi-instruction_execution"),
}
META = {
    "factual": ("attribute", "spatial", "temporal"),
    "conceptual": ("social", "natural"),
    "procedural": ("logical", "decomposition"),
}
_KNOWING = {name for group in ("social", "natural", "logical") for name in GROUPS[group]}
_SCALE = "1: not at all; 2: little; 3: in part; 4: nearly; 5: wholly."
_CONSISTENT = "Is what the instruction leaves alone as it was? Do not judge the edit itself."
_QUALITY = "Judge this picture alone: is it sharp, whole, natural and free of artefacts?"
_FOLLOWED = "Does the result show what the instruction asks for?"
_ANOMALY = "Something in the first picture cannot be so. Does the result show it as it ought to be?"
_KNOWN = "Does the result agree with what is known, as the explanation says?"


class Kris:
    """The benchmark."""

    name = "kris"

    def __init__(self, as_published: bool = False) -> None:
        self.as_published = as_published

    def items(self, folder: Path, work: Path) -> list[Item]:
        root = folder / "KRIS_Bench" if (folder / "KRIS_Bench").is_dir() else folder
        found = []
        for category in (name for names in GROUPS.values() for name in names):
            file = root / category / "annotation.json"
            if not file.is_file():
                continue
            data = read_json(file)
            if not isinstance(data, dict):
                raise ConfigError(f"{file}: expected a mapping of items")
            for name, each in sorted(data.items(), key=lambda item: (len(item[0]), item[0])):
                if not isinstance(each, dict):
                    raise ConfigError(f"{file}, item {name:.60}: expected a mapping")
                shown = each.get("ori_img")
                names = shown if isinstance(shown, list) else [shown]
                prompt = each.get("ins_en") or each.get("instruction")
                if not names or not isinstance(prompt, str):
                    raise ConfigError(f"{file}, item {name:.60}: expected ori_img and ins_en")
                truth = each.get("gt_img") if category == "viewpoint_change" else None
                found.append(
                    Item(
                        f"{category}/{name}",
                        category,
                        tuple(inside_of(root / category, one) for one in names),
                        prompt,
                        {
                            "explain": str(each.get("explain_en") or each.get("explain") or ""),
                            "truth": inside_of(root / category, truth) if truth else None,
                        },
                    )
                )
        if not found:
            raise ConfigError(f"{folder}: expected folders like color_change/annotation.json, as in KRIS")
        return found

    def place(self, model: str, item: Item) -> Path:
        return Path(model) / f"{item.id}.png"

    def asks(self, item: Item, edited: Path) -> dict[str, Ask]:
        said, before = f"Instruction: {item.prompt}", [*item.originals]
        shown: list[str | Path] = ["Before:", *before, "After:", edited]
        if item.stratum == "temporal_prediction":
            shown = ["Frames in order, the last one was made:", *before, edited]
        if item.more["truth"] is not None:
            shown += ["How it should look:", item.more["truth"]]
        followed = _FOLLOWED
        if item.stratum == "anomaly_correction" and not self.as_published:
            followed = _ANOMALY
        found = {
            "consistency": Ask((_CONSISTENT, said, *shown, _SCALE), ("consistency",)),
            "quality": Ask((_QUALITY, edited, _SCALE), ("quality",)),
        }
        if item.stratum in _KNOWING:
            words = (followed, _KNOWN, said, f"Explanation: {item.more['explain']}", *shown, _SCALE)
            found["instruction"] = Ask(words, ("instruction", "knowledge"))
        else:
            found["instruction"] = Ask((followed, said, *shown, _SCALE), ("instruction",))
        return found

    def score(self, item: Item, answers: Answers) -> dict[str, float]:
        numbers = {name: 25 * (value - 1) for name, value in answers.items()}
        if not numbers:
            return {"all": math.nan, "all count": 0.0}
        return {"all": math.fsum(numbers.values()), "all count": float(len(numbers)), **numbers}

    def figures(self, items: Sequence[Item]) -> list[Figure]:
        found = [Figure(name, "all", strata, "singles") for name, strata in GROUPS.items()]
        for name, groups in META.items():
            strata = tuple(each for group in groups for each in GROUPS[group])
            found.append(Figure(name, "all", strata, "singles"))
        there = {item.stratum for item in items}
        found = [each for each in found if there & set(each.strata)]
        found.append(Figure("overall", "all", (), "singles"))
        return found + [Figure(name, name) for name in ("consistency", "quality", "instruction", "knowledge")]
