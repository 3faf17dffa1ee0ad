"""Stage 0 of studies whose arms answer in fewer parts: a base that knows every form.

The bundled reasoner never began an answer with `<output>` or `<think>`, and a LoRA leaves the embeddings of
their pieces as they are, so its arms of fewer parts write no tag right. Here all its weights learn a little
of every form, on rows in ordinary light: what the arms are compared on, the lamp, stays unseen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
ASKED = 100  # questions in each form and light, of the validation split
MOST = 0.01  # malformed, of any form in ordinary light
_PIECES = 4  # the first, and half as long ones until that is reached
_BATCH, _RATE = 12, 3e-3  # embeddings that were never learned have far to go


def needed(arms: Iterable[str]) -> bool:
    """Whether any of the arms answers in another form than the base."""
    return any("parts" in ARMS.get(arm, {}) for arm in arms)


def forms_base(recipe: Mapping[str, Any], steps: int, store: Path, lamp: float) -> list[Trial]:
    """The trials that make the base, each on the one before it, trained where they are not there yet; the
    last one's folder holds the base. steps: of all its weights in the first one."""
    pieces = [_piece(recipe, steps, store)]
    train(pieces[0])
    while len(pieces) < _PIECES and _worst(known_forms(pieces[-1], lamp)) > MOST:
        on = {**recipe, "model": {**recipe["model"], "base": str(model_of(pieces[-1])), "adapter": None}}
        pieces.append(_piece(on, max(1, steps // 2), store, len(pieces)))
        train(pieces[-1])
    return pieces


def _piece(recipe: Mapping[str, Any], steps: int, store: Path, number: int = 0) -> Trial:
    """number: of the piece, whose rows are others."""
    rate = _RATE / 2 if number else _RATE
    return Trial(
        {
            **{name: value for name, value in recipe.items() if name != "lora"},
            "model": {**recipe["model"], "train": "full"},
            "data": [{**recipe["data"][0], "lamp": 0.0, "rows": 0}],
            "phases": [{"kind": "sft", "steps": steps, "batch": _BATCH, "lr": rate, "warmup": 10}],
            "parts": "mixed",
            "seed": number,
            "log_every": 10,
            "save_every": 25,
        },
        str(store),
    )


def _worst(found: Mapping[str, Mapping[str, float]]) -> float:
    return max(each["malformed"] for each in found.values())


def model_of(trial: Trial) -> Path:
    """The folder that the arms take as their base."""
    return trial.folder / "model"


def known_forms(trial: Trial, lamp: float) -> dict[str, dict[str, float]]:
    """form -> what the base makes of validation questions in it: "malformed" and "exact" in ordinary light,
    "malformed, lamp" and "exact, lamp" under the arms' light. Kept beside it."""
    file = trial.folder / f"forms-{ASKED}-{lamp:g}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    base = model_of(trial)
    own = get_style(read_notes(resolve(str(base), "reasoner")).get("prompt", "full"))
    found: dict[str, Any] = {}
    for parts in LEARNED:
        answer, count, asked = load(str(base), style=tuned_on(own, parts).name)
        found[parts] = {}
        for light, name in ((0.0, ""), (lamp, ", lamp")):
            some = world_questions(ASKED, 0, "validation", light)
            values = summary(evaluate(answer, some, count, parts=asked))[0].values
            found[parts] |= {f"{metric}{name}": values[metric].mean for metric in ("malformed", "exact")}
    return write(file, found)


def page(pieces: Sequence[Trial], found: Mapping[str, Mapping[str, float]]) -> str:
    """The base's table, as Markdown."""
    steps = sum(trial.config.phases[0].steps for trial in pieces)
    names = ("malformed", "exact", "malformed, lamp", "exact, lamp")
    lines = [
        f"Stage 0, the base of all arms: {steps} steps of all weights on {_BATCH} ordinary rows each, in "
        f"every form; then {ASKED} validation questions in each form and light:",
        "",
        f"| form | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for form, values in found.items():
        lines.append(f"| {form} | {' | '.join(f'{values[name]:.3f}' for name in names)} |")
    if _worst(found) > MOST:
        lines += ["", f"The bar of {MOST:g} malformed in ordinary light is missed."]
    return "\n".join(lines) + "\n"
