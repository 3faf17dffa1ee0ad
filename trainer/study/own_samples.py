"""Rows that nobody wrote: a model's own answers to prompts of the world, rated by three who err."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evlm.errors import ConfigError
from evlm.plan.trace import Trace, parse
from evlm.records import RowWriter
from evlm.row_checks import field_problems

from ..estimators.rewards import right
from ..world.light import lit, under_lamp
from ..world.rows import Recipe, completion_row, pictures_of, question_at, to_request
from ..world.traces import plan_of, rate

NOTE = "made.json"
_TOGETHER = 32  # samples that grow at once


@dataclass(frozen=True)
class Wanted:
    """first, prompts: questions of the world's training split, from number `first`. samples: of each.
    measured: questions of the validation split, with their right answers, to be measured on. seed: of the
    world; chance: of samples and raters."""

    first: int
    prompts: int
    samples: int
    measured: int
    seed: int
    lamp: float
    chance: int


def make(folder: Path, base: str, adapter: Path, wanted: Wanted) -> dict[str, Any]:
    """Writes a dataset folder, whole or not at all, and returns what is in it: traces, the share that is
    right, the share of labels that are wrong, and answers that are no trace, which nobody could rate. One
    that is there is taken as it is. Raises ConfigError where it is of other wishes."""
    note = folder / NOTE
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["wanted"] != asdict(wanted):
            raise ConfigError(f"{folder} holds other samples; choose another --out, or delete it")
        return dict(known["found"])
    shutil.rmtree(folder, ignore_errors=True)
    found = {"traces": 0, "right": 0, "mislabelled": 0, "broken": 0}
    texts = _texts(base, adapter, wanted)
    recipe, writer = Recipe(wanted.seed, "train"), RowWriter(folder)
    for number in range(wanted.first, wanted.first + wanted.prompts):
        some = [(k, next(texts)) for k in range(wanted.samples)]
        writer.append_all(_rated(recipe, number, some, wanted, found))
    held = Recipe(wanted.seed, "validation")
    writer.append_all(_measured(held, number, wanted.lamp) for number in range(wanted.measured))
    note.write_text(json.dumps({"wanted": asdict(wanted), "found": found}), encoding="utf-8")
    return dict(found)


def _texts(base: str, adapter: Path, wanted: Wanted) -> Iterator[str]:
    """The model's samples, prompt after prompt."""
    from evlm.models.zoo import resolve
    from evlm.reason.backbone import load_backbone

    from ..evaluation.accuracy import as_learner
    from ..model.sampling import SampleConfig, answers

    learner = as_learner(load_backbone(resolve(base, "reasoner"), adapter))
    recipe, config = Recipe(wanted.seed, "train"), SampleConfig(1.0, 320)
    last, block = wanted.first + wanted.prompts, max(1, _TOGETHER // wanted.samples)
    for at in range(wanted.first, last, block):
        requests = [to_request(question_at(recipe, n)) for n in range(at, min(at + block, last))]
        asked = [learner.chat(lit(each, wanted.lamp)) for each in requests]
        chats = [chat for chat in asked for _ in range(wanted.samples)]
        yield from answers(learner, chats, config, (wanted.chance << 32) + at * wanted.samples)


def _rated(
    recipe: Recipe, number: int, texts: list[tuple[int, str]], wanted: Wanted, found: dict[str, int]
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    question = question_at(recipe, number)
    truth = plan_of(question.edit, question.frames, recipe.size)
    gold = completion_row(recipe, number, question)
    shown = _shown(recipe, number, wanted.lamp)
    for k, text in texts:
        trace = _trace(text)
        row = None if trace is None else _row(gold, trace, k)
        if row is None or field_problems(asdict(row)):
            found["broken"] += 1
            continue
        good = right(row.trace().plan, truth)
        label, votes = rate(random.Random(f"raters {wanted.chance} {row.id}"), good)
        found["traces"] += 1
        found["right"] += good
        found["mislabelled"] += label != good
        yield replace(row, label=label, raters=votes), shown


def _row(gold: Any, trace: Trace, k: int) -> Any:
    plan = trace.plan
    return replace(
        gold,
        id=f"{gold.question}-s{k}",
        source="model",
        thinking=trace.thinking,
        intermediate=trace.intermediate,
        reflection=trace.reflection,
        instruction=plan.instruction,
        targets=plan.targets,
        scope=plan.scope,
        mask_text=plan.mask_text,
        mask=None,
        edited=(),
        steps=(),
        meta={},
    )


def _measured(recipe: Recipe, number: int, lamp: float) -> tuple[Any, dict[str, Tensor]]:
    question = question_at(recipe, number)
    row = completion_row(recipe, number, question)
    mask = {row.mask: pictures_of(recipe, number, question)[row.mask]} if row.mask else {}
    return replace(row, label=True, raters=(), edited=()), {**_shown(recipe, number, lamp), **mask}


def _shown(recipe: Recipe, number: int, lamp: float) -> dict[str, Tensor]:
    """The pictures that the question shows, in the light that they are seen in."""
    question = question_at(recipe, number)
    row = completion_row(recipe, number, question)
    used = {*row.original, *(path for each in row.references for path in each.get("frames") or ())}
    pictures = pictures_of(recipe, number, question)
    return {path: under_lamp(pictures[path], lamp) for path in used}


def _trace(text: str) -> Trace | None:
    from evlm.errors import TraceError

    try:
        return parse(text, repair=False)
    except TraceError:
        return None
