"""Stage 0 of studies whose arms answer in fewer parts: a base that knows every form.

The bundled reasoner never began an answer with `<output>` or `<think>`, and a LoRA leaves the embeddings of
their pieces as they are, so its arms of fewer parts write no tag right. Here all its weights learn a little
of every form, on rows in ordinary light: what the arms are compared on, the lamp, stays unseen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evlm.models.loading import read_notes
from evlm.models.zoo import resolve
from evlm.plan.form import LEARNED
from evlm.reason.messages import get_style, tuned_on

from ..evaluation.accuracy import evaluate, load, summary
from ..evaluation.questions import world_questions
from .arms import ARMS
from .trials import Trial, train, write

STEPS = 150
ASKED = 200  # questions in each form, of the validation split
_BATCH, _RATE = 12, 3e-3  # embeddings that were never learned have far to go


def needed(arms: Iterable[str]) -> bool:
    """Whether any of the arms answers in another form than the base."""
    return any("parts" in ARMS.get(arm, {}) for arm in arms)


def forms_base(recipe: Mapping[str, Any], steps: int, store: Path) -> Trial:
    """The trial whose folder holds the base, trained where it is not there yet. steps: of all its weights."""
    first = {**recipe["data"][0], "lamp": 0.0, "rows": 0}
    trial = Trial(
        {
            **{name: value for name, value in recipe.items() if name != "lora"},
            "model": {**recipe["model"], "train": "full"},
            "data": [first],
            "phases": [{"kind": "sft", "steps": steps, "batch": _BATCH, "lr": _RATE, "warmup": 10}],
            "parts": "mixed",
            "seed": 0,
            "log_every": 10,
            "save_every": 25,
        },
        str(store),
    )
    train(trial)
    return trial


def model_of(trial: Trial) -> Path:
    """The folder that the arms take as their base."""
    return trial.folder / "model"


def known_forms(trial: Trial, lamp: float, questions: int = ASKED) -> dict[str, dict[str, float]]:
    """form -> what the base makes of validation questions in it: "malformed" and "exact" in ordinary light,
    "malformed, lamp" and "exact, lamp" under the arms' light. Kept beside it."""
    file = trial.folder / f"forms-{questions}-{lamp:g}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    base = model_of(trial)
    own = get_style(read_notes(resolve(str(base), "reasoner")).get("prompt", "full"))
    found: dict[str, Any] = {}
    for parts in LEARNED:
        answer, count, asked = load(str(base), style=tuned_on(own, parts).name)
        found[parts] = {}
        for light, name in ((0.0, ""), (lamp, ", lamp")):
            some = world_questions(questions, 0, "validation", light)
            values = summary(evaluate(answer, some, count, parts=asked))[0].values
            found[parts] |= {f"{metric}{name}": values[metric].mean for metric in ("malformed", "exact")}
    return write(file, found)


def page(found: Mapping[str, Mapping[str, float]], steps: int, questions: int) -> str:
    """The base's table, as Markdown."""
    names = ("malformed", "exact", "malformed, lamp", "exact, lamp")
    lines = [
        f"Stage 0, the base of all arms: {steps} steps of all weights on {_BATCH} ordinary rows each, in "
        f"every form; then {questions} validation questions in each form and light:",
        "",
        f"| form | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for form, values in found.items():
        lines.append(f"| {form} | {' | '.join(f'{values[name]:.3f}' for name in names)} |")
    return "\n".join(lines) + "\n"
