"""Measures the bundled reasoner on held-out compositions and scenes, through the engine's public path."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evlm.errors import TraceError
from evlm.plan.step_masks import plan_mask_iou
from evlm.plan.trace import Plan, parse

from ..world.conflicts import ask_conflict
from ..world.doubles import ask_double
from ..world.edits import OPERATIONS
from ..world.film_questions import FilmQuestion, ask_film
from ..world.questions import CATEGORIES, Question
from ..world.rows import to_request
from ..world.solid_questions import SolidQuestion
from ..world.vague import ask_vague
from ..world.whatif.rules import SCENARIOS
from .check_whatif import by_rule, what_if_sets, what_if_shares
from .parallel_map import parallel_map
from .reasoner import questions

FILMS = "clips in which things move"
PANELS = ("panels withheld", "panels shuffled")
KINDS = {"double": ask_double, "conflict": ask_conflict, "vague": ask_vague}
"""Kinds of questions with a line of their own in the table, each drawn as `questions` draws."""


@dataclass(frozen=True)
class Answer:
    """One question and the plan that came back; None where the text held no exact trace."""

    question: Question
    plan: Plan | None

    @property
    def right(self) -> bool:
        edit = self.question.edit
        return self.plan is not None and (self.plan.instruction, self.plan.targets) == (
            edit.instruction,
            edit.targets,
        )

    def mask_iou(self, size: int = 64) -> float | None:
        """IoU of the trace's mask with the true region; None for a whole-picture edit."""
        region = self.question.edit.region(size, self.question.frames)
        if region is None:
            return None
        return plan_mask_iou(self.plan, torch.from_numpy(region))


def check(
    folder: Path, rows: int = 1000, seed: int = 1, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Shares in 0..1 by name. `rows` questions in the world's own mix, and `rows // 10` more of each edit
    type; of each of KINDS and of clips `rows // 5`, of each rule of the what-ifs `rows // 20`."""
    sets: dict[str, list[Question]] = {"natural": questions("test", rows, seed)}
    for op in OPERATIONS:
        sets[op] = questions("test", rows // 10, seed + 1, op)
    sets |= {kind: of_kind(kind, rows // 5, seed) for kind in KINDS}
    causes = what_if_sets(max(1, rows // 20), seed)
    sets |= causes
    sets |= story_sets(causes, seed)
    decisive = [q for q in sets["natural"] if q.decisive]
    sets["withheld"] = [withhold(q) for q in decisive]
    sets["shuffled"] = shuffle(decisive, seed)
    films = [ask_film(random.Random(f"films test {seed} {i}"), "test") for i in range(rows // 5)]
    answers = ask_all(folder, {**sets, FILMS: films}, log)
    natural = answers["natural"]
    measured = {"exact": _share(natural)}
    for category in CATEGORIES:
        measured[f"exact, {category}"] = _share([a for a in natural if a.question.category == category])
    for op in OPERATIONS:
        measured[f"exact, {op}"] = _share([a for a in natural if a.question.edit.op == op] + answers[op])
    for kind in KINDS:
        measured[f"exact, {kind}"] = _share(answers[kind])
    measured |= what_if_shares({name: answers[name] for name in causes})
    measured[f"exact, {FILMS}"] = _share(answers[FILMS])
    for name, some in (("mask IoU", natural), (f"mask IoU, {FILMS}", answers[FILMS])):
        ious = [i for a in some if (i := a.mask_iou()) is not None]
        measured[name] = sum(ious) / len(ious)
    measured["malformed"] = sum(a.plan is None for a in natural) / len(natural)
    for name in ("withheld", "shuffled"):
        measured[f"reference {name}"] = _share(answers[name])
        measured[f"reference {name}, standard error"] = _error(answers[name])
    measured["chance"] = sum(1 / q.k for q in decisive) / len(decisive)
    return measured | story_shares(answers)


def story_sets(causes: Mapping[str, list[Question]], seed: int) -> dict[str, list[Question]]:
    """The stories among `what_if_sets`, without their earlier panels, and with another one's."""
    stories = [question for rule in SCENARIOS["story"] for question in causes[by_rule(rule)]]
    return {PANELS[0]: [withhold(each) for each in stories], PANELS[1]: shuffle(stories, seed)}


def story_shares(answers: Mapping[str, list[Answer]]) -> dict[str, float]:
    """Shares right of these, and how many standard errors of guessing that is above chance, which is 1/k."""
    found = {}
    for name in PANELS:
        some = answers[name]
        chance = sum(1 / each.question.k for each in some) / len(some)
        found[name] = _share(some)
        error = (chance * (1 - chance) / len(some)) ** 0.5
        found[f"{name} above chance"] = (_share(some) - chance) / error
    return found


def ask_all(
    folder: Path,
    sets: Mapping[str, Sequence[Question | FilmQuestion]],
    log: Callable[[str], None],
    jobs: int | None = None,
) -> dict[str, list[Answer]]:
    """The answers to sets of questions, by the name of the set; of clips to their first frame's."""
    asked = [question for each in sets.values() for question in each]
    plans = iter(
        parallel_map(
            partial(load_reasoner, folder), ask_one, asked, lambda text: log(f"reasoner: {text}"), jobs
        )
    )
    stills = {
        name: [q.still if isinstance(q, FilmQuestion) else q for q in each] for name, each in sets.items()
    }
    return {name: [Answer(q, next(plans)) for q in each] for name, each in stills.items()}


def of_kind(kind: str, rows: int, seed: int) -> list[Question]:
    """Questions of the test split of one of KINDS; row i depends on (kind, seed, i) alone."""
    return [KINDS[kind](random.Random(f"{kind} test {seed} {i}"), "test") for i in range(rows)]


def ask_one(reasoner: Any, question: Question | SolidQuestion | FilmQuestion) -> Plan | None:
    request = question.request() if isinstance(question, FilmQuestion) else to_request(question)
    try:
        return parse(reasoner.generate(request).text, repair=False).plan
    except TraceError:
        return None


def load_reasoner(folder: Path) -> Any:
    from evlm.reason.reasoner import Reasoner

    return Reasoner.load(folder, device="cpu")


def withhold(question: Question) -> Question:
    """The question without its pictures; where nothing is left to ask with, it says "like this" all the
    same."""
    refs = tuple(r for r in question.refs if not r.scenes)
    return replace(question, refs=refs, prompt=question.prompt or ("" if refs else "like this"))


def shuffle(asked: Sequence[Question], seed: int) -> list[Question]:
    """Each question with the pictures of another one of its category, its own words kept."""
    rng = random.Random(f"shuffle {seed}")
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        groups[question.category].append(question)
    mixed = []
    for question in asked:
        other = rng.choice([q for q in groups[question.category] if q is not question])
        words = tuple(r for r in question.refs if not r.scenes)
        mixed.append(replace(question, refs=(*(r for r in other.refs if r.scenes), *words)))
    return mixed


def _share(answers: Sequence[Answer]) -> float:
    return sum(a.right for a in answers) / len(answers)


def _error(answers: Sequence[Answer]) -> float:
    p = _share(answers)
    return (p * (1 - p) / len(answers)) ** 0.5
