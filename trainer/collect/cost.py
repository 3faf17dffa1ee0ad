"""What teaching a plan will cost: by what answers have cost in this folder so far, else at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plan import Question
from .recipe import Recipe, Teacher

_WORDS = 1100  # tokens of the system text and of the words around the pictures
_PATCH = 28 * 28  # pixels that one token of a picture stands for, in Qwen-VL; others take fewer tokens


def cost_line(recipe: Recipe, questions: Sequence[Question]) -> str:
    """One line for `--dry-run`; "" where there is no teacher."""
    teacher = recipe.teacher
    if teacher is None:
        return ""
    count = len(questions) * teacher.samples
    done = ledger(Path(recipe.out))
    answered = int(done.get("answers") or 0)
    left = max(0, count - answered)
    line = f"teacher {teacher.model}: {count:,} answers, {teacher.samples} to a question"
    if answered:
        line += f"; {min(answered, count):,} are there"
    if teacher.prices is None:
        return line + "; no prices are said"
    each, how = _each(teacher, questions, recipe.frames, done)
    line += f"; {left:,} more cost {how} {left * each:.4g}"
    if done.get("cost"):
        line += f", beside {done['cost']:.4g} spent"
    if teacher.max_cost is not None and done.get("cost", 0) + left * each > teacher.max_cost:
        line += f"; max_cost {teacher.max_cost:g} may stop it before"
    return line


def ledger(out: Path) -> dict[str, Any]:
    """What was sent and spent in a folder, {} where nothing was, or nobody can tell."""
    try:
        data = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _each(
    teacher: Teacher, questions: Sequence[Question], frames: int, done: dict[str, Any]
) -> tuple[float, str]:
    """(of one answer, "about" or "at most")."""
    if done.get("answers") and done.get("cost"):
        return done["cost"] / done["answers"], "about"
    pictures = sum(_pictures(question, teacher, frames) for question in questions)
    asked = _WORDS + pictures / max(1, len(questions)) * teacher.max_pixels / _PATCH
    return teacher.cost(round(asked), teacher.max_tokens) or 0.0, "at most"


def _pictures(question: Question, teacher: Teacher, frames: int) -> int:
    """How many it is asked with."""
    shown = [question.item.original, *question.references]
    hinted = teacher.hint in ("edited", "both") and question.item.edited is not None
    return hinted + sum(frames if media.kind == "video" else 1 for media in shown)
