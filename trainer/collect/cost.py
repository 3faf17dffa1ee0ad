"""What teaching a plan will cost: by what answers have cost in this folder so far, else at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .plan import Question
from .recipe import Recipe
from .services import Judge, Service

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
    shown = teacher.hint in ("edited", "both")
    hinted = sum(shown and question.item.edited is not None for question in questions)
    each, how = _each(teacher, questions, recipe.frames, done, hinted)
    line += f"; {left:,} more cost {how} {left * each:.4g}"
    if done.get("cost"):
        line += f", beside {done['cost']:.4g} spent"
    if teacher.max_cost is not None and done.get("cost", 0) + left * each > teacher.max_cost:
        line += f"; max_cost {teacher.max_cost:g} may stop it before"
    return line


def judge_line(recipe: Recipe, judge: Judge, questions: Sequence[Question], title: str = "") -> str:
    """title: in the ledger. Of a judge, which is asked about every answer that the filters let pass."""
    count = len(questions) * (recipe.teacher.samples if recipe.teacher is not None else 1)
    line = f"judge {judge.name}: at most {count:,} answers"
    if judge.script or judge.prices is None:
        return line
    done = (ledger(Path(recipe.out)).get("judges") or {}).get(title or judge.name) or {}
    hinted = sum(question.item.edited is not None for question in questions)
    each, how = _each(judge, questions, recipe.frames, done, hinted)
    line += f", which cost {how} {count * each:.4g}"
    if judge.max_cost is not None and count * each > judge.max_cost:
        line += f"; max_cost {judge.max_cost:g} may stop it before"
    return line


def maker_line(recipe: Recipe, questions: Sequence[Question]) -> str:
    """Of the pictures that are to be drawn; "" where none is."""
    maker = recipe.maker
    shown = [media for q in questions for media in (q.item.original, q.item.edited, *q.references)]
    orders = [media.order for media in shown if media is not None and media.order is not None]
    count = len({(order.prompt, order.original) for order in orders})
    if maker is None or not count:
        return ""
    line = f"maker {maker.name}: {count:,} pictures to draw"
    if maker.prices is None:
        return line
    done = ledger(Path(recipe.out)).get("maker") or {}
    each = done["cost"] / done["answers"] if done.get("answers") else maker.cost(0, 0) or 0.0
    return (
        line
        + f", at {each:.4g} each {count * each:.4g}"
        + (f"; {min(count, int(done['answers'])):,} are there" if done.get("answers") else "")
    )


def ledger(out: Path) -> dict[str, Any]:
    """What was sent and spent in a folder, {} where nothing was, or nobody can tell."""
    try:
        data = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _each(
    service: Service, questions: Sequence[Question], frames: int, done: dict[str, Any], edited: int
) -> tuple[float, str]:
    """(of one answer, "about" or "at most"). edited: how many questions show such a picture, too."""
    if done.get("answers") and done.get("cost"):
        return done["cost"] / done["answers"], "about"
    pictures = edited + sum(_pictures(question, frames) for question in questions)
    asked = _WORDS + pictures / max(1, len(questions)) * service.max_pixels / _PATCH
    return service.cost(round(asked), service.max_tokens) or 0.0, "at most"


def _pictures(question: Question, frames: int) -> int:
    """How many it is asked with."""
    shown = [question.item.original, *question.references]
    return sum(frames if media.kind == "video" else 1 for media in shown)
