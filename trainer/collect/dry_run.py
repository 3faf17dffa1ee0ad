"""What `data make --dry-run` says: what the sources hold, what is planned, what is missing, what is to be
made for it."""

from __future__ import annotations

from collections import Counter

from .cost import cost_line, judge_line, maker_line
from .plan import Planned, by_category
from .quota import TYPES, categories, edit_types
from .recipe import Recipe
from .services import titles
from .similar import similar_line

NEEDS = {
    "image": "originals with a picture of the same stem in references/ or edited/",
    "image+text": "originals with a picture of the same stem in references/ or edited/",
    "video": "pictures, and clips to show beside them",
    "image->video": "clips as originals, and pictures in references/ or edited/",
    "video+text": "pictures, and clips to show beside them",
    "text": "pictures as originals",
}


def shown(recipe: Recipe, planned: Planned) -> str:
    """The plan as a table in words, one line a category and one an edit type."""
    lines = ["on the disk: " + ", ".join(f"{count:,} {name}" for name, count in planned.found.items())]
    lines += _by_paper(recipe, planned) if recipe.plan == "paper" else _as_asked(recipe, planned)
    limits = recipe.filters
    if limits.clip:
        lines.append(similar_line(limits.clip, limits.clip_lowest, planned.questions))
    cost = cost_line(recipe, planned.questions)
    judges = [
        judge_line(recipe, judge, planned.questions, title)
        for judge, title in zip(recipe.judges, titles(recipe.judges), strict=True)
    ]
    drawn = maker_line(recipe, planned.questions)
    return "\n".join([*lines, *filter(None, (drawn, cost)), *judges])


def _by_paper(recipe: Recipe, planned: Planned) -> list[str]:
    have, lack = by_category(planned.questions), Counter[str]()
    for (category, _), count in planned.missing.items():
        lack[category] += count
    lines = [f"{'category':<16}{'wanted':>8}{'planned':>9}{'missing':>9}"]
    for name, count in categories(recipe.rows).items():
        lines.append(f"{name:<16}{count:>8,}{have[name]:>9,}{lack[name]:>9,}")
    types = Counter(question.edit_type for question in planned.questions)
    lines.append(f"{'edit type':<16}{'wanted':>8}{'planned':>9}{'missing':>9}")
    wanted = edit_types(recipe.rows)
    for name in TYPES:
        lines.append(f"{name:<16}{wanted[name]:>8,}{types[name]:>9,}{wanted[name] - types[name]:>9,}")
    for name, count in lack.items():
        lines.append(f"{name}: {count:,} more need {NEEDS[name]} (each is used {recipe.reuse} x; reuse=)")
    total = sum(lack.values())
    lines.append(
        f"{len(planned.questions):,} of {recipe.rows:,} questions"
        + (f"; {total:,} are missing" if total else ", none is missing")
    )
    return lines


def _as_asked(recipe: Recipe, planned: Planned) -> list[str]:
    types = Counter(question.edit_type for question in planned.questions)
    lines = [f"{'category':<16}{'planned':>9}"]
    lines += [f"{name:<16}{count:>9,}" for name, count in by_category(planned.questions).most_common()]
    lines.append(f"{'edit type':<16}{'planned':>9}")
    lines += [f"{name:<16}{count:>9,}" for name, count in types.most_common()]
    there, taken = planned.found["questions of their own"], len(planned.questions)
    lines.append(
        f"{taken:,} of the {there:,} questions that somebody asked" + ("" if taken == there else " (rows=)")
    )
    return lines
