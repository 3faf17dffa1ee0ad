"""Rows that nobody wrote: a model's own answers to prompts of the world, rated by three who err."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evlm.errors import ConfigError
from evlm.models.zoo import resolve
from evlm.plan.form import PARTS
from evlm.plan.trace import Trace, parse
from evlm.records import RowWriter, step_rows
from evlm.row_checks import field_problems

from ..estimators.rewards import right
from ..run.lock import LOCK, locked
from ..world.light import lit, under_lamp
from ..world.mix import Mix
from ..world.rows import Recipe, completion_row, pictures_of, question_at, to_request
from ..world.scene import Split
from ..world.traces import plan_of, rate
from .trials import weights_in, write

NOTE = "made.json"
WHOLE = "a model's own samples are rated as whole traces"
_TOGETHER = 32  # samples that grow at once


@dataclass(frozen=True)
class Wanted:
    """first, prompts: questions of the world's training split, from number `first`. samples: of each.
    measured: questions of the validation split, with their right answers, to be measured on. seed: of the
    world; chance: of samples and raters. mix: of the world's questions, as the recipe has it."""

    first: int
    prompts: int
    samples: int
    measured: int
    seed: int
    lamp: float
    chance: int
    mix: Mix = field(default_factory=Mix)

    def world(self, split: Split) -> Recipe:
        return Recipe(self.seed, split, mix=self.mix)


def name_of(base: str, adapter: Path, wanted: Wanted) -> str:
    """The samples' name: the same wherever the same model is asked the same."""
    whole = json.dumps(_asked(base, adapter, wanted), sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=10).hexdigest()


def make(folder: Path, base: str, adapter: Path, wanted: Wanted) -> dict[str, Any]:
    """Writes a dataset folder, whole or not at all, and returns what is in it: traces, the share that is
    right, the share of labels that are wrong, and answers that are no trace, which nobody could rate. One
    that is there is taken as it is. Raises ConfigError where it is of other wishes or of another model,
    TrainingError where another process makes it."""
    with locked(folder, "sampling"):
        return _made(folder, base, adapter, wanted)


def _made(folder: Path, base: str, adapter: Path, wanted: Wanted) -> dict[str, Any]:
    note, asked = folder / NOTE, _asked(base, adapter, wanted)
    known = _read(note)
    if known is not None:
        if known.get("asked") != asked:
            raise ConfigError(f"{folder} holds other samples; choose another folder, or delete it")
        return dict(known["found"])
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each.name != LOCK:
            each.unlink()
    found = {"traces": 0, "right": 0, "mislabelled": 0, "broken": 0}
    texts = _texts(base, adapter, wanted)
    recipe, writer = wanted.world("train"), RowWriter(folder)
    for number in range(wanted.first, wanted.first + wanted.prompts):
        some = [(k, next(texts)) for k in range(wanted.samples)]
        writer.append_all(_rated(recipe, number, some, wanted, found))
    held = wanted.world("validation")
    writer.append_all(_measured(held, number, wanted.lamp) for number in range(wanted.measured))
    write(note, {"asked": asked, "found": found})
    return dict(found)


def _asked(base: str, adapter: Path, wanted: Wanted) -> dict[str, Any]:
    """All that samples depend on."""
    weights = {"base": weights_in(resolve(base, "reasoner")), "adapter": weights_in(adapter)}
    return {**asdict(wanted), **weights}


def _read(note: Path) -> dict[str, Any] | None:
    """None where there is none that can be read."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) and isinstance(known.get("found"), dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def _texts(base: str, adapter: Path, wanted: Wanted) -> Iterator[str]:
    """The model's samples, prompt after prompt."""
    from evlm.reason.backbone import load_backbone

    from ..evaluation.accuracy import as_learner
    from ..model.sampling import SampleConfig, answers

    learner = as_learner(load_backbone(resolve(base, "reasoner"), adapter))
    if tuple(learner.style.parts) != PARTS:
        raise ConfigError(f"{base} answers in {', '.join(learner.style.parts)} alone: {WHOLE}")
    recipe, config = wanted.world("train"), SampleConfig(1.0, 320)
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
        said = [{"rater": f"simulated {at}", "yes": yes} for at, yes in enumerate(votes, 1)]
        yield replace(row, label=label, raters=votes, meta={"votes": said}), shown


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
        steps=step_rows(plan),
        meta={},
    )


def _measured(recipe: Recipe, number: int, lamp: float) -> tuple[Any, dict[str, Tensor]]:
    question = question_at(recipe, number)
    row = replace(completion_row(recipe, number, question), label=True, raters=(), edited=())
    pictures, shown = pictures_of(recipe, number, question), _shown(recipe, number, lamp)
    masks = {path: pictures[path] for path in row.paths() if path not in shown}
    return row, {**shown, **masks}


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
